"""Capture knows whether the batch may differ."""

from __future__ import annotations

import torch
from torch import nn

from penjing.graph.capture import capture


class Reshaped(nn.Module):
    """Takes one batch size alone."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def forward(self, x):
        return x.reshape(self.batch, 4) + 1


class Unlucky(nn.Module):
    """Runs at any batch size, but export fixes the one it sees."""

    def forward(self, x):
        return x * len(list(range(x.shape[0])))


def test_a_batch_that_forward_leaves_open_is_dynamic():
    assert capture(nn.Linear(4, 2), torch.ones(1, 4)).dynamic_batch


def test_a_batch_that_forward_fixes_is_not_dynamic():
    assert not capture(Reshaped(2), torch.ones(2, 4)).dynamic_batch


def test_a_batch_of_one_that_forward_fixes_is_captured():
    assert capture(Reshaped(1), torch.ones(1, 4)).run([torch.ones(1, 4)])[0].shape == (1, 4)


def test_a_batch_that_export_fixes_is_that_of_the_example():
    program = capture(Unlucky(), torch.ones(1, 4))
    assert program.run(list(program.example))[0].tolist() == [[1.0] * 4]

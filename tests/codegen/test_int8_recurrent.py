"""Recurrent layers in integers as C: the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.codegen.emulator import missing
from penjing.codegen.targets import CORTEX_M4
from penjing.quantization.lowering import integers
from penjing.quantization.reference import execute

X = torch.randn(16, 12, 5, generator=torch.Generator().manual_seed(0))
KINDS = (nn.GRU, nn.LSTM, nn.RNN)


class Last(nn.Module):
    """Two layers in both directions; a classifier on the last states and all of the others."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inside = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.outside = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.inside(x)
        return states, self.outside((last[0] if isinstance(last, tuple) else last)[-1])


def quantized(kind: type[nn.RNNBase]) -> pj.Quantized:
    return pj.quantize(Last(kind).eval(), X[:1], calibration=[X])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_compiled_for_this_machine_it_has_the_bits_of_the_reference(
    kind: type[nn.RNNBase],
) -> None:
    done = quantized(kind)
    net = integers(done.model.network)
    (name,) = net.inputs
    q = net.tensors[name].arrange(net.tensors[name].quantize(X.numpy()))
    wanted, found = execute(net, q), pj.compile(done.model, X[:1]).run(q)
    pairs = zip(net.outputs, found, strict=True)
    assert all(np.array_equal(wanted[name], value) for name, value in pairs)


@pytest.mark.skipif(bool(missing(CORTEX_M4)), reason=missing(CORTEX_M4) or "there")
def test_on_a_microcontroller_it_has_the_bits_of_the_reference() -> None:
    """Compared with a test vector in the emulator before it is returned."""
    program = pj.compile(quantized(nn.LSTM).model, X[:1], target="cortex-m4")
    assert program.check().equal

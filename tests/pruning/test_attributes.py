"""Integers that a forward reads follow a cut, so that the network keeps its own class."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.checkpoint import load, save
from penjing.graph.network import Network
from penjing.pruning.result import make
from penjing.verbs.prune import prune

WIDTH = 16


class Attention(nn.Module):
    """Heads from an attribute, head dims from a configuration that all blocks share."""

    def __init__(self, config, heads):
        super().__init__()
        self.config, self.heads = config, heads
        self.scale = config.head_dim**-0.5
        self.qkv = nn.Linear(WIDTH, 3 * heads * config.head_dim)
        self.out = nn.Linear(heads * config.head_dim, WIDTH)

    def forward(self, x):
        shape = (*x.shape[:-1], 3, self.heads, self.config.head_dim)
        q, k, v = self.qkv(x).view(shape).movedim(-2, 1).unbind(-2)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:-1], self.heads * self.config.head_dim))


class Checked(nn.Module):
    """A forward that compares a width with an attribute."""

    def __init__(self):
        super().__init__()
        self.inner, self.width = nn.Linear(WIDTH, WIDTH), WIDTH

    def forward(self, x):
        if x.shape[-1] != self.width:
            raise ValueError("wrong width")
        return self.inner(x)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        config = SimpleNamespace(head_dim=4)
        self.first = nn.Linear(5, WIDTH)
        self.blocks = nn.ModuleList([Attention(config, 4), Attention(config, 2)])
        self.checked = Checked()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.checked(x))


@pytest.fixture(scope="module")
def halved():
    torch.manual_seed(0)
    model = Blocks().eval()
    net = Network.of(model, torch.randn(2, 7, 5))
    drop = {g.name: range(g.units // 2) for g in net.groups if g.slices[0].tensor != "blocks.1"}
    return model, make(model, net.cut(net.plan(drop)))


def test_a_network_whose_attributes_say_its_sizes_keeps_its_class(halved):
    model, made = halved
    assert type(made.model) is type(model), made.proof.reason


def test_an_attribute_follows_the_axis_that_it_reaches(halved):
    assert [block.heads for block in halved[1].model.blocks] == [2, 1]


def test_a_shared_configuration_is_copied_for_the_module_that_reads_it(halved):
    model, made = halved
    held = [block.config for block in (*made.model.blocks, *model.blocks)]
    assert [config.head_dim for config in held] == [2, 2, 4, 4]


def test_an_attribute_follows_the_size_that_it_is_compared_with(halved):
    assert halved[1].model.checked.width == WIDTH // 2


def test_attributes_follow_a_cut_in_place_too():
    torch.manual_seed(0)
    model = Blocks().eval()
    prune(model, torch.randn(2, 7, 5), pruning_ratio=0.5, inplace=True)
    assert [block.heads for block in model.blocks] == [2, 1]


def test_a_saved_network_loads_into_its_class_with_its_attributes(tmp_path):
    torch.manual_seed(0)
    model, x = Blocks().eval(), torch.randn(2, 7, 5)
    small = prune(model, x, pruning_ratio=0.5).model
    save(small, tmp_path)
    assert torch.equal(load(tmp_path, Blocks).eval()(x), small(x))


def test_another_sequence_length_runs_through_the_cut_network(halved):
    assert halved[1].model(torch.randn(3, 9, 5)).shape == (3, 9, 3)

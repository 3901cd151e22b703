"""The proof: what is right passes, what is wrong or unseen is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.graph.sketches import SKETCHES, network, random_drop, smallest_drop
from torch import nn

from penjing.errors import VerificationError
from penjing.graph import rewrite
from penjing.graph.network import Network
from penjing.pruning.verify import Mismatch, prove, relative_difference
from penjing.testing import tiny

CUTTABLE = [name for name, sketch in SKETCHES.items() if sketch.groups]


@pytest.mark.parametrize("name", CUTTABLE)
def test_every_cut_is_equal_to_the_masked_original(name):
    net = network(name)
    evidence = [
        prove(net.cut(net.plan(drop)), seed)
        for seed, drop in enumerate((random_drop(net, 0), random_drop(net, 1), smallest_drop(net)))
    ]
    assert max(e.error for e in evidence) < 1e-9  # float64: six digits above rounding
    assert min(e.moved for e in evidence) > 0


def test_every_node_is_compared():
    net = network("plain")
    evidence = prove(net.cut(net.plan({"a": [0]})))
    assert evidence.nodes == sum(n.op == "call_function" for n in net.program.graph.nodes)


def test_a_wrong_rewrite_is_refused_with_the_node(monkeypatch):
    net = Network.of(tiny.make("grouped"), tiny.example("grouped"))
    monkeypatch.setitem(rewrite._RULES, "conv2d", lambda *_: None)
    with pytest.raises((Mismatch, RuntimeError), match="group"):
        prove(net.cut(net.plan({"0": [0]})))


def test_a_constant_that_is_not_rewritten_is_refused(monkeypatch):
    net = network("slice_from_the_end")

    monkeypatch.setitem(rewrite._RULES, "slice", lambda *_: None)
    with pytest.raises(Mismatch, match=r"node 'slice_\d+' \(slice\) differs") as error:
        prove(net.cut(net.plan({"a#2": [0]})))
    assert error.value.node.name.startswith("slice")


class Blind(nn.Module):
    """Only the last channel is read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.conv(x)[:, -1]


def test_a_proof_that_moved_nothing_is_refused():
    net = Network.of(Blind(), torch.ones(2, 3, 4, 4))
    with pytest.raises(VerificationError, match="moved no output"):
        prove(net.cut(net.plan({"conv": [0]})))


@pytest.mark.parametrize("seed", range(12))
def test_a_unit_that_is_silent_on_one_draw_is_proved_on_another(seed):
    net = relu_network()
    assert prove(net.cut(net.plan({"0": [1]})), seed).moved > 0


@functools.cache
def relu_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    return Network.of(model, torch.ones(2, 3))


def test_a_unit_whose_norm_is_switched_off_is_proved_all_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    nn.init.zeros_(model[1].weight)
    net = Network.of(model, torch.ones(2, 3, 4, 4))
    assert prove(net.cut(net.plan({"0": [1]}))).moved > 0


class Rest(nn.Module):
    """Divides by what is beside the largest unit: nothing, when one is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(1, 2)

    def forward(self, x):
        units = self.first(x).sigmoid()
        return self.last((units.sum(1, keepdim=True) - units.amax(1, keepdim=True)).rsqrt())


def test_a_cut_whose_outputs_are_no_longer_finite_is_refused():
    net = Network.of(Rest().eval(), torch.randn(3, 6))
    with pytest.raises(VerificationError, match="NaN or infinite where the original's is finite"):
        prove(net.cut(net.plan({"first": [0, 1, 2]})))


def test_a_difference_is_relative_to_the_largest_value():
    assert relative_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0])) == 0.1


@pytest.mark.parametrize(
    "other",
    [torch.ones(2), torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([1.0, 2.0, torch.inf]), None],
    ids=["shape", "nan", "inf", "missing"],
)
def test_a_difference_in_kind_is_infinite(other):
    assert relative_difference(other, torch.tensor([1.0, 2.0, 3.0])) == torch.inf


def test_tensors_of_integers_differ_or_not():
    assert relative_difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0
    assert relative_difference(torch.tensor([1, 3]), torch.tensor([1, 2])) == torch.inf

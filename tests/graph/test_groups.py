"""Groups and locks of small networks, one per way in which labels move."""

from __future__ import annotations

import re

import pytest
import torch
from tests.graph.sketches import SKETCHES, network
from torch import nn

from penjing.graph.network import Network
from penjing.verbs.find_groups import find_groups

EVERY = pytest.mark.parametrize("name", SKETCHES)


@EVERY
def test_groups_are_those_of_the_sketch(name):
    assert {g.name: g.units for g in network(name).groups} == SKETCHES[name].groups


@EVERY
def test_groups_under_statistics_are_marked(name):
    assert {g.name for g in network(name).groups if not g.exact} == SKETCHES[name].inexact


@EVERY
def test_groups_that_branches_add_up_in_are_residual(name):
    found = {g.name for g in network(name).groups if g.scope == "residual"}
    assert found == SKETCHES[name].streams


@pytest.mark.parametrize("name", [n for n, s in SKETCHES.items() if s.locked])
def test_what_cannot_be_cut_is_named_with_its_reason(name):
    reasons = {lock.tensor: lock.reason for lock in network(name).groups.locked}
    expected = SKETCHES[name].locked
    assert all(reasons[tensor].startswith(why) for tensor, why in expected.items())


class _Deviation(nn.Module):
    def __init__(self, dims: tuple[int, ...], correction: int) -> None:
        super().__init__()
        self.a, self.dims, self.correction = nn.Conv2d(3, 6, 1), dims, correction

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x).std(self.dims, correction=self.correction).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("dims", "correction", "least"), [((1,), 1, 2), ((1,), 0, 1), ((1, 2), 1, 1), ((1, 2), 9, 3)]
)
def test_units_outnumber_the_correction_of_a_deviation_over_them(dims, correction, least):
    network = Network.of(_Deviation(dims, correction).eval(), torch.ones(2, 3, 4, 4))
    assert [g.least for g in network.groups] == [least]


def test_a_lock_names_the_source_line():
    lock = next(k for k in network("op_without_a_rule").groups.locked if k.tensor == "a.weight")
    assert re.fullmatch(r"sketches\.py:\d+", lock.where)


def test_the_output_layer_is_locked():
    locks = {lock.tensor: lock.reason for lock in network("plain").groups.locked}
    assert locks == {"fc.weight": "network output"}


def test_a_unit_owns_every_tensor_that_it_cuts():
    group = network("plain").groups["a"]
    owned = {(s.tensor, s.dim) for s in group.slices}
    norm = {(f"n.{leaf}", 0) for leaf in ("weight", "bias", "running_mean", "running_var")}
    assert owned == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)} | norm


def test_a_channel_owns_all_its_positions_in_a_flattened_linear_layer():
    part = next(
        s for s in network("flatten_to_linear").groups["a"].slices if s.tensor == "fc.weight"
    )
    assert part.positions(2) == (8, 9, 10, 11)


def test_a_concatenated_channel_is_shifted_by_those_before_it():
    part = next(s for s in network("concat").groups["b"].slices if s.tensor == "fc.weight")
    assert [part.positions(unit) for unit in range(4)] == [(6,), (7,), (8,), (9,)]


def test_an_option_a_shortcut_couples_with_an_offset():
    part = next(s for s in network("residual_padded").groups["a"].slices if s.tensor == "c.weight")
    assert [part.positions(unit) for unit in range(4)] == [(2,), (3,), (4,), (5,)]


def test_two_layers_with_one_weight_make_one_group():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    net[2].weight = net[1].weight
    assert [(g.name, g.units) for g in find_groups(net, torch.ones(2, 6))] == [("0", 8)]


def test_a_shared_parameter_is_counted_once():
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 8), nn.Linear(8, 8))
    net[2].weight = net[1].weight
    assert find_groups(net, torch.ones(2, 6)).params == 48 + 64 + 8 + 8


def test_the_share_within_reach_is_exact():
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 2))
    assert find_groups(net, torch.ones(2, 6)).reachable == (48 + 16) / (48 + 16 + 2)


def test_the_table_names_groups_and_locks():
    text = str(network("roll").groups)
    assert "b " in text
    assert "roll" in text
    assert text.splitlines()[-1].startswith("1 groups reach")


def test_groups_do_not_depend_on_the_batch_of_the_example():
    net = SKETCHES["plain"].model()
    one, three = (Network.of(net, torch.ones(n, 3, 8, 8)).groups for n in (1, 3))
    assert one == three

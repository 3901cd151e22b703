"""Experts in a list: a loop that picks the rows of each, or runs all and weighs them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import pytest
import torch
import torch.nn.functional as F
from tests.graph.mixtures import CHOSEN, INNER, WIDTH, Expert
from torch import Tensor, nn

import penjing as pj
from penjing.graph.network import Network
from penjing.pruning.verify import prove

EXPERTS = 3
EXACT = 1e-12  # relative, float64: sums of a few products in another order


class Mixture(nn.Module, ABC):
    """Subclasses say how the rows come to the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(3, WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        shares, chosen = torch.topk(self.gate(x).softmax(-1), CHOSEN, -1)
        return self.head(x + self.mixed(x, shares, chosen))

    @abstractmethod
    def mixed(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """What the chosen experts make of every row, weighed."""


class Picked(Mixture):
    """Each expert gets the rows that chose it: how many, the data decides."""

    def mixed(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        mask = F.one_hot(chosen, EXPERTS).permute(2, 1, 0)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            slot, row = torch.where(mask[number])
            out.index_add_(0, row, expert(x[row]) * shares[row, slot, None])
        return out


class Weighed(Mixture):
    """Each expert runs on every row, and has a share where it was chosen."""

    def mixed(self, x: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out = out + (shares * (chosen == number)).sum(-1, keepdim=True) * expert(x)
        return out


def made(kind: type[Mixture]) -> tuple[Mixture, Tensor]:
    torch.manual_seed(0)
    return kind().double().eval(), torch.randn(8, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "lock"),
    [(Picked, "select picks one position"), (Weighed, "eq computes with the numbers of units")],
)
def test_listed_experts_lose_widths_and_the_lock_of_their_router_is_named(kind, lock):
    groups = pj.find_groups(*made(kind))

    assert [g.units for g in groups] == [WIDTH, *[INNER] * EXPERTS]
    assert next(k.reason for k in groups.locked if k.tensor == "gate.weight") == lock


def test_widths_of_experts_that_pick_their_rows_are_cut_like_the_masked_original():
    net, x = made(Picked)
    network = Network.of(net, x)
    cut = network.cut(network.plan({"experts.1.up": (0, 3), "experts.2.up": (4,)}))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.experts[1].down.weight[:, [0, 3]] = 0
        twin.experts[2].down.weight[:, 4] = 0
    fresh = torch.randn(11, 3, dtype=torch.float64)

    (got,) = cut.program.run([fresh])

    torch.testing.assert_close(got, twin(fresh), rtol=EXACT, atol=EXACT)


def test_a_cut_through_rows_that_the_data_counts_is_proved_node_by_node():
    net, x = made(Picked)
    network = Network.of(net, x)

    evidence = prove(network.cut(network.plan({"enter": (1, 2), "experts.0.up": (0,)})))

    assert evidence.error < EXACT


class _Split(nn.Module):
    """Rows that the data counts are viewed as two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        (row,) = torch.where(x[:, 0] > 0)
        return self.head(self.enter(x[row]).unflatten(1, (2, 4)).sum(1)).sum(0)


def test_views_of_rows_that_the_data_counts_are_followed():
    torch.manual_seed(0)
    network = Network.of(_Split().double().eval(), torch.randn(9, 3, dtype=torch.float64))
    (columns,) = (g.name for g in network.groups if g.units == 4)

    assert prove(network.cut(network.plan({columns: (1,)}))).error < EXACT

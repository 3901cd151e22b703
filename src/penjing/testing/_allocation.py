"""What every allocation must keep."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from penjing.errors import InfeasibleError
from penjing.plan import Group
from penjing.pruning.allocation import resolve
from penjing.pruning.allocation.protocol import Allocation, Cost, Demand, error_curve

UNITS = (4, 10, 16, 7)


def check_allocation(strategy: str | Allocation | type) -> None:
    """Run an allocation on tiny tables and fail where it breaks the contract.

    Every group gets a whole number of units between its floor and what it has, rounded as asked;
    budgets are kept by their exact, interacting costs; the answer is the same again and for another
    order of the groups; a smaller budget never costs more; what cannot be met is an InfeasibleError
    with the nearest point; nothing that was passed in is changed.

    Args:
        strategy: A name, "module:thing", a class or an object, as `prune(allocation=)` takes it.

    Raises:
        AssertionError: A promise is broken; the message says which, for which demand and values.

    Example:
        >>> check_allocation("uniform")
    """
    allocation = resolve(strategy)
    case = _Case()
    full = case.costs["macs"]({g.name: g.units for g in case.groups})
    demands = [
        Demand(pruning_ratio=0.5),
        Demand(pruning_ratio=0.0),
        Demand(pruning_ratio=0.5, round_to=4),
        Demand(pruning_ratio=0.5, max_pruning_ratio=0.6),
        Demand(pruning_ratio=0.3, ratios={"g1": 0.8, "g2": 0.0}),
        Demand(budgets={"macs": full}),
        Demand(budgets={"macs": 0.5 * full}),
        Demand(budgets={"macs": 0.7 * full, "params": 25.0}),
        Demand(budgets={"macs": 0.4 * full}, round_to=2),
    ]
    for demand in demands:
        _check(allocation, case, demand)
    _check_budgets_fall(allocation, case, full)
    _check_infeasible(allocation, case)


class _Case:
    """A chain of layers: the cost of each is a product of its width and the one before."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.groups = [Group(f"g{i}", units=n, slices=()) for i, n in enumerate(UNITS)]
        self.scores = {g.name: torch.rand(g.units, generator=generator) for g in self.groups}
        self.errors = {
            name: error_curve(score) for name, score in self.scores.items() if name != "g3"
        }
        self.costs: dict[str, Cost] = {
            "macs": self.macs,
            "params": lambda kept: float(sum(kept.values())),
        }

    def macs(self, kept: Mapping[str, int]) -> float:
        widths = [3, *(kept[group.name] for group in self.groups), 5]
        return float(sum(a * b for a, b in pairwise(widths)))

    def ask(
        self, allocation: Allocation, demand: Demand, *, backwards: bool = False
    ) -> dict[str, int]:
        groups = self.groups[::-1] if backwards else self.groups
        return allocation(groups, self.scores, self.errors, self.costs, demand)


def _check(allocation: Allocation, case: _Case, demand: Demand) -> None:
    scores = copy.deepcopy(case.scores)
    kept = case.ask(allocation, demand)
    _require(set(kept) == {g.name for g in case.groups}, demand, f"names are {sorted(kept)}")
    for group in case.groups:
        _check_group(group, kept[group.name], demand)
    for name, bound in demand.budgets.items():
        cost = case.costs[name](kept)
        _require(cost <= bound * (1 + 1e-6), demand, f"{name} is {cost}, above the budget {bound}")
    _require(case.ask(allocation, demand) == kept, demand, "a second call answers differently")
    backwards = case.ask(allocation, demand, backwards=True)
    _require(backwards == kept, demand, f"the order of the groups matters: {kept}, {backwards}")
    same = all(torch.equal(scores[name], case.scores[name]) for name in scores)
    _require(same, demand, "it changed the scores")


def _check_group(group: Group, kept: Any, demand: Demand) -> None:
    place = f"group {group.name!r} of {group.units} units"
    _require(isinstance(kept, int), demand, f"{place} keeps {kept!r}, not a whole number")
    _require(1 <= kept <= group.units, demand, f"{place} keeps {kept}")
    share = 1 - kept / group.units
    _require(
        share <= demand.max_pruning_ratio + 1e-9, demand, f"{place} keeps {kept}, below its floor"
    )
    rounded = kept == group.units or kept % (demand.round_to or 1) == 0
    _require(rounded, demand, f"{place} keeps {kept}, no multiple of {demand.round_to}")
    if group.name in demand.ratios:
        away = abs(share - demand.ratios[group.name]) * group.units
        _require(away <= 0.5 + 1e-9, demand, f"{place} has its own ratio and keeps {kept}")


def _check_budgets_fall(allocation: Allocation, case: _Case, full: float) -> None:
    before = full
    for share in (0.9, 0.7, 0.5, 0.3):
        demand = Demand(budgets={"macs": share * full})
        cost = case.macs(case.ask(allocation, demand))
        _require(cost <= before, demand, f"a smaller budget costs {cost}, a larger one {before}")
        before = cost


def _check_infeasible(allocation: Allocation, case: _Case) -> None:
    demand = Demand(budgets={"macs": 1.0})
    try:
        kept = case.ask(allocation, demand)
    except InfeasibleError as error:
        nearest = error.nearest.get("macs", 0)
        _require(nearest > 1, demand, f"the nearest feasible point is {error.nearest}")
        return
    _require(False, demand, f"it cannot be met, and the answer is {kept}, not an InfeasibleError")


def _require(holds: bool, demand: Demand, message: str) -> None:
    if not holds:
        raise AssertionError(f"{demand}: {message}")

"""What may be kept, and what it may cost: the part that every allocation shares.

A candidate is a tuple of option numbers, one per group; groups are sorted by name, options by units
kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penjing.errors import BudgetError, InfeasibleError
from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand

Candidate = tuple[int, ...]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SHARE = "pruning_ratio"  # the name of the budget that a pruning_ratio becomes
TOLERANCE = 1e-9  # of a budget, for sums of floats


def units_dropped(units: int, ratio: float) -> int:
    """`ratio` of `units`, to the nearest whole unit, halves dropped.

    Example:
        >>> units_dropped(10, 0.8), units_dropped(5, 0.5)
        (8, 3)
    """
    return math.floor(units * ratio + 0.5 + TOLERANCE)


def options(
    units: int,
    demand: Demand,
    ratio: float | None = None,
    step: int | None = None,
    least: int = 1,
) -> Integers:
    """The numbers of units that one group may keep, ascending.

    Args:
        units: Units of the group.
        demand: Gives `round_to` and `max_pruning_ratio`.
        ratio: Share to drop of this group alone; it leaves a single option.
        step: In place of `round_to`.
        least: Fewest units that the network runs with.

    Returns:
        Multiples of `round_to` from the floor up, and all units.

    Example:
        >>> options(10, Demand(pruning_ratio=0.5, round_to=4)).tolist()
        [4, 8, 10]
    """
    step = step or demand.round_to or 1
    floor = max(least, units - math.floor(units * demand.max_pruning_ratio + TOLERANCE))
    steps = np.arange(math.ceil(floor / step) * step, units, step, dtype=np.int64)
    allowed = np.append(steps, units)
    if ratio is None:
        return allowed
    wanted = units - units_dropped(units, ratio)
    return allowed[[int(np.searchsorted(allowed, wanted))]]


@dataclass(frozen=True, eq=False)
class Space:
    """Every permitted candidate, and its exact costs as shares of the budgets.

    Args:
        groups: Sorted by name.
        options: Per group the units it may keep, ascending.
        limits: Cost and upper bound by name.
        demand: What was asked for, for messages.
        known: Usage of the candidates that were asked for before.
    """

    groups: tuple[Group, ...]
    options: tuple[Integers, ...]
    limits: Mapping[str, tuple[Cost, float]]
    demand: Demand
    known: dict[Candidate, Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, groups: Sequence[Group], costs: Mapping[str, Cost], demand: Demand, *, weighted: bool
    ) -> Space:
        """The space of a demand.

        Args:
            groups: What can be cut, in any order.
            costs: Exact costs by name.
            demand: What is wanted.
            weighted: Make `pruning_ratio` a budget: the share of all units weighted by their
                parameters.

        Raises:
            BudgetError: The demand names an unknown group or cost, or rounds every group away.
            InfeasibleError: The smallest candidate is still above a budget.
        """
        ordered = tuple(sorted(groups, key=lambda group: group.name))
        _check(ordered, costs, demand)
        choices = tuple(
            options(g.units, demand, demand.ratios.get(g.name), demand.step(g.name), g.least)
            for g in ordered
        )
        limits = {name: (costs[name], float(bound)) for name, bound in demand.budgets.items()}
        if weighted and demand.pruning_ratio is not None:
            share = costs[SHARE] if SHARE in costs else kept_share(ordered, costs)
            limits[SHARE] = (share, 1 - demand.pruning_ratio)
        space = cls(ordered, choices, limits, demand)
        if not space.feasible(space.smallest):
            raise space.infeasible(costs)
        return space

    @property
    def smallest(self) -> Candidate:
        """Every group at its floor."""
        return (0,) * len(self.groups)

    @property
    def largest(self) -> Candidate:
        """Every group with all that it may keep."""
        return tuple(len(choice) - 1 for choice in self.options)

    def kept(self, candidate: Candidate) -> dict[str, int]:
        """Units kept by group name."""
        return {
            group.name: int(choice[number])
            for group, choice, number in zip(self.groups, self.options, candidate, strict=True)
        }

    def at_least(self, kept: Sequence[int]) -> Candidate:
        """The smallest candidate that keeps no fewer units than `kept` and its floor."""
        pairs = zip(self.options, kept, strict=True)
        return tuple(min(int(np.searchsorted(c, k)), len(c) - 1) for c, k in pairs)

    def usage(self, candidate: Candidate) -> Floats:
        """Exact costs as shares of their budgets, shape (limits,)."""
        if candidate not in self.known:
            kept = self.kept(candidate)
            shares = [cost(kept) / bound for cost, bound in self.limits.values()]
            self.known[candidate] = np.array(shares, dtype=np.float64)
        return self.known[candidate]

    def feasible(self, candidate: Candidate) -> bool:
        """Whether the exact costs of `candidate` are within every budget."""
        return bool((self.usage(candidate) <= 1 + TOLERANCE).all())

    def first_feasible(self, candidates: Callable[[int], Candidate], count: int) -> Candidate:
        """The first of `count` shrinking candidates within the budgets; the last must be."""
        low, high = 0, count - 1
        while low < high:
            middle = (low + high) // 2
            if self.feasible(candidates(middle)):
                high = middle
            else:
                low = middle + 1
        return candidates(high)

    def in_order(self, candidate: Candidate, groups: Sequence[Group]) -> dict[str, int]:
        """Units kept by group name, in the order of `groups`."""
        kept = self.kept(candidate)
        return {group.name: kept[group.name] for group in groups}

    def infeasible(self, costs: Mapping[str, Cost]) -> InfeasibleError:
        """The error that names the nearest feasible point and what stands in the way."""
        nearest, reasons = {}, []
        bare = {group.name: group.least for group in self.groups}
        for name, used in zip(self.limits, self.usage(self.smallest), strict=True):
            cost, bound = self.limits[name]
            share = name == SHARE
            reached = 1 - used * bound if share else used * bound
            nearest[name] = float(reached)
            if used <= 1 + TOLERANCE:
                continue
            asked, best = (1 - bound, 1 - cost(bare)) if share else (bound, cost(bare))
            reasons.append(
                f"{name} {'>=' if share else '<='} {asked:g} cannot be met: with every group at "
                "its floor "
                f"it is {reached:g}, and {best:g} with as few units as a group may have"
            )
        return InfeasibleError(f"{'; '.join(reasons)}. {self._hindrance(costs)}", nearest)

    def _hindrance(self, costs: Mapping[str, Cost]) -> str:
        demand = self.demand
        held = [f"max_pruning_ratio={demand.max_pruning_ratio}"]
        if demand.round_to not in (None, 1):
            held.append(f"round_to={demand.round_to}")
        if demand.ratios:
            held.append(f"the ratios of {len(demand.ratios)} groups of their own")
        bare = {group.name: group.least for group in self.groups}
        if all(cost(bare) <= bound * (1 + TOLERANCE) for cost, bound in self.limits.values()):
            return (
                f"In the way: {', '.join(held)}; loosen them, or ask for the nearest feasible point"
            )
        return (
            f"In the way: what is locked, ignored or no group reaches ({len(self.groups)} groups "
            "can be cut); "
            "ask for the nearest feasible point, ignore fewer layers or widen scope"
        ) + (f", and loosen {', '.join(held)}" if costs else "")


def kept_share(groups: Sequence[Group], costs: Mapping[str, Cost]) -> Cost:
    """Share of all units that are kept, each weighted by the parameters it takes along.

    Args:
        groups: All that can be cut.
        costs: Must hold "params".

    Raises:
        BudgetError: `costs` has no "params".
    """
    if "params" not in costs:
        raise BudgetError("pruning_ratio weights units by their parameters: give costs['params']")
    full = {group.name: group.units for group in groups}
    whole = costs["params"](full)
    weight = {
        g.name: max(whole - costs["params"]({**full, g.name: g.units - 1}), 0.0) for g in groups
    }
    total = sum(weight[g.name] * g.units for g in groups) or 1.0
    return lambda kept: sum(weight[name] * units for name, units in kept.items()) / total


def _check(groups: Sequence[Group], costs: Mapping[str, Cost], demand: Demand) -> None:
    names = {group.name for group in groups}
    if len(names) < len(groups):
        raise BudgetError("two groups have the same name; names of groups must be unique")
    for name in demand.ratios:
        if name not in names:
            first = ", ".join(repr(known) for known in sorted(names)[:10])
            raise BudgetError(
                f"a ratio is given for group {name!r}, which is not there; groups are {first}"
            )
    for name in demand.budgets:
        if name not in costs:
            raise BudgetError(
                f"a budget is given for {name!r}; known costs are {', '.join(sorted(costs))}"
            )
    _check_steps(groups, demand)


def _check_steps(groups: Sequence[Group], demand: Demand) -> None:
    """Refuse a multiple that is larger than every group that it is meant for."""
    largest: dict[int, int] = {}
    for group in groups:
        step = demand.step(group.name)
        largest[step] = max(largest.get(step, 0), group.units)
    for step, units in largest.items():
        if step > units:
            raise BudgetError(
                f"round_to is {step} and the largest group has {units} units, so nothing "
                f"could be cut; give round_to={max(units // 2, 1)} or less"
            )

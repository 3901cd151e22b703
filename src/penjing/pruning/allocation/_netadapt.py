"""Greedy: one step of the budget after the other, by the group that is missed least."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate, Space
from penjing.pruning.allocation.trying import Lost, Proxy, Trials, check_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdapt:
    """Shrink in equal steps; each step is taken in the one group where the outputs lose least.

    For every group the step is the largest number of units that frees its share of the budget. What
    is left of the budget at the end is filled by the predicted errors.

    Args:
        evaluations: Candidates that are tried at most.
        proxy: How candidates are judged: "predicted" by the sum of the error curves, "masked" on
            the network with their units set to zero, "recalibrated" cut, its norm statistics
            measured anew, "repaired" cut and re-solved on a few samples. All but the first need
            calibration data.
        seed: Of everything random.
        lost: Measures a candidate; `prune` gives it.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Yang et al. 2018, arXiv:1804.03230, algorithm 1, without training between the steps; by what
        the outputs lose instead of the accuracy.
    """

    evaluations: int = 200
    proxy: Proxy = "masked"
    seed: int = 0
    lost: Lost | None = None

    def __post_init__(self) -> None:
        check_settings("netadapt", self.proxy, self.evaluations)

    def measuring(self, lost: Lost) -> Self:
        """The same allocation with a measure.

        Args:
            lost: What the outputs lose at a candidate.
        """
        return replace(self, lost=lost)

    def __call__(
        self,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        errors: Mapping[str, Tensor],
        costs: Mapping[str, Cost],
        demand: Demand,
    ) -> dict[str, int]:
        """Units kept per group, in the order of `groups`.

        Args:
            groups: What can be cut.
            scores: Importance per group, read where `errors` has no entry.
            errors: Error after dropping the k lowest units, shape `(units + 1,)`.
            costs: Exact costs by name; `pruning_ratio` needs "params".
            demand: `pruning_ratio` is the share of all units, weighted by the parameters of one
                unit.

        Returns:
            Units kept by name.

        Raises:
            BudgetError: The demand does not fit the groups or the costs.
            InfeasibleError: Every group at its floor is still above a budget.
        """
        trials = Trials.of(groups, scores, errors, costs, demand, self)
        space = trials.space
        if space.feasible(space.largest):
            return space.in_order(space.largest, groups)
        return space.in_order(self._search(trials), groups)

    def _search(self, trials: Trials) -> Candidate:
        space = trials.space
        point = space.largest
        groups = sum(len(options) > 1 for options in space.options)
        rounds = max(1, self.evaluations // max(groups, 1))
        over = float(space.usage(point).max()) - 1
        for number in range(1, rounds + 1):
            if space.feasible(point):
                break
            bound = 1 + over * (1 - number / rounds)
            steps = [c for c in _steps(space, point, bound) if trials(c) < math.inf]
            if not steps:
                break
            point = min(steps, key=lambda c: (trials(c), c))
        if not space.feasible(point):
            point = _walked(space, point)
        return trials.solver.filled(point, trials.solver.tables(point))


def _steps(space: Space, point: Candidate, bound: float) -> list[Candidate]:
    """Per group the candidate that loses just enough of it to come to the bound."""
    found = []
    for group, now in enumerate(point):

        def shorter(step: int, group: int = group, now: int = now) -> Candidate:
            return (*point[:group], now - step, *point[group + 1 :])

        step = bisect_left(
            range(1, now + 1), x=True, key=lambda s: bool(space.usage(shorter(s)).max() <= bound)
        )
        if step < now:
            found.append(shorter(step + 1))
    return found


def _walked(space: Space, point: Candidate) -> Candidate:
    """All groups shrunk alike until the budgets are met: no single group was enough."""
    steps = max(point, default=0) + 1

    def shrunk(step: int) -> Candidate:
        return tuple(number * (steps - step) // steps for number in point)

    return space.first_feasible(shrunk, steps + 1)

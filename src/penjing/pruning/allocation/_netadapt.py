"""Greedy: one step of the budget after the other, by the group that is missed least."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar

from penjing.pruning.allocation.searching import Searching
from penjing.pruning.allocation.space import Candidate, Space
from penjing.pruning.allocation.trying import Proxy, Trials


@dataclass(frozen=True, slots=True, kw_only=True)
class NetAdapt(Searching):
    """Shrink in equal steps; each step is taken in the one group where the outputs lose least.

    For every group the step is the largest number of units that frees its share of the budget. What
    is left of the budget at the end is filled by the predicted errors.

    Settings are those of `Searching`.

    Source:
        Yang et al. 2018, arXiv:1804.03230, algorithm 1, without training between the steps; by what
        the outputs lose instead of the accuracy.
    """

    name: ClassVar[str] = "netadapt"

    evaluations: int = 200
    proxy: Proxy = "masked"

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

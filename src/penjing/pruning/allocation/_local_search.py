"""Random local search: small exchanges between groups, kept when the outputs lose less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate
from penjing.pruning.allocation.trying import Lost, Proxy, Trials, check_settings

MISSES = 4  # exchanges per trial, since some lead to what was tried before
REACH = 3  # one raise takes at most this part of the room above


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSearch:
    """Improve the solver's answer by random exchanges between groups.

    One group is raised, others pay for it; the new candidate replaces the old where the outputs
    lose less.

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
        Random hill climbing as in the coefficient search of Frantar and Alistarh 2022 (SPDY),
        arXiv:2201.13096, section 3.3; there over the coefficients of the errors.
    """

    evaluations: int = 60
    proxy: Proxy = "repaired"
    seed: int = 0
    lost: Lost | None = None

    def __post_init__(self) -> None:
        check_settings("local_search", self.proxy, self.evaluations)

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
        rng = np.random.default_rng(self.seed)
        best = trials.solver.solve()
        trials(best)
        for _ in range(MISSES * self.evaluations):
            if not trials.left:
                break
            new = _exchanged(trials, best, rng)
            if trials(new) < trials(best):
                best = new
        return best


def _exchanged(trials: Trials, point: Candidate, rng: np.random.Generator) -> Candidate:
    """One group raised by chance, another lowered until the budgets are met."""
    options = trials.space.options
    up, down = rng.permutation(len(point))[:2].tolist() if len(point) > 1 else (0, 0)
    new = list(point)
    room = len(options[up]) - 1 - new[up]
    new[up] += int(rng.integers(1, max(2, room // REACH + 1))) if room else 0
    while new[down] and not trials.space.feasible(tuple(new)):
        new[down] -= 1
    return trials.fitted(tuple(new), rng)

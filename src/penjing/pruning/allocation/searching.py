"""What the allocations that try candidates out have in common: settings, and when to search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate
from penjing.pruning.allocation.trying import Lost, Proxy, Trials, check_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Searching(ABC):
    """An allocation that searches, unless everything may stay.

    Args:
        evaluations: Candidates that are tried at most.
        proxy: How candidates are judged: "predicted" by the sum of the error curves, "masked" on
            the network with their units set to zero, "recalibrated" cut, its norm statistics
            measured anew, "repaired" cut and re-solved on a few samples. All but the first need
            calibration data.
        seed: Of everything random.
        lost: Measures a candidate; `prune` gives it, None predicts.

    Raises:
        StrategyError: A setting is outside its range.
    """

    name: ClassVar[str]  # the short name, for errors

    evaluations: int
    proxy: Proxy
    seed: int = 0
    lost: Lost | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, self.proxy, self.evaluations)

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

    @abstractmethod
    def _search(self, trials: Trials) -> Candidate:
        """The best candidate found within the budgets, where keeping everything does not fit."""

"""Gradual magnitude pruning: zeros grow while the rest learns."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import StrategyError
from penjing.pruning.sparsity import resolve
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.sparse_training.protocol import Moment
from penjing.sparse_training.schedules import SparsitySchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradual:
    """Drop the smallest weights, more and more of them.

    Args:
        schedule: Sparsity over the run; a number is that sparsity by the cubic schedule.
        allocation: How zeros are spread over layers: "global", "uniform", "erk", "lamp".
        every: Share of the run between two changes of the masks, in (0, 1].

    Raises:
        BudgetError: A sparsity outside [0, 1).
        StrategyError: An unknown allocation, or `every` outside its range.

    Source:
        Zhu & Gupta 2017, arXiv:1710.01878; Gale et al. 2019, arXiv:1902.09574.
    """

    schedule: SparsitySchedule | float
    allocation: str | SparsityAllocation = "global"
    every: float = 0.01

    def __post_init__(self) -> None:
        check_every(self.every)
        resolve(self.allocation)
        if not isinstance(self.schedule, SparsitySchedule):
            object.__setattr__(self, "schedule", SparsitySchedule(sparsity=float(self.schedule)))

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return self._schedule.sparsity

    @property
    def complete_at(self) -> float:
        """The end of the schedule."""
        return self._schedule.end

    @property
    def _schedule(self) -> SparsitySchedule:
        schedule = self.schedule
        assert isinstance(schedule, SparsitySchedule)
        return schedule

    def on_gradients(self, _moment: Moment, /) -> None:
        """Nothing to do."""

    def on_weights(self, moment: Moment, /) -> None:
        """Choose anew among all weights; those that are zero go first."""
        wanted = self._schedule(moment.progress)
        last = moment.progress >= self._schedule.end and moment.masks.sparsity < wanted - 1e-3
        if wanted <= 0 or (moment.progress > self._schedule.end and not last):
            return
        if moment.due(self.every) or last:
            scores = {n: w.detach().square() for n, w in moment.masks.weights.items()}
            moment.masks.choose(scores, wanted, resolve(self.allocation))


def check_every(every: float) -> None:
    """Refuse a pace outside (0, 1].

    Raises:
        StrategyError: It is.
    """
    if not 0 < every <= 1:
        raise StrategyError(f"every is {every}; it is a share of the run in (0, 1], often 0.01")

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
        object.__setattr__(self, "schedule", SparsitySchedule.of(self.schedule))

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return SparsitySchedule.of(self.schedule).sparsity

    @property
    def complete_at(self) -> float:
        """The end of the schedule."""
        return SparsitySchedule.of(self.schedule).end

    def on_gradients(self, _moment: Moment, /) -> None:
        """Nothing to do."""

    def on_weights(self, moment: Moment, /) -> None:
        """Choose anew among all weights; those that are zero go first."""
        wanted = due_sparsity(moment, SparsitySchedule.of(self.schedule), self.every)
        if wanted is not None:
            scores = {n: w.detach().square() for n, w in moment.masks.weights.items()}
            moment.masks.choose(scores, wanted, resolve(self.allocation))


def due_sparsity(moment: Moment, schedule: SparsitySchedule, every: float) -> float | None:
    """The sparsity that masks should now be chosen for; None when it is not time to choose."""
    wanted = schedule(moment.progress)
    last = moment.progress >= schedule.end and moment.masks.sparsity < wanted - 1e-3
    if wanted <= 0 or (moment.progress > schedule.end and not last):
        return None
    return wanted if moment.due(every) or last else None


def check_every(every: float) -> None:
    """Refuse a pace outside (0, 1].

    Raises:
        StrategyError: It is.
    """
    if not 0 < every <= 1:
        raise StrategyError(f"every is {every}; it is a share of the run in (0, 1], often 0.01")

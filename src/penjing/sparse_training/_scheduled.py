"""What methods share whose zeros grow by a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import StrategyError
from penjing.pruning.sparsity import resolve
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.sparse_training.protocol import Moment
from penjing.sparse_training.schedules import SparsitySchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """Settings of a method that chooses its masks anew along a schedule."""

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

    def due_sparsity(self, moment: Moment, /) -> float | None:
        """The sparsity that masks should now be chosen for; None when it is not time to choose."""
        schedule = SparsitySchedule.of(self.schedule)
        wanted = schedule(moment.progress)
        if wanted <= 0:
            return None
        if moment.progress >= schedule.end:  # once, whatever the pace
            return wanted if moment.updated < schedule.end and moment.due(0) else None
        return wanted if moment.due(self.every) else None


def check_every(every: float) -> None:
    """Refuse a pace outside (0, 1].

    Raises:
        StrategyError: It is.
    """
    if not 0 < every <= 1:
        raise StrategyError(f"every is {every}; it is a share of the run in (0, 1], often 0.01")

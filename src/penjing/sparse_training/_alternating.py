"""Alternating compressed and dense phases."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import BudgetError, StrategyError
from penjing.pruning.sparsity import resolve
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.sparse_training.protocol import Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternating:
    """Train dense first, then alternate sparse and dense phases, and end sparse.

    Args:
        sparsity: Share of zeros in sparse phases, in (0, 1).
        start: Progress at which the first sparse phase begins, in [0, 1).
        end: Progress at which the last sparse phase begins, in (start, 1).
        phases: Pairs of a sparse and a dense phase between them, at least 1.
        allocation: How zeros are spread over layers.

    Raises:
        BudgetError: A sparsity outside its range.
        StrategyError: Another value outside its range.

    Source:
        Peste et al. 2021, arXiv:2106.12379, algorithm 1 (AC/DC).
    """

    sparsity: float
    start: float = 0.1
    end: float = 0.75
    phases: int = 4
    allocation: str | SparsityAllocation = "global"

    def __post_init__(self) -> None:
        resolve(self.allocation)
        if not 0 < self.sparsity < 1:
            raise BudgetError(f"sparsity is {self.sparsity}; it is a share of weights in (0, 1)")
        if not 0 <= self.start < self.end < 1 or self.phases < 1:
            raise StrategyError(
                f"{self.phases} phases from {self.start} to {self.end} of the run; one at least, "
                "and they must not end before they begin"
            )

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return self.sparsity

    @property
    def complete_at(self) -> float:
        """The beginning of the last sparse phase."""
        return self.end

    def on_gradients(self, _moment: Moment, /) -> None:
        """Nothing to do."""

    def on_weights(self, moment: Moment, /) -> None:
        """Change over at the edge of a phase."""
        masks = moment.masks
        compressed = self._compressed(moment.progress)
        if compressed and masks.sparsity == 0:
            scores = {n: w.detach().square() for n, w in masks.weights.items()}
            masks.choose(scores, self.sparsity, resolve(self.allocation))
        elif not compressed and masks.sparsity > 0:
            masks.dense()

    def _compressed(self, progress: float) -> bool:
        if progress < self.start:
            return False
        if progress >= self.end:
            return True
        within = (progress - self.start) / (self.end - self.start)
        return int(within * 2 * self.phases) % 2 == 0

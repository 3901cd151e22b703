"""Gradual magnitude pruning: zeros grow while the rest learns."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.pruning.sparsity import resolve
from penjing.sparse_training._scheduled import Scheduled
from penjing.sparse_training.protocol import Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradual(Scheduled):
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

    def on_gradients(self, _moment: Moment, /) -> None:
        """Nothing to do."""

    def on_weights(self, moment: Moment, /) -> None:
        """Choose anew among all weights; those that are zero go first."""
        wanted = self.due_sparsity(moment)
        if wanted is not None:
            scores = {n: w.detach().square() for n, w in moment.masks.weights.items()}
            moment.masks.choose(scores, wanted, resolve(self.allocation))

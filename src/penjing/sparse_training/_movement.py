"""Movement pruning: weights that training moves away from zero stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penjing.pruning.sparsity import resolve
from penjing.sparse_training._scheduled import Scheduled
from penjing.sparse_training.protocol import Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement(Scheduled):
    """Drop the weights with the lowest scores; a score is what its weight's gradient did to it.

    The score of a weight is the sum of `-gradient * weight` over the steps, as gradient descent
    learns it by a straight-through estimator of the mask. Weights that are dropped keep the value
    they had and may come back with it.

    Args:
        schedule: Sparsity over the run; a number is that sparsity by the cubic schedule.
        allocation: How zeros are spread over layers: "global", "uniform", "erk", "lamp".
        every: Share of the run between two changes of the masks, in (0, 1].

    Raises:
        BudgetError: A sparsity outside [0, 1).
        StrategyError: An unknown allocation, or `every` outside its range.

    Source:
        Sanh et al. 2020, arXiv:2005.07683 (hard movement pruning). Deviation: scores are summed in
        layers as they are, and normalised by their layer's mean before "global" compares them.
    """

    @torch.no_grad()
    def on_gradients(self, moment: Moment, /) -> None:
        """Scores grow by the dense gradients; the optimizer moves the weights behind the masks."""
        for name, weight in moment.masks.weights.items():
            weight.copy_(moment.memory.get(f"weight {name}", weight))
            if weight.grad is not None:
                score = moment.memory.setdefault(f"score {name}", torch.zeros_like(weight))
                score.sub_(weight.grad * weight)

    @torch.no_grad()
    def on_weights(self, moment: Moment, /) -> None:
        """Keep the weights as they are behind the masks, and choose among the scores when due."""
        for name, weight in moment.masks.weights.items():
            before, kept = moment.memory.get(f"weight {name}", weight), moment.masks.kept[name]
            moment.memory[f"weight {name}"] = torch.where(kept, weight, before).detach().clone()
        wanted = self.due_sparsity(moment)
        if wanted is not None:
            moment.masks.choose(self._scores(moment), wanted, resolve(self.allocation))

    def _scores(self, moment: Moment) -> dict[str, torch.Tensor]:
        """Above zero, since allocations compare sizes: the lowest goes first."""
        scores = {}
        for name, weight in moment.masks.weights.items():
            score = moment.memory.get(f"score {name}", torch.zeros_like(weight))
            scaled = score / score.abs().mean().clamp_min(1e-30)
            scores[name] = scaled.clamp(-30, 30).exp()
        return scores

"""Soft threshold reparameterisation: every layer learns how much of it is zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.sparse_training.protocol import Moment
from penjing.sparse_training.schedules import SparsitySchedule

LEAST_KEPT = 0.005  # of a layer, as where masks are chosen: a layer without weights is dead


@dataclass(frozen=True, slots=True, kw_only=True)
class STR:
    """Weights are shrunk by a threshold of their layer, which is learned by its gradient.

    Args:
        schedule: Sparsity over the run; a number is that sparsity by the cubic schedule.
        lr: Step size of the thresholds, relative to themselves, above 0.

    Raises:
        BudgetError: A sparsity outside [0, 1).
        StrategyError: `lr` is not above 0.

    Source:
        Kusupati et al. 2020, arXiv:2002.03231. Deviation: there weight decay pushes thresholds up
        until they are as high as they get, and the sparsity is what comes out; here a common factor
        keeps them at the schedule's sparsity, and what is learned is their proportion.
    """

    schedule: SparsitySchedule | float
    lr: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", SparsitySchedule.of(self.schedule))
        if not self.lr > 0:
            raise StrategyError(f"lr is {self.lr}; the thresholds need a step size above 0")

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return SparsitySchedule.of(self.schedule).sparsity

    @property
    def complete_at(self) -> float:
        """The end of the schedule."""
        return SparsitySchedule.of(self.schedule).end

    @torch.no_grad()
    def on_gradients(self, moment: Moment, /) -> None:
        """Thresholds learn; the optimizer moves the weights before they are shrunk.

        Raises:
            StrategyError: A pattern other than single weights.
        """
        for target in moment.masks.targets:
            if target.tiling.pattern.name != "element":
                raise StrategyError(
                    f"STR shrinks single weights, {target.weight!r} has the pattern "
                    f"{target.tiling.pattern.name!r}; take 'gradual' or 'rigl' for patterns"
                )
        for name, weight in moment.masks.weights.items():
            if weight.grad is not None:
                threshold = moment.memory.get(f"threshold {name}", weight.new_zeros(()))
                slope = -threshold * (weight.grad * weight.sign()).sum()  # d loss / d log threshold
                log = moment.memory.setdefault(f"log {name}", weight.new_zeros(()))
                log.sub_(self.lr * slope)
            weight.copy_(moment.memory.get(f"weight {name}", weight))

    @torch.no_grad()
    def on_weights(self, moment: Moment, /) -> None:
        """Shrink every weight by its layer's threshold."""
        wanted = SparsitySchedule.of(self.schedule)(moment.progress)
        weights = moment.masks.weights
        common = self._common(moment, wanted)
        for name, weight in weights.items():
            moment.memory[f"weight {name}"] = weight.detach().clone()
            threshold = _capped(common * moment.memory[f"log {name}"].exp(), weight)
            moment.memory[f"threshold {name}"] = threshold
            weight.copy_(weight.sign() * (weight.abs() - threshold).clamp_min(0))
            kept = weight != 0
            if not torch.equal(kept, moment.masks.kept[name]):
                moment.masks.put(name, kept)

    def _common(self, moment: Moment, wanted: float) -> Tensor:
        """The factor of all thresholds at which `wanted` of all weights are zero."""
        ratios = []
        for name, weight in moment.masks.weights.items():
            log = moment.memory.setdefault(f"log {name}", weight.new_zeros(()))
            ratios.append((weight.abs() / log.exp()).flatten())
        every = torch.cat(ratios)
        count = round(wanted * every.numel())
        return every.kthvalue(count).values if count else every.new_zeros(())


def _capped(threshold: Tensor, weight: Tensor) -> Tensor:
    """A threshold that leaves a layer alive."""
    sizes = weight.abs().flatten()
    least = max(1, round(LEAST_KEPT * sizes.numel()))
    if int((sizes > threshold).sum()) >= least:
        return threshold
    return sizes.topk(min(least + 1, sizes.numel())).values[-1] * (1 - 1e-6)

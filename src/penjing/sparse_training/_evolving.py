"""Dynamic sparse training: the number of zeros stays, their places move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from penjing.errors import BudgetError, StrategyError
from penjing.pruning.sparsity import resolve
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.pruning.weights.protocol import Target
from penjing.sparse_training._scheduled import check_every
from penjing.sparse_training.protocol import Moment

Grow = Literal["gradient", "random"]
Start = Literal["magnitude", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolving:
    """Drop the smallest weights of each layer and let as many others grow from zero.

    Args:
        sparsity: Share of zeros all along, in (0, 1).
        grow: "gradient" lets those grow whose gradient is largest (RigL), "random" any (SET).
        start: Which weights stay at first: the largest by "magnitude", for a trained network, or a
            "random" choice, for one that is not.
        allocation: How zeros are spread over layers at the start: "erk", "uniform", "global".
        share: Share of a layer's weights that move at the first change, in (0, 1); it falls to
            zero along a cosine until `end`.
        every: Share of the run between two changes, in (0, 1].
        end: Progress after which nothing moves, in (0, 1].

    Raises:
        BudgetError: A sparsity outside its range.
        StrategyError: Another value outside its range.

    Source:
        Evci et al. 2020, arXiv:1911.11134 (RigL); Mocanu et al. 2018, arXiv:1707.04780 (SET).
        Deviation: patterns other than single weights move by whole blocks.
    """

    sparsity: float
    grow: Grow = "gradient"
    start: Start = "magnitude"
    allocation: str | SparsityAllocation = "erk"
    share: float = 0.3
    every: float = 0.01
    end: float = 0.75

    def __post_init__(self) -> None:
        check_every(self.every)
        resolve(self.allocation)
        if not 0 < self.sparsity < 1:
            raise BudgetError(f"sparsity is {self.sparsity}; it is a share of weights in (0, 1)")
        if self.grow not in get_args(Grow) or self.start not in get_args(Start):
            raise StrategyError(
                f"grow is {self.grow!r} and start {self.start!r}; known are {get_args(Grow)} and "
                f"{get_args(Start)}"
            )
        if not 0 < self.share < 1 or not 0 < self.end <= 1:
            raise StrategyError(
                f"share is {self.share} and end {self.end}; shares in (0, 1) and (0, 1]"
            )

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        return self.sparsity

    @property
    def complete_at(self) -> float:
        """The start: the number of zeros never changes."""
        return 0.0

    def on_gradients(self, moment: Moment, /) -> None:
        """The first time choose what stays; from then on move some of it."""
        masks = moment.masks
        if masks.sparsity == 0:
            moment.due(0)
            self._begin(moment)
            return
        if moment.progress > self.end or not moment.due(self.every):
            return
        share = self.share / 2 * (1 + math.cos(math.pi * moment.progress / self.end))
        weights = masks.weights
        for target in masks.targets:
            weight = weights[target.weight]
            if weight.grad is not None:
                mask = self._moved(moment, target, weight, share)
                masks.put(target.weight, mask)

    def on_weights(self, _moment: Moment, /) -> None:
        """Nothing to do."""

    def _begin(self, moment: Moment) -> None:
        masks = moment.masks
        scores = {n: w.detach().square() for n, w in masks.weights.items()}
        if self.start == "random":
            scores = {n: _noise(w, masks.generator) for n, w in scores.items()}
        masks.choose(scores, self.sparsity, resolve(self.allocation))
        masks.apply()

    def _moved(self, moment: Moment, target: Target, weight: Tensor, share: float) -> Tensor:
        """The mask of one weight after some of its blocks moved."""
        tiling, masks = target.tiling, moment.masks
        stays = tiling.blocks(target.matrix(masks.kept[target.weight].double())).sum((1, 3)) > 0
        size = tiling.blocks(target.matrix(weight.square())).sum((1, 3)).flatten()
        grad = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        pull = grad.abs() if self.grow == "gradient" else _noise(weight, masks.generator)
        pull = tiling.blocks(target.matrix(pull)).sum((1, 3)).flatten()
        alive = stays.flatten()
        count = min(int(share * int(alive.sum())), int((~alive).sum()))
        if not count:
            return masks.kept[target.weight]
        dropped = torch.where(alive, size, torch.inf).argsort(stable=True)[:count]
        grown = torch.where(alive, -torch.inf, pull).argsort(descending=True, stable=True)[:count]
        alive = alive.clone()
        alive[dropped], alive[grown] = False, True
        return target.tensor(tiling.spread(alive.view_as(stays)).double()) > 0


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator).to(like.device) + 1e-9

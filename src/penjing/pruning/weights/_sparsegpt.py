"""SparseGPT: one sweep over the inputs of a layer, with one factor for all of its outputs.

Suffixes as in `pruning.patterns`, and P = places of a bundle (blocks times inputs of a block),
C = places of one column block.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.pruning.patterns import Tiling
from penjing.pruning.weights._obs import TINY, inverse_grams
from penjing.pruning.weights.protocol import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGPT:
    """Blocked optimal brain surgeon for layers that are too wide for an inverse per output.

    The inputs are passed once from left to right. In each column block the weights of least error
    are chosen over all outputs at once; what goes is made up for by the inputs to the right, at
    once within the block and afterwards behind it. Work is that of a few matrix products, memory
    that of the Gram matrix. What was chosen has its own error as the score; what stayed scores
    above it, so the order holds at the sparsity that the sweep was made for.

    Args:
        sparsity: Share of weights that the sweep takes out; `sparsify` sets it to what is asked of
            the layer. An n:m pattern has its own.
        damping: Ridge strength as a share of the mean diagonal of the Gram matrix.
        columns: Inputs of a column block, at least the length of a run of an n:m pattern.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Frantar and Alistarh 2023, arXiv:2301.00774, algorithm 1. There the weights of the sweep
        are the result; here they choose what stays, and repair re-solves that on what reaches it.
    """

    needs_data = True
    sparsity: float = 0.5
    damping: float = 1e-3
    columns: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise StrategyError(
                f"sparsegpt: sparsity is {self.sparsity}; it is a share of weights in [0, 1)"
            )
        if not self.damping > 0 or self.columns < 1:
            raise StrategyError(
                f"sparsegpt: damping is {self.damping} and columns is {self.columns}; give a "
                "damping above 0 and at least 1 column"
            )

    def at(self, sparsity: float) -> Self:
        """The same for another sparsity."""
        return replace(self, sparsity=sparsity)

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """Scores of one layer.

        Args:
            layer: Without `gram` all inputs count as uncorrelated and alike.
            tiling: Which weights go together.

        Returns:
            Relative error per weight of each block, `(N, B)` float64.
        """
        blocks, size = tiling.index.shape
        w_NRBM = tiling.blocks(layer.weight * layer.scale[:, :, None])
        if layer.gram is None:
            inverses = torch.eye(blocks * size, dtype=w_NRBM.dtype).repeat(len(layer.weight), 1, 1)
            energy = float(w_NRBM.square().sum())
        else:
            inverses, energy = inverse_grams(layer, tiling, self.damping), layer.energy
        sweeps = [
            Sweep(self, tiling, w.flatten(2), torch.linalg.cholesky(inverse, upper=True))
            for w, inverse in zip(w_NRBM.split(tiling.bundles), inverses, strict=True)
        ]
        rises = torch.cat([sweep.run() for sweep in sweeps]) / max(energy, TINY)
        gone = torch.cat([sweep.gone for sweep in sweeps])
        return _in_order(rises / tiling.sizes.clamp_min(1), gone)

    def width(self, tiling: Tiling) -> int:
        """Places of a column block: whole blocks, and whole runs of an n:m pattern."""
        run = tiling.index.shape[1] * (tiling.pattern.of or 1)
        return max(1, self.columns // run) * run


@dataclass(eq=False, slots=True)
class Sweep:
    """One pass over the places of a convolution group.

    Args:
        settings: How.
        tiling: Which weights go together.
        weight: `(N, R, P)`, compensated as the pass goes on.
        factor: Upper Cholesky factor of the inverse Gram matrix, `(P, P)`.
        gone: Blocks that went, `(N, B)`.
    """

    settings: SparseGPT
    tiling: Tiling
    weight: Tensor
    factor: Tensor
    gone: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.clone()
        shape = len(self.weight), len(self.tiling.index)
        self.gone = torch.zeros(shape, dtype=torch.bool)

    def run(self) -> Tensor:
        """Rise of the error by every block that goes, or would have gone, `(N, B)`."""
        width = self.settings.width(self.tiling)
        rises = [self._block(at, width) for at in range(0, self.weight.shape[2], width)]
        return torch.cat(rises, 1)

    def _block(self, at: int, width: int) -> Tensor:
        """Pass one column block, then make up for it behind it; the rise of each of its blocks."""
        part = slice(at, min(at + width, self.weight.shape[2]))
        w_NRC, factor = self.weight[:, :, part], self.factor[part, part]
        size = self.tiling.index.shape[1]
        gone = self.gone[:, at // size : part.stop // size]  # a view that is filled in
        if self.tiling.pattern.of is None:
            gone.copy_(self._lowest(self._costs(w_NRC, factor.diagonal())))
        errors = torch.zeros_like(w_NRC)
        costs = torch.zeros_like(w_NRC)
        for place in range(w_NRC.shape[2]):
            self._choose_run(w_NRC, factor, gone, place)
            error = w_NRC[:, :, place] / factor[place, place]
            costs[:, :, place] = error.square()
            error = error * gone[:, place // size, None]
            w_NRC[:, :, place:] -= error[:, :, None] * factor[place, place:]
            errors[:, :, place] = error
        self.weight[:, :, part.stop :] -= errors @ self.factor[part, part.stop :]
        rises: Tensor = costs.unflatten(2, (-1, size)).sum((1, 3))
        return rises

    def _costs(self, w_NRC: Tensor, diagonal: Tensor) -> Tensor:
        """Rise of the error when a block goes, by the places alone, `(N, blocks)`."""
        rises = (w_NRC / diagonal).square().sum(1)
        found: Tensor = rises.unflatten(1, (-1, self.tiling.index.shape[1])).sum(2)
        return found

    def _lowest(self, costs: Tensor) -> Tensor:
        """The cheapest blocks of all outputs, the share that has to go."""
        count = int(self.settings.sparsity * costs.numel() + 1e-6)
        gone = torch.zeros(costs.numel(), dtype=torch.bool)
        gone[costs.flatten().argsort(stable=True)[:count]] = True
        return gone.view_as(costs)

    def _choose_run(self, w_NRC: Tensor, factor: Tensor, gone: Tensor, place: int) -> None:
        """Where a run of an n:m pattern begins, choose what of it goes."""
        pattern, size = self.tiling.pattern, self.tiling.index.shape[1]
        if pattern.of is None or pattern.keep is None or place % (size * pattern.of):
            return
        run = slice(place, place + size * pattern.of)
        costs = self._costs(w_NRC[:, :, run], factor.diagonal()[run])
        cheap = costs.argsort(dim=1, stable=True)[:, : pattern.of - pattern.keep]
        gone[:, place // size : run.stop // size].scatter_(1, cheap, True)


def _in_order(scores: Tensor, gone: Tensor) -> Tensor:
    """Scores with those of what stayed above all of what went, whatever its group or size."""
    highest = scores[gone].max() if bool(gone.any()) else scores.new_zeros(())
    return torch.where(gone, scores, highest * (1 + 1e-9) + scores + TINY)

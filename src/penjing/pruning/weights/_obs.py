"""Optimal brain surgeon: which weights the rest of their output can make up for.

Suffixes as in `pruning.patterns`, and P = places of a bundle (blocks times inputs of a block),
K = places that go in one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.pruning.patterns import Tiling
from penjing.pruning.weights.protocol import Matrix

TINY = 1e-30  # keeps quotients finite
TIE = 1e-12  # share by which a later block's score stands above an earlier one's
AT_ONCE = 2**22  # elements of inverses that are worked on together: they stay in the cache
SHRINK = 0.8  # share of places left at which the gone ones are cut out of the inverses


@dataclass(frozen=True, slots=True, kw_only=True)
class Obs:
    """Exact elimination: the increase of the output error when a block goes and the rest follows.

    Each bundle of outputs has its own inverse of the Gram matrix, from which the places that went
    are taken out exactly. The score of a block is the error of its own elimination, never below
    that of an earlier one, relative to the energy of what the layer feeds: scores of one network
    can be compared, and added up they bound the error of the layer from above.

    Args:
        damping: Ridge strength as a share of the mean diagonal of the Gram matrix.
        steps: Blocks go one by one while at most this many are left, else the same share of those
            left goes together, with the exact joint update.
        largest_work: Outputs times inputs cubed up to which a layer is eliminated as a whole;
            beyond it the inputs are taken in parts, each eliminated with the others in place.

    Source:
        Frantar and Alistarh 2022, arXiv:2208.11580 (OBC), algorithm 1 and appendix for blocks and
        n:m; Hassibi and Stork 1993. Here blocks of several outputs share one inverse, several
        blocks go in one step, and an intercept is free where repair has one.
    """

    needs_data = True
    damping: float = 1e-3
    steps: int = 32
    largest_work: float = 4e11

    def __post_init__(self) -> None:
        for name in ("damping", "steps", "largest_work"):
            if not getattr(self, name) > 0:
                raise StrategyError(f"obs: {name} is {getattr(self, name)}; it must be above 0")

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """Scores of one layer.

        Args:
            layer: Without `gram` all inputs count as uncorrelated and alike.
            tiling: Which weights go together.

        Returns:
            Relative error per weight of each block, `(N, B)` float64.
        """
        weight = layer.weight * layer.scale[:, :, None]
        w_NRBM = tiling.blocks(weight)
        if layer.gram is None:
            rises = w_NRBM.square().sum((1, 3)) / weight.square().sum().clamp_min(TINY)
            return rises / tiling.sizes.clamp_min(1)
        inverses = inverse_grams(layer, tiling, self.damping)
        width = self._width(weight.shape[0] * tiling.bundles, tiling)
        rises = torch.cat(
            [
                _by_parts(w, inverse, tiling, self.steps, width)
                for w, inverse in zip(w_NRBM.split(tiling.bundles), inverses, strict=True)
            ]
        )
        return rises / max(layer.energy, TINY) / tiling.sizes.clamp_min(1)

    def _width(self, bundles: int, tiling: Tiling) -> int:
        """Blocks of a part: as many as the work allows, whole runs of an n:m pattern."""
        blocks, size = tiling.index.shape
        places = blocks * size
        if bundles * float(places) ** 3 <= self.largest_work:
            return blocks
        run = tiling.pattern.of or 1
        width = int(math.sqrt(self.largest_work / (bundles * places))) // size
        return max(run, width // run * run)


def inverse_grams(layer: Matrix, tiling: Tiling, damping: float) -> Tensor:
    """Damped inverse Gram matrices in the order of a pattern's blocks, `(G, P, P)`.

    Args:
        layer: With a Gram matrix.
        tiling: Which weights go together; places that stick out are uncorrelated.
        damping: As a share of the mean diagonal.
    """
    assert layer.gram is not None  # the caller has looked
    xx = layer.gram.centred().xx if layer.free else layer.gram.xx.clone()
    diagonal = xx.diagonal(dim1=1, dim2=2)
    diagonal += (damping * diagonal.mean(1, keepdim=True)).clamp_min(TINY)
    inverse = torch.linalg.inv(xx)
    index, real = tiling.index.flatten(), tiling.real.flatten()
    out = torch.eye(len(index), dtype=xx.dtype).repeat(len(xx), 1, 1)
    out[:, real.nonzero(), real.nonzero().T] = inverse[:, index[real][:, None], index[real]]
    return out


def _by_parts(w_NRBM: Tensor, inverse: Tensor, tiling: Tiling, steps: int, width: int) -> Tensor:
    """Rise of the error as each block goes in turn within its part, `(N, B)`."""
    blocks, size = tiling.index.shape
    rises = []
    for start in range(0, blocks, width):
        part = slice(start * size, min(start + width, blocks) * size)
        own = w_NRBM[:, :, start : start + width]
        rises.append(_eliminated(own, inverse[part, part], tiling, steps))
    return torch.cat(rises, 1)


def _eliminated(w_NRBM: Tensor, inverse: Tensor, tiling: Tiling, steps: int) -> Tensor:
    """Rise of the error as each block goes in turn, `(N, B)`; infinite where one has to stay."""
    few = max(1, AT_ONCE // inverse.numel())
    return torch.cat([_Elimination.of(w, inverse, tiling).run(steps) for w in w_NRBM.split(few)])


@dataclass(eq=False, slots=True)
class _Elimination:
    """Bundles of one group on their way from whole to empty.

    Args:
        weight: What is left, compensated, `(N, R, P)`.
        inverse: Of the Gram matrix of the places left, `(N, P, P)`.
        block: Block of the whole that each block left is, `(N, B)`.
        gone: Whether a block left has gone since the last shrinking, `(N, B)`.
        rises: Of all blocks, `(N, blocks of the whole)`.
        floor: Largest rise so far, `(N,)`.
        runs: Blocks that may still go of each run of an n:m pattern, `(N, runs)`; None without.
    """

    tiling: Tiling
    weight: Tensor
    inverse: Tensor
    block: Tensor
    gone: Tensor
    rises: Tensor
    floor: Tensor
    runs: Tensor | None

    @classmethod
    def of(cls, w_NRBM: Tensor, inverse: Tensor, tiling: Tiling) -> _Elimination:
        count, rows, blocks, _ = w_NRBM.shape
        pattern, runs = tiling.pattern, None
        if pattern.of is not None and pattern.keep is not None:
            runs = torch.full((count, blocks // pattern.of), pattern.of - pattern.keep)
        return cls(
            tiling=tiling,
            weight=w_NRBM.reshape(count, rows, -1).clone(),
            inverse=inverse.repeat(count, 1, 1),
            block=torch.arange(blocks).repeat(count, 1),
            gone=torch.zeros(count, blocks, dtype=torch.bool),
            rises=torch.full((count, blocks), torch.inf, dtype=w_NRBM.dtype),
            floor=torch.zeros(count, dtype=w_NRBM.dtype),
            runs=runs,
        )

    def run(self, steps: int) -> Tensor:
        """Let blocks go until none may."""
        while (chosen := self._next(steps)) is not None:
            self._drop(chosen)
            if self.gone[0].sum() > (1 - SHRINK) * self.gone.shape[1]:
                self._shrink()
        return self.rises

    @property
    def size(self) -> int:
        """Inputs of a block."""
        return self.tiling.index.shape[1]

    def _costs(self) -> Tensor:
        """Rise of the error when each block goes alone, `(N, B)`; infinite where it may not."""
        if self.size == 1:
            diagonal = self.inverse.diagonal(dim1=1, dim2=2)
            costs = self.weight.square().sum(1) / diagonal.clamp_min(TINY)
        else:
            count, rows, places = self.weight.shape
            shape = (count, places // self.size, self.size)
            own = self.inverse.view(*shape, *shape[1:]).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
            w_NBMR = self.weight.view(count, rows, *shape[1:]).permute(0, 2, 3, 1)
            costs = (torch.linalg.solve(own, w_NBMR) * w_NBMR).sum((2, 3))
        costs = costs.masked_fill(self.gone, torch.inf)
        return costs if self.runs is None else self._within_runs(costs)

    def _within_runs(self, costs: Tensor) -> Tensor:
        """Only the cheapest block of each run that may still lose one."""
        assert self.runs is not None
        assert self.tiling.pattern.of is not None
        run = self.block // self.tiling.pattern.of
        costs = costs.masked_fill(self.runs.gather(1, run) == 0, torch.inf)
        rank = costs.argsort(dim=1, stable=True).argsort(dim=1)  # unlike costs, never equal
        least = torch.full(self.runs.shape, rank.shape[1]).scatter_reduce(1, run, rank, "amin")
        return costs.masked_fill(rank > least.gather(1, run), torch.inf)

    def _next(self, steps: int) -> Tensor | None:
        """Blocks left that go now, cheapest first, `(N, k)`; None when none may."""
        costs = self._costs()
        free = int(costs.isfinite().sum(1).min())
        left = int((~self.gone[0]).sum())
        count = min(free, max(1, left // steps))
        return costs.argsort(dim=1, stable=True)[:, :count] if count else None

    def _drop(self, chosen: Tensor) -> None:
        """Take blocks out of weights and inverses, and note what each cost in its turn."""
        place = (chosen[:, :, None] * self.size + torch.arange(self.size)).flatten(1)
        rows_NKP = self.inverse.gather(1, place[:, :, None].expand(-1, -1, self.inverse.shape[2]))
        own_NKK = rows_NKP.gather(2, place[:, None, :].expand(-1, place.shape[1], -1))
        w_NRK = self.weight.gather(2, place[:, None, :].expand(-1, self.weight.shape[1], -1))
        factor, _ = torch.linalg.cholesky_ex(own_NKK)
        half = torch.linalg.solve_triangular(factor, rows_NKP, upper=False)
        turn = torch.linalg.solve_triangular(factor, w_NRK.mT, upper=False)
        self.weight.baddbmm_(turn.mT, half, alpha=-1)
        self.inverse.baddbmm_(half.mT, half, alpha=-1)
        self._clear(place)
        self._note(chosen, turn.square().sum(2).view(*chosen.shape, self.size).sum(2))

    def _clear(self, place: Tensor) -> None:
        """Leave places that are gone without weight and without ties."""
        self.weight.scatter_(2, place[:, None, :].expand(-1, self.weight.shape[1], -1), 0)
        across = place[:, :, None].expand(-1, -1, self.inverse.shape[2])
        self.inverse.scatter_(1, across, 0)
        self.inverse.scatter_(2, across.mT, 0)
        self.inverse.diagonal(dim1=1, dim2=2).scatter_(1, place, 1)

    def _note(self, chosen: Tensor, rises: Tensor) -> None:
        rises = torch.maximum(rises.nan_to_num(0.0).cummax(1).values, self.floor[:, None])
        turn = torch.arange(1, rises.shape[1] + 1, dtype=rises.dtype)
        rises = rises * (1 + TIE * turn)
        self.floor = rises[:, -1]
        whole = self.block.gather(1, chosen)
        self.rises.scatter_(1, whole, rises)
        self.gone.scatter_(1, chosen, True)
        if self.runs is not None and self.tiling.pattern.of is not None:
            self.runs.scatter_add_(1, whole // self.tiling.pattern.of, -torch.ones_like(whole))

    def _shrink(self) -> None:
        """Cut the gone blocks out of everything."""
        left = (~self.gone).nonzero()[:, 1].view(len(self.gone), -1)
        place = (left[:, :, None] * self.size + torch.arange(self.size)).flatten(1)
        self.weight = self.weight.gather(2, place[:, None, :].expand(-1, self.weight.shape[1], -1))
        rows = self.inverse.gather(1, place[:, :, None].expand(-1, -1, self.inverse.shape[2]))
        self.inverse = rows.gather(2, place[:, None, :].expand(-1, place.shape[1], -1))
        self.block = self.block.gather(1, left)
        self.gone = torch.zeros_like(self.block, dtype=torch.bool)

"""Wanda: magnitude times the norm of the input, ranked within each output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.pruning.patterns import Tiling
from penjing.pruning.weights.protocol import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanda:
    """Squared weight times the squared norm of its input, as a rank within its output.

    Args:
        within_outputs: Whether blocks compete within their own output (bundle) only, as in the
            source; else the products themselves are compared over the layer.

    Source:
        Sun et al. 2023, arXiv:2306.11695, eq. 1. Here also for convolutions by patches and for
        blocks, by the sum over a block.
    """

    needs_data = True
    within_outputs: bool = True

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """Scores of one layer.

        Args:
            layer: Without `gram` every input counts alike.
            tiling: Which weights go together.

        Returns:
            `(N, B)` float64; ranks in (0, 1] with `within_outputs`.
        """
        weight = layer.weight.square()
        if layer.gram is not None:
            weight = weight * layer.gram.xx.diagonal(dim1=1, dim2=2)[:, None, :]
        scores = tiling.blocks(weight).sum((1, 3)) / tiling.sizes.clamp_min(1)
        if not self.within_outputs:
            return scores
        order = scores.argsort(dim=1, stable=True)
        ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64).expand_as(scores)
        return torch.zeros_like(scores).scatter_(1, order, ranks / scores.shape[1])

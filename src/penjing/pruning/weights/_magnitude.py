"""Magnitude of weights: no data, the usual baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from penjing.errors import StrategyError
from penjing.pruning.patterns import Tiling
from penjing.pruning.weights.protocol import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude:
    """Size of the weights of each block, as stored: norms behind the layer play no part.

    Args:
        p: The mean of |w|^p over the block; infinity is the largest |w|. Single weights are ranked
            alike by all of them.

    Raises:
        StrategyError: `p` is not above 0.

    Source:
        Han et al. 2015, arXiv:1506.02626, for single weights. Ranked before norms are folded in:
        behind a fold the ranking is far worse.

    Example:
        >>> import torch
        >>> from penjing.pruning.patterns import Pattern
        >>> weight = torch.tensor([[[3.0, -1.0]]], dtype=torch.float64)
        >>> layer = Matrix(name="fc.weight", weight=weight, scale=torch.ones(1, 1))
        >>> Magnitude()(layer, Tiling.of(Pattern(), weight, 1)).tolist()
        [[9.0, 1.0]]
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise StrategyError(f"magnitude: p is {self.p}; it is above 0, infinity included")

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """Scores of one layer.

        Args:
            layer: Only `weight` is read.
            tiling: Which weights go together.

        Returns:
            `(N, B)` float64.
        """
        w_NRBM = tiling.blocks(layer.weight.abs())
        if math.isinf(self.p):
            return w_NRBM.amax((1, 3))
        return w_NRBM.pow(self.p).sum((1, 3)) / tiling.sizes.clamp_min(1)

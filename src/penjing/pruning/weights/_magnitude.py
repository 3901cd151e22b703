"""Magnitude of weights: no data, the usual baseline."""

from __future__ import annotations

from torch import Tensor

from penjing.pruning.patterns import Tiling
from penjing.pruning.weights.protocol import Matrix


def magnitude(layer: Matrix, tiling: Tiling, /) -> Tensor:
    """Mean square of the weights of each block, as stored: norms behind the layer play no part.

    Args:
        layer: Only `weight` is read.
        tiling: Which weights go together.

    Returns:
        `(N, B)` float64.

    Source:
        Han et al. 2015, arXiv:1506.02626, for single weights. Ranked before norms are folded in:
        behind a fold the ranking is far worse.

    Example:
        >>> import torch
        >>> from penjing.pruning.patterns import Pattern
        >>> weight = torch.tensor([[[3.0, -1.0]]], dtype=torch.float64)
        >>> layer = Matrix(name="fc.weight", weight=weight, scale=torch.ones(1, 1))
        >>> magnitude(layer, Tiling.of(Pattern(), weight, 1)).tolist()
        [[9.0, 1.0]]
    """
    squares = tiling.blocks(layer.weight.square()).sum((1, 3))
    return squares / tiling.sizes.clamp_min(1)

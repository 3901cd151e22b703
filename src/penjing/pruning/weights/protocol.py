"""What an importance of weights sees, and what it gives.

Suffixes as in `pruning.patterns`: G = convolution groups, V = outputs, U = inputs, N = bundles of
outputs, B = blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from penjing.pruning.patterns import Tiling
from penjing.statistics.grams import Gram


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Matrix:
    """A layer as an importance of weights sees it.

    Args:
        name: Qualified name of the weight.
        weight: `(G, V, U)` float64, as stored.
        scale: Scale of the norm behind the layer, `(G, V)`; ones without one.
        gram: Sums over what the layer reads; None without data or where the op has no patches.
        free: Whether an intercept behind the layer can make up for a mean.
        energy: Sum of squares of what the layer feeds, over the rows of `gram`; errors are
            relative to it.
    """

    name: str
    weight: Tensor
    scale: Tensor
    gram: Gram | None = None
    free: bool = False
    energy: float = 1.0


class WeightImportance(Protocol):
    """Rank the blocks of a layer's weights. Any callable of this shape is one."""

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """One finite, non-negative value per block, `(N, B)`; the lowest goes first.

        Args:
            layer: The layer; not changed.
            tiling: Which weights go together.

        Returns:
            Scores, `(N, B)` float64.
        """
        ...


@runtime_checkable
class NeedsData(Protocol):
    """An importance of weights that reads `Matrix.gram`."""

    needs_data: bool

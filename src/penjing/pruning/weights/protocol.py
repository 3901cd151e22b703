"""What an importance of weights sees, and what it gives.

Suffixes as in `pruning.patterns`: G = convolution groups, V = outputs, U = inputs, N = bundles of
outputs, B = blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from penjing.graph.capture import Program
from penjing.pruning.patterns import Tiling
from penjing.statistics.grams import Gram, Layer
from penjing.task import Calibration


@dataclass(frozen=True, slots=True)
class Target:
    """A weight that may become sparse.

    Args:
        weight: Qualified name.
        tiling: How the pattern lies on it.
        layers: Layers that use it, in the order of the graph; none for a recurrent matrix.
    """

    weight: str
    tiling: Tiling
    layers: tuple[Layer, ...] = ()

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as matrices `(G, V, U)` float64."""
        weight = weight.detach().double()
        return self.layers[0].matrix(weight) if self.layers else weight[None]

    def tensor(self, matrix: Tensor) -> Tensor:
        """The weight whose `matrix` this is."""
        return self.layers[0].tensor(matrix) if self.layers else matrix[0]


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


@runtime_checkable
class AtSparsity(Protocol):
    """An importance of weights whose order is made for one sparsity."""

    def at(self, sparsity: float) -> WeightImportance:
        """The same for another sparsity.

        Args:
            sparsity: Share of the layer's weights that goes.
        """
        ...


@runtime_checkable
class PreparesWeights(Protocol):
    """An importance of weights that must see the whole network first."""

    def prepare(
        self, program: Program, targets: Sequence[Target], calibration: Calibration | None
    ) -> WeightImportance:
        """Look at the network once, for all weights.

        Args:
            program: The captured network; not changed.
            targets: What may become sparse.
            calibration: Samples, with labels where the importance needs them; None when there are
                none.

        Returns:
            An importance for these weights.
        """
        ...

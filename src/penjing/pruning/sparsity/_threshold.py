"""Thresholds by a function of depth: classical threshold pruning."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.pruning.sparsity.protocol import Removal, Scored, lowest

TINY = 1e-300  # keeps quotients finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Weights below a threshold go: a common factor times the layer's spread and a shape in depth.

    The factor is the one that makes as many zeros as are asked for. One point makes the shape
    constant, two make it linear, more make it piecewise linear. Depth is 0 at the first layer that
    may become sparse and 1 at the last.

    Args:
        shape: Points (depth, relative threshold), depths rising within [0, 1], thresholds above 0.
        relative: Whether thresholds are multiples of the root mean square of a layer's weights, or
            the same for all layers.

    Raises:
        StrategyError: There is no point, or one outside its range.

    Source:
        Han et al. 2015, arXiv:1506.02626, section 3: a quality parameter times the standard
        deviation of a layer's weights, there chosen by hand.

    Example:
        >>> layer = Scored(
        ...     name="a", scores=torch.tensor([1.0, 4.0]), sizes=torch.ones(2), shape=(1, 2, 1)
        ... )
        >>> Threshold()([layer], Removal(amount=1))
        {'a': 0.5}
    """

    shape: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    relative: bool = True

    def __post_init__(self) -> None:
        depths = [depth for depth, _ in self.shape]
        rising = all(a < b for a, b in pairwise(depths))
        inside = all(0 <= depth <= 1 and height > 0 for depth, height in self.shape)
        if not self.shape or not rising or not inside:
            raise StrategyError(
                f"threshold: shape is {self.shape}; give points (depth, threshold) with depths "
                "rising within [0, 1] and thresholds above 0"
            )

    def __call__(self, layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
        """Sparsity of every layer.

        Args:
            layers: What may become sparse, in the order of the network; scores are mean squares of
                weights in the source.
            removal: How much has to go.

        Returns:
            Sparsity by layer name.
        """
        last = max(len(layers) - 1, 1)
        values = [self._over(layer, number / last) for number, layer in enumerate(layers)]
        return lowest(layers, values, removal)

    def _over(self, layer: Scored, depth: float) -> Tensor:
        """Scores as multiples of the layer's squared threshold."""
        height = self.at(depth) ** 2
        if not self.relative:
            return layer.scores.double() / height
        known = layer.scores.isfinite()
        sizes = layer.sizes.double() * known
        mean = (layer.scores.double().where(known, torch.zeros(())) * sizes).sum() / sizes.sum()
        return layer.scores.double() / (mean.clamp_min(TINY) * height)

    def at(self, depth: float) -> float:
        """The relative threshold at a depth; flat before the first point and behind the last.

        Args:
            depth: In [0, 1].

        Example:
            >>> Threshold(shape=((0.0, 1.0), (1.0, 3.0))).at(0.5)
            2.0
        """
        depths = [point for point, _ in self.shape]
        right = bisect_right(depths, depth)
        if right in (0, len(depths)):
            return self.shape[min(right, len(depths) - 1)][1]
        (a, low), (b, high) = self.shape[right - 1], self.shape[right]
        return low + (high - low) * (depth - a) / (b - a)

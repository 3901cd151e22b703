"""The distribution of one activation, and what an observer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penjing.quantization.formats import Grid

BINS = 2048


@dataclass(frozen=True, eq=False, slots=True)
class Histogram:
    """How often values fall into equal bins between the smallest and the largest.

    Args:
        minimum: Smallest value seen.
        maximum: Largest value seen.
        counts: Values per bin, float64 `(BINS,)`; empty when the observer asked for the range only.
        bits: Bits of the grid that is sought.
    """

    minimum: float
    maximum: float
    counts: Tensor
    bits: int = 8

    @property
    def centres(self) -> Tensor:
        """Middle of each bin, float64."""
        width = (self.maximum - self.minimum) / len(self.counts)
        return self.minimum + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)

    def shrunk(self, low: float, high: float) -> tuple[float, float]:
        """The range with its negative side times `low` and its positive side times `high`."""
        return min(self.minimum, 0.0) * low, max(self.maximum, 0.0) * high

    def squared_error(self, minimum: float, maximum: float) -> float:
        """Mean squared error of rounding to the grid of a range."""
        x = self.centres
        error = (Grid.affine(minimum, maximum, self.bits).fake(x) - x).square()
        return float((error * self.counts).sum() / self.counts.sum().clamp_min(1))


def search(
    histogram: Histogram, error: Callable[[float, float], float], steps: int, smallest: float
) -> tuple[float, float]:
    """The range with the least error: both sides are shrunk together first, then each alone.

    Args:
        histogram: What was seen.
        error: Of a range.
        steps: Ranges tried per side.
        smallest: Smallest share of a side that is tried.

    Returns:
        The best range found.
    """
    shares = [1 - (1 - smallest) * i / steps for i in range(steps)]

    def best(ranges: list[tuple[float, float]]) -> tuple[float, float]:
        return min(ranges, key=lambda r: error(*histogram.shrunk(*r)))

    low, high = best([(s, s) for s in shares])
    if histogram.minimum < 0 < histogram.maximum:
        low, high = best([(low, high), *((low, s) for s in shares)])
        low, high = best([(low, high), *((s, high) for s in shares)])
    return histogram.shrunk(low, high)


class Observer(Protocol):
    """Choose the range of an activation. Any callable of this shape is an observer."""

    def __call__(self, histogram: Histogram, /) -> tuple[float, float]:
        """Return (minimum, maximum) with minimum <= maximum; values outside are clipped."""
        ...

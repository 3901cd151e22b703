"""A range that leaves out a small share of the values."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import StrategyError
from penjing.quantization.observers.histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """Leave out the outermost values on each side.

    Args:
        share: Share of all values that is kept inside on each side, 0.5 < share <= 1.

    Source:
        McKinstry et al. 2018, arXiv:1809.04191; 99.99 % as Wu et al. 2020, arXiv:2004.09602.
    """

    share: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.5 < self.share <= 1:
            raise StrategyError(f"share is {self.share}; it lies above 0.5 and at most at 1")

    def __call__(self, histogram: Histogram, /) -> tuple[float, float]:
        """The range between the two percentiles, to the width of a bin.

        Args:
            histogram: What was seen.

        Returns:
            The range.
        """
        below = histogram.counts.cumsum(0) / histogram.counts.sum().clamp_min(1)
        width = (histogram.maximum - histogram.minimum) / len(histogram.counts)
        low = int((below < 1 - self.share).sum())
        high = int((below < self.share).sum()) + 1
        return histogram.minimum + low * width, histogram.minimum + high * width


percentile = Percentile()

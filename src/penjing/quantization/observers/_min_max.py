"""The whole range: nothing is clipped."""

from __future__ import annotations

from penjing.quantization.observers.histogram import Histogram


def min_max(histogram: Histogram, /) -> tuple[float, float]:
    """Smallest and largest value seen.

    Args:
        histogram: What was seen.

    Returns:
        The range.

    Source:
        Jacob et al. 2018, arXiv:1712.05877.
    """
    return histogram.minimum, histogram.maximum

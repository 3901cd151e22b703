"""The range with the smallest mean squared rounding error."""

from __future__ import annotations

from dataclasses import dataclass

from penjing.quantization.observers.histogram import Histogram, search


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError:
    """Trade clipping against rounding: shrink the range while the squared error falls.

    Args:
        steps: Ranges tried per search.
        smallest: Smallest share of the whole range that is tried.

    Source:
        Sung et al. 2015, arXiv:1511.06488 (L2 error minimisation).
    """

    steps: int = 60
    smallest: float = 0.1

    def __call__(self, histogram: Histogram, /) -> tuple[float, float]:
        """The best range found.

        Args:
            histogram: What was seen.

        Returns:
            The range.
        """
        return search(histogram, histogram.squared_error, self.steps, self.smallest)


mse = MeanSquaredError()

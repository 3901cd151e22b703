"""The range that keeps the distribution: least relative entropy between before and after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from penjing.quantization.formats import Grid
from penjing.quantization.observers.histogram import Histogram, search

_NEVER = 1e-6  # probability of a bin at the edge that held nothing before clipping


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy:
    """Shrink the range while the distribution on the grid stays like the one before.

    Args:
        steps: Ranges tried.
        smallest: Smallest share of the whole range that is tried.

    Source:
        Migacz 2017, "8-bit inference with TensorRT": values outside count at the edge, each level
        is spread evenly over the bins that held values. Here on the affine grid.
    """

    steps: int = 60
    smallest: float = 0.3

    def __call__(self, histogram: Histogram, /) -> tuple[float, float]:
        """The best range found.

        Args:
            histogram: What was seen.

        Returns:
            The range.
        """
        return search(histogram, partial(_relative_entropy, histogram), self.steps, self.smallest)


entropy = Entropy()


def _relative_entropy(histogram: Histogram, minimum: float, maximum: float) -> float:
    """Relative entropy of the clipped distribution against the one on the grid, in nats."""
    inside = (histogram.centres >= minimum) & (histogram.centres <= maximum)
    if int(inside.sum()) <= 1:
        return float("inf")
    first, last = int(inside.nonzero()[0]), int(inside.nonzero()[-1])
    counts = histogram.counts[first : last + 1].clone()
    seen = counts > 0
    wanted = counts.clone()
    wanted[0] += histogram.counts[:first].sum()
    wanted[-1] += histogram.counts[last + 1 :].sum()
    grid = Grid.affine(minimum, maximum, histogram.bits)
    level = grid.quantize(histogram.centres[first : last + 1]).long() - grid.low
    levels = grid.high - grid.low + 1
    found = _spread(counts, seen, level, levels)
    p, q = wanted / wanted.sum().clamp_min(1), found / found.sum().clamp_min(1)
    both = p > 0
    return float((p[both] * (p[both] / q[both].clamp_min(_NEVER)).log()).sum())


def _spread(counts: Tensor, seen: Tensor, level: Tensor, levels: int) -> Tensor:
    """Counts of each level, evenly over the bins that held values."""
    mass = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, counts)
    bins = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, seen.double())
    return torch.where(seen, mass[level] / bins[level].clamp_min(1), 0.0)

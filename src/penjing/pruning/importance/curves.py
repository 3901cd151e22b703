"""Error curves of groups from a few measured points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def curve_through(counts: Sequence[int], errors: Tensor, units: int) -> Tensor:
    """Error by number of units gone, straight between those tried, and beyond the last.

    Args:
        counts: Units gone, ascending, above 0 and below `units`.
        errors: Error of each.
        units: Of the group.

    Returns:
        `(units + 1,)` float64, from 0, not falling.

    Example:
        >>> curve_through([2], torch.tensor([1.0]), 3).tolist()
        [0.0, 0.5, 1.0, 2.0]
    """
    known = [0.0, *torch.cummax(errors, 0).values.tolist()] if len(errors) else [0.0]
    at = [0, *counts]
    last = known[-1] + (known[-1] - known[-2]) if len(known) > 1 else 1.0
    at, known = [*at, units], [*known, max(last, known[-1])]
    curve = torch.zeros(units + 1, dtype=torch.float64)
    for (a, low), (b, high) in zip(
        zip(at, known, strict=True), list(zip(at, known, strict=True))[1:], strict=False
    ):
        steps = torch.arange(a, b + 1, dtype=torch.float64)
        curve[a : b + 1] = low + (high - low) * (steps - a) / (b - a)
    return curve

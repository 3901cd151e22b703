"""Movement of values as nested loops: an index array written as counts and strides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RANK = 6
"""Most loops that the compiled code has."""


@dataclass(frozen=True, slots=True)
class Loops:
    """Positions `offset + sum(i * stride)`, the last loop fastest.

    Args:
        counts: Iterations of every loop.
        strides: Steps between positions of every loop.
        offset: The first position.
    """

    counts: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def loops_of(index: NDArray[Any]) -> Loops | None:
    """The fewest nested loops that visit positions in the order of an index array.

    Args:
        index: Integers, read in row-major order; none negative.

    Returns:
        The loops; None when there are none of at most `RANK`.

    Example:
        >>> loops_of(np.arange(12).reshape(3, 4)[::2, ::2])
        Loops(counts=(2, 2), strides=(8, 2), offset=0)
    """
    left = np.asarray(index, np.int64).reshape(-1)
    offset = int(left[0])
    counts: list[int] = []
    strides: list[int] = []
    while len(left) > 1:
        count = _run(left)
        if count < 2 or len(counts) == RANK:
            return None
        counts.append(count)
        strides.append(int(left[1] - left[0]))
        left = left[::count]
    return Loops(tuple(counts[::-1]) or (1,), tuple(strides[::-1]) or (1,), offset)


def _run(index: NDArray[np.int64]) -> int:
    """Length of the longest innermost loop that divides an index array."""
    step = index[1] - index[0]
    breaks = np.flatnonzero(np.diff(index) != step)
    longest = int(breaks[0]) + 1 if len(breaks) else len(index)
    for count in range(longest, 1, -1):
        if len(index) % count == 0 and (np.diff(index.reshape(-1, count), axis=1) == step).all():
            return count
    return 1

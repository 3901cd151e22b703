"""How the weights of a layer are stored."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

FARTHEST = 255
"""Largest distance between two weights of a list; a weight of zero bridges what is farther."""

LONGEST = 0xFFFF
"""Most values that an output of a sparse kernel may read; counts and distances take two bytes."""

ENCODINGS: Mapping[str, str] = {
    "sparse": "delta",
    "gather": "delta in sixteens",
    "picks": "picks of four",
    "words": "delta in words",
    "twos": "delta in twos",
}
"""What the description calls the encoding of a sparse kernel; "delta" as among float weights."""

_WORD = 4
SIXTEEN = 16
POOL = 64
"""Bytes out of which a step picks."""


def as_rows(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Output by output."""
    return np.ascontiguousarray(weight, np.int8).reshape(-1)


def as_pairs(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Two outputs in turn, word by word; rows filled up to whole words, a last odd one alone."""
    rows = weight.reshape(len(weight), -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % _WORD))).astype(np.int8)
    even = len(rows) // 2 * 2
    words = rows.shape[1] // _WORD
    pairs = rows[:even].reshape(even // 2, 2, words, _WORD).transpose(0, 2, 1, 3)
    return np.concatenate([pairs.reshape(-1), rows[even:].reshape(-1)])


def as_sixteens(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Sixteen outputs, row of the kernel, four bytes of the row, output, byte; filled with zeros.

    Args:
        weight: (outputs, rows, columns, channels).

    Returns:
        The bytes in that order.
    """
    runs = weight.reshape(len(weight), weight.shape[1], -1)
    fill = ((0, -len(runs) % SIXTEEN), (0, 0), (0, -runs.shape[2] % _WORD))
    filled = np.pad(runs, fill).astype(np.int8)
    blocks = filled.reshape(-1, SIXTEEN, filled.shape[1], filled.shape[2] // _WORD, _WORD)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4)).reshape(-1)


def as_picks(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Steps in which each of sixteen outputs picks four of the same 64 bytes.

    Args:
        weight: (outputs, rows, columns, channels).

    Returns:
        Per sixteen outputs, row of the kernel and 64 bytes of the row as many steps as the output
        of the most nonzeros needs, each 64 indices and 64 weights, output by output; their number.
    """
    runs = weight.reshape(len(weight), weight.shape[1], -1)
    fill = ((0, -len(runs) % SIXTEEN), (0, 0), (0, -runs.shape[2] % POOL))
    pools = np.pad(runs, fill).astype(np.int8)
    pools = pools.reshape(-1, SIXTEEN, pools.shape[1], pools.shape[2] // POOL, POOL)
    pools = pools.transpose(0, 2, 3, 1, 4).reshape(-1, SIXTEEN, POOL)
    steps = -(-np.count_nonzero(pools, axis=2).max(1) // _WORD)
    order = np.argsort(pools == 0, axis=2, kind="stable")
    values = np.take_along_axis(pools, order, 2)
    both = np.stack([order.astype(np.int8), values], 1)
    every = both.reshape(len(pools), 2, SIXTEEN, SIXTEEN, _WORD).transpose(0, 3, 1, 2, 4)
    kept = np.arange(SIXTEEN) < steps[:, None]
    return every[kept].reshape(-1), steps.astype(np.uint8)


def count_steps(weight: NDArray[Any]) -> int:
    """Steps of `as_picks`, of all outputs."""
    return int(as_picks(weight)[1].sum())


def in_window(weight: NDArray[Any], columns: int, dilation: int) -> NDArray[np.int8]:
    """A weight among the zeros of a wider window.

    Args:
        weight: (outputs, rows, columns, channels).
        columns: Of the window.
        dilation: Columns from tap to tap.

    Returns:
        (outputs, rows, `columns`, channels).
    """
    outputs, rows, taps, channels = weight.shape
    window = np.zeros((outputs, rows, columns, channels), np.int8)
    window[:, :, : (taps - 1) * dilation + 1 : dilation] = weight
    return window


def as_list(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Per output a count in two bytes, then pairs of a distance and a weight.

    Args:
        weight: Output channels first.

    Returns:
        The bytes of the list.

    Example:
        >>> as_list(np.array([[0, 5, 0, -7], [0, 0, 0, 0]])).tolist()
        [2, 0, 1, 5, 2, -7, 0, 0]
    """
    parts = [_entries(row) for row in weight.reshape(len(weight), -1)]
    data = [b for part in parts for b in (*_two_bytes(len(part)), *chain(*part))]
    return np.array(data, np.int64).astype(np.uint8).view(np.int8)


def as_chunks(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Per output a count of chunks in two bytes, then chunks of sixteen weights.

    Args:
        weight: Output channels first.

    Returns:
        Per chunk the distance of its base from the one before (two bytes, low first), sixteen
        distances from the base and sixteen weights; zeros fill the last chunk of an output.
    """
    data: list[int] = []
    for row in weight.reshape(len(weight), -1):
        chunks = _chunks(np.flatnonzero(row))
        data += _two_bytes(len(chunks))
        base = 0
        for positions in chunks:
            step, base = int(positions[0]) - base, int(positions[0])
            fill = (0, SIXTEEN - len(positions))
            data += [*_two_bytes(step), *np.pad(positions - base, fill).tolist()]
            data += np.pad(row[positions].astype(np.int64), fill).tolist()
    return np.array(data, np.int64).astype(np.uint8).view(np.int8)


def _two_bytes(value: int) -> tuple[int, int]:
    """Low first."""
    return value & 0xFF, value >> 8


def _chunks(positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """At most sixteen positions each, none farther than `FARTHEST` from the first."""
    found, at = [], 0
    while at < len(positions):
        near = np.searchsorted(positions, positions[at] + FARTHEST, side="right")
        end = min(at + SIXTEEN, int(near))
        found.append(positions[at:end])
        at = end
    return found


def count_chunks(weight: NDArray[Any]) -> int:
    """Chunks of `as_chunks`, of all outputs."""
    return sum(len(_chunks(np.flatnonzero(row))) for row in weight.reshape(len(weight), -1))


def _entries(row: NDArray[Any]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = 0
    for position in np.flatnonzero(row).tolist():
        while position - at > FARTHEST:
            found.append((FARTHEST, 0))
            at += FARTHEST
        found.append((position - at, int(row[position])))
        at = position
    return found


def sparse_bytes(weight: NDArray[Any]) -> int:
    """Bytes of `as_list`."""
    return sum(2 + 2 * len(_entries(row)) for row in weight.reshape(len(weight), -1))


def as_words(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Per output a count in two bytes, then a distance in words and four weights of every block.

    Args:
        weight: Output channels first; the rest of every output comes in whole words.

    Returns:
        The bytes; a block of zeros bridges what is farther than a byte says.

    Example:
        >>> as_words(np.array([[0, 0, 0, 0, 1, 2, 0, 3]])).tolist()
        [1, 0, 1, 1, 2, 0, 3]
    """
    data: list[int] = []
    for row in weight.reshape(len(weight), -1, _WORD):
        found, at = [], 0
        for block in np.flatnonzero((row != 0).any(1)).tolist():
            while block - at > FARTHEST:
                found += [FARTHEST, 0, 0, 0, 0]
                at += FARTHEST
            found += [block - at, *row[block].tolist()]
            at = block
        data += [*_two_bytes(len(found) // 5), *found]
    return np.array(data, np.int64).astype(np.uint8).view(np.int8)


def as_twos(weight: NDArray[Any]) -> NDArray[np.int8]:
    """Per two outputs a count in two bytes, then two distances and four weights of two inputs.

    Args:
        weight: Output channels first; a last odd one is paired with zeros.

    Returns:
        The bytes: weights of the first input and both outputs, then of the second; zeros bridge
        what is farther than a byte says, and fill the last pair.

    Example:
        >>> as_twos(np.array([[0, 5, 0, 7], [0, 6, 0, 8]])).tolist()
        [1, 0, 1, 2, 5, 6, 7, 8]
    """
    rows = weight.reshape(len(weight), -1)
    twos = np.pad(rows, ((0, len(rows) % 2), (0, 0))).reshape(-1, 2, rows.shape[1])
    data: list[int] = []
    for two in twos:
        steps, at = [], 0
        for place in np.flatnonzero((two != 0).any(0)).tolist():
            while place - at > FARTHEST:
                steps.append((FARTHEST, 0, 0))
                at += FARTHEST
            steps.append((place - at, *two[:, place].tolist()))
            at = place
        steps += [(0, 0, 0)] * (len(steps) % 2)
        pairs = zip(steps[::2], steps[1::2], strict=True)
        found = [b for p, q in pairs for b in (p[0], q[0], *p[1:], *q[1:])]
        data += [*_two_bytes(len(steps) // 2), *found]
    return np.array(data, np.int64).astype(np.uint8).view(np.int8)

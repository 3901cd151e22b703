"""The smallest ways to write the weights of a convolution: which are there, and what they are.

What is there (`index`) is written once for a bundle of neighbouring outputs, which share their
zeros when they are pruned in blocks:

    dense    nothing: all weights are there
    delta    a count of two bytes, then distances of one byte; a weight of zero bridges what is
             farther
    csr      a count, then places, of two bytes each
    bitmap   one bit per weight, rows of the kernel filled up to bytes
    runs     weights in cells of so many neighbouring inputs, a code per cell for which of them are
             there: n:m patterns and blocks along the inputs
    kernels  the same, a cell being all taps of one input channel: kernels and their patterns

Values follow each other output by output: bytes, or codes of 4, 2 or 1 bits into a codebook, which
is how weights of so many bits are stored. Everything is lossless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Index = Literal["dense", "delta", "csr", "bitmap", "runs", "kernels"]

WIDTHS = (1, 2, 4, 8)
"""Bits of a code, of a value or of the shape of a cell."""

BUNDLES = (1, 2, 4, 8, 16)
"""Outputs that may share their places."""

RUNS = (16, 8, 4)
"""Neighbouring inputs of a cell."""

FARTHEST = 255
"""Largest distance that one byte says."""

_TAPS = 62  # of a kernel whose shape is one number


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the inputs of one output lie.

    Args:
        rows: Of the kernel; 1 where they touch.
        run: Inputs of a row.
        pitch: Bytes from row to row.
        taps: Columns of a row, in the middle of which others may lie, and bytes between them.
    """

    rows: int
    run: int
    pitch: int
    taps: tuple[int, int]

    @property
    def places(self) -> NDArray[np.int64]:
        """Of every input."""
        return (np.arange(self.rows)[:, None] * self.pitch + np.arange(self.run)).reshape(-1)


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """A way to write weights.

    Args:
        index: How places are written.
        bits: Of a value; fewer than 8 are codes.
        bundle: Outputs that share their places.
        cell: Neighbouring inputs of a cell of `runs`.
    """

    index: Index
    bits: int = 8
    bundle: int = 1
    cell: int = 0


@dataclass(frozen=True)
class Listed:
    """Weights in one form.

    Args:
        form: The form.
        weight: (outputs, inputs), in the order of the grid; the outputs a multiple of the bundle.
        grid: Where inputs lie.
    """

    form: Form
    weight: NDArray[Any]
    grid: Grid

    @cached_property
    def there(self) -> NDArray[np.bool_]:
        """Inputs of every bundle that are written, (bundles, inputs)."""
        bundles = self.weight.reshape(-1, self.form.bundle, self.weight.shape[1])
        if self.form.index == "dense":
            return np.ones(bundles[:, 0].shape, bool)
        kept: NDArray[np.bool_] = (bundles != 0).any(1)
        return kept

    @cached_property
    def values(self) -> NDArray[np.int8]:
        """Output by output, zeros that bridge distances included."""
        columns = [self._columns(kept) for kept in self.there]
        rows = self.weight.reshape(-1, self.form.bundle, self.weight.shape[1])
        found = [
            np.where(at >= 0, one[at], 0)
            for at, bundle in zip(columns, rows, strict=True)
            for one in bundle
        ]
        return np.concatenate(found).astype(np.int8)

    def _columns(self, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Columns of an output's values; -1 for a zero that bridges a distance."""
        columns = np.flatnonzero(kept)
        if self.form.index != "delta":
            return self._in_cells(columns)
        ahead = np.diff(self.grid.places[columns], prepend=0)
        at = np.repeat(columns, np.maximum(0, ahead - 1) // FARTHEST + 1)
        last = np.diff(at, append=-1) != 0
        return np.where(last, at, -1)

    def _in_cells(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """In the order in which cells are gone through."""
        if self.form.index != "kernels":
            return columns
        order = np.full(self.weight.shape[1], -1)
        cells = self._cells
        order[cells.reshape(-1)] = np.arange(cells.size)
        return columns[np.argsort(order[columns], kind="stable")]

    @property
    def _cells(self) -> NDArray[np.int64]:
        """Columns of every cell, (cells, size)."""
        rows, run = self.grid.rows, self.grid.run
        columns = np.arange(rows * run).reshape(rows, run)
        if self.form.index == "runs":
            return columns.reshape(-1, self.form.cell)
        taps, apart = self.grid.taps
        starts = np.arange(taps) * apart
        picked = columns[:, starts[:, None] + np.arange(self.channels)]
        return picked.transpose(2, 0, 1).reshape(self.channels, -1)

    @property
    def channels(self) -> int:
        """Inputs of one tap."""
        taps, apart = self.grid.taps
        return self.grid.run - (taps - 1) * apart

    @cached_property
    def book(self) -> NDArray[np.int8] | None:
        """Values by code; None where they are written themselves."""
        return None if self.form.bits == 8 else np.unique(self.values)

    @cached_property
    def packed(self) -> NDArray[np.int8]:
        """Values or their codes, several to a byte, the first in the lowest bits."""
        if self.book is None:
            return self.values
        return pack(np.searchsorted(self.book, self.values), self.form.bits).view(np.int8)

    @cached_property
    def shapes(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Which inputs of a cell each code means, as bits; codes by bundle and cell."""
        kept = self.there[:, self._cells]
        bits = np.uint64(1) << np.arange(kept.shape[2], dtype=np.uint64)
        numbers = (kept * bits).sum(2, dtype=np.uint64)
        found, codes = np.unique(numbers, return_inverse=True)
        return found, codes.reshape(-1)

    @property
    def shape_bits(self) -> int:
        """Of the code of a cell; 0 where there are none."""
        if self.form.index not in {"runs", "kernels"}:
            return 0
        return width_of(len(self.shapes[0]))

    @cached_property
    def places(self) -> NDArray[np.uint8]:
        """What is written of places."""
        if self.form.index == "dense":
            return np.zeros(0, np.uint8)
        if self.form.index in {"runs", "kernels"}:
            return pack(self.shapes[1], self.shape_bits)
        if self.form.index == "bitmap":
            rows = self.there.reshape(len(self.there), self.grid.rows, self.grid.run)
            return np.packbits(rows, axis=2, bitorder="little").reshape(-1)
        one = [self._list(np.flatnonzero(kept)) for kept in self.there]
        return np.concatenate(one).astype(np.uint8)

    def _list(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """A count and the places of a bundle."""
        places = self.grid.places[columns]
        if self.form.index == "csr":
            return np.concatenate([_two_bytes(np.array([len(places)])), _two_bytes(places)])
        distances = []
        for ahead in np.diff(places, prepend=0).tolist():
            bridges = max(0, ahead - 1) // FARTHEST
            distances += [FARTHEST] * bridges + [ahead - FARTHEST * bridges]
        return np.concatenate([_two_bytes(np.array([len(distances)])), distances]).astype(np.int64)

    @cached_property
    def offsets(self) -> NDArray[np.uint16] | None:
        """Of the inputs of each shape from where a cell begins.

        First where each shape's part begins, and where the last one ends; None without cells.
        """
        if not self.shape_bits:
            return None
        within = self.grid.places[self._cells[0]]
        parts = [within[_bits(int(shape), len(within))] for shape in self.shapes[0]]
        starts = len(parts) + 1 + np.cumsum([0, *map(len, parts)])
        return np.concatenate([starts, *parts]).astype(np.uint16)

    @property
    def size_bytes(self) -> int:
        """Of all arrays."""
        extra = [a.nbytes for a in (self.book, self.offsets) if a is not None]
        return self.places.nbytes + self.packed.nbytes + sum(extra)

    @property
    def name(self) -> str:
        """What it is called."""
        form, name = self.form, str(self.form.index)
        if self.shape_bits:
            counts = {_count(int(s)) for s in self.shapes[0]}
            whole = {0, self._cells.shape[1]}
            tall = f"block {form.bundle}x{form.cell}"
            loose = max(counts) == self._cells.shape[1]
            some = f"cells of {form.cell}" if loose else f"{max(counts)}:{form.cell}"
            runs = tall if counts <= whole else some
            name = runs if form.index == "runs" else "kernel" if counts <= whole else "pattern"
        if form.bundle > 1 and not name.startswith("block"):
            name = f"block {form.bundle}x1, {name}"
        return name if form.bits == 8 else f"{name} + {form.bits}-bit codebook"


def pack(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes of so many bits, several to a byte, the first in the lowest.

    Example:
        >>> pack(np.array([1, 2, 3]), 4).tolist()
        [33, 3]
    """
    each = 8 // bits
    filled = np.pad(codes, (0, -len(codes) % each)).reshape(-1, each).astype(np.uint8)
    shifted = filled << (bits * np.arange(each)).astype(np.uint8)
    whole: NDArray[np.uint8] = np.bitwise_or.reduce(shifted, 1).astype(np.uint8)
    return whole


def width_of(count: int) -> int:
    """Bits that tell so many things apart, a power of two.

    Example:
        >>> [width_of(n) for n in (1, 2, 3, 16, 256)]
        [1, 1, 2, 4, 8]
    """
    return next((bits for bits in WIDTHS if count <= 1 << bits), 2 * WIDTHS[-1])


def forms(weight: NDArray[Any], grid: Grid) -> Iterator[Listed]:
    """Every form that a weight can have.

    Args:
        weight: (outputs, inputs), in the order of the grid.
        grid: Where inputs lie.
    """
    for form in _places(weight, grid):
        listed = Listed(form, weight, grid)
        if listed.shape_bits > WIDTHS[-1]:
            continue
        yield listed
        bits = width_of(len(np.unique(listed.values)))
        if bits < WIDTHS[-1]:
            yield Listed(replace(form, bits=bits), weight, grid)


def _places(weight: NDArray[Any], grid: Grid) -> Iterator[Form]:
    yield Form("dense")
    nonzero = np.count_nonzero(weight)
    for bundle in BUNDLES:
        if len(weight) % bundle:
            continue
        shared = bundle * np.count_nonzero(
            (weight.reshape(-1, bundle, weight.shape[1]) != 0).any(1)
        )
        if bundle > 1 and shared > _SHARED * nonzero:
            continue
        yield Form("delta", bundle=bundle)
        yield Form("csr", bundle=bundle)
        yield Form("bitmap", bundle=bundle)
        for cell in RUNS:
            if grid.run % cell == 0:
                yield Form("runs", bundle=bundle, cell=cell)
        taps = grid.rows * grid.taps[0]
        if 1 < taps <= _TAPS:
            yield Form("kernels", bundle=bundle)


_SHARED = 1.25  # of the nonzeros that a bundle may write, those that are zero in some outputs


def sizes(listed: Iterable[Listed]) -> dict[str, int]:
    """Bytes of forms by name; the least of those that share theirs."""
    found: dict[str, int] = {}
    for one in listed:
        found[one.name] = min(one.size_bytes, found.get(one.name, one.size_bytes))
    return found


def _two_bytes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Low first."""
    return np.stack([values & 0xFF, values >> 8], 1).reshape(-1)


def _bits(number: int, count: int) -> NDArray[np.bool_]:
    return np.array([number >> i & 1 for i in range(count)], bool)


def _count(number: int) -> int:
    return number.bit_count()

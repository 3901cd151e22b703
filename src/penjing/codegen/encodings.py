"""How the nonzeros of a matrix are written down: where they are, and what they are.

    csr       per row the columns, two bytes each (four in wide matrices)
    delta     per row the distances from nonzero to nonzero, one byte each; where one is farther
              than a byte says, a weight of zero lies in between
    bitmap    one bit for every weight
    codebook  with any of these: one byte per weight into a table, where few values occur

A column may stand for a whole block: its entry then has as many values as the block has rows.
Everything is lossless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Index = Literal["csr", "delta", "bitmap"]
INDICES: tuple[Index, ...] = ("csr", "delta", "bitmap")
FARTHEST = 255
"""Largest distance that one byte says."""
WORD = 32
"""Bits of a bitmap that are read at once."""
CODES = 256
"""Values that one byte tells apart."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sparse matrix.

    Args:
        index: How places are written.
        places: uint16 or uint32 columns, uint8 distances, or uint32 words of bits.
        counts: Entries per row.
        values: Per entry, fillers included: float32, or uint8 codes.
        book: What the codes stand for; None where values are written themselves.
        columns: Of the matrix.
    """

    index: Index
    places: np.ndarray
    counts: np.ndarray
    values: np.ndarray
    book: np.ndarray | None
    columns: int

    @property
    def name(self) -> str:
        """Of the encoding."""
        return self.index if self.book is None else f"{self.index} + codebook"

    @property
    def words(self) -> int:
        """Words of bits per row."""
        return -(-self.columns // WORD)

    @property
    def size_bytes(self) -> int:
        """Of all arrays; a bitmap needs no counts."""
        counts = 0 if self.index == "bitmap" else narrowest(self.counts).nbytes
        book = 0 if self.book is None else self.book.nbytes
        return self.places.nbytes + self.values.nbytes + counts + book


def narrowest(values: np.ndarray) -> np.ndarray:
    """Unsigned integers in two bytes where they fit, else in four."""
    return values.astype(np.uint16 if values.max(initial=0) < 1 << 16 else np.uint32)


def entries(matrix: np.ndarray, rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nonzero columns of every bundle of rows.

    Args:
        matrix: (outputs, columns), the outputs a multiple of `rows`.
        rows: Neighbouring outputs that share their columns.

    Returns:
        Bundle and column per entry, in order; values (entries, rows).
    """
    bundles = matrix.reshape(-1, rows, matrix.shape[1])
    bundle, column = np.nonzero((bundles != 0).any(1))
    return bundle, column, bundles[bundle, :, column]


def encode(matrix: np.ndarray, index: Index, *, rows: int = 1, codebook: bool = False) -> Encoded:
    """Write a matrix down.

    Args:
        matrix: (outputs, columns), the outputs a multiple of `rows`.
        index: How places are written.
        rows: Neighbouring outputs that share their columns: the height of a block.
        codebook: Write values as codes.

    Returns:
        The arrays.

    Raises:
        ValueError: More different values than codes.

    Example:
        >>> found = encode(np.array([[0.0, 5.0, 0.0, -7.0], [0.0] * 4]), "delta")
        >>> found.places.tolist(), found.values.ravel().tolist(), found.counts.tolist()
        ([1, 2], [5.0, -7.0], [2, 0])
    """
    bundle, column, values = entries(matrix, rows)
    count, width = len(matrix) // rows, matrix.shape[1]
    places = column
    if index == "delta":
        bundle, places, values = _distances(bundle, column, values)
    counts = np.bincount(bundle, minlength=count)
    if index == "bitmap":
        packed = _bits(bundle, column, (count, width))
    else:
        packed = places.astype(np.uint8) if index == "delta" else _columns(places, width)
    values = values.astype(np.float32)
    book = None
    if codebook:
        book, codes = np.unique(values, return_inverse=True)
        if len(book) > CODES:
            raise ValueError(f"{len(book)} different values, a codebook holds {CODES}")
        values = codes.reshape(values.shape).astype(np.uint8)
    return Encoded(index, packed, counts, values, book, width)


def few_values(matrix: np.ndarray) -> bool:
    """Whether the matrix can have a codebook: its nonzeros, and the zeros that fill."""
    sample = matrix.ravel()[: 16 * CODES]  # most matrices have many: see that at once
    return len(np.unique(sample)) < CODES and len(np.unique(matrix)) < CODES


def sizes(matrix: np.ndarray, rows: int = 1) -> Mapping[str, int]:
    """Bytes of a matrix in every encoding, by name.

    Args:
        matrix: (outputs, columns).
        rows: Height of a block.
    """
    books = (False, True) if few_values(matrix) else (False,)
    found = [encode(matrix, i, rows=rows, codebook=b) for i in INDICES for b in books]
    return {e.name: e.size_bytes for e in found}


def _columns(column: np.ndarray, width: int) -> np.ndarray:
    return column.astype(np.uint16 if width <= 1 << 16 else np.uint32)


def _bits(bundle: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Column c is bit c % 32 of word c // 32."""
    words = np.zeros((shape[0], -(-shape[1] // WORD)), np.uint32)
    bits = np.uint32(1) << (column % WORD).astype(np.uint32)
    np.bitwise_or.at(words, (bundle, column // WORD), bits)
    return words.ravel()


def _distances(
    bundle: np.ndarray, column: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from entry to entry, from column 0 at a row's start, fillers of zero between."""
    first = np.diff(bundle, prepend=-1) != 0
    distance = np.where(first, column, np.diff(column, prepend=0))
    fillers = np.maximum(0, distance - 1) // FARTHEST
    at = np.repeat(np.arange(len(column)), fillers + 1)
    last = np.diff(at, append=len(column)) != 0
    steps = np.where(last, (distance - fillers * FARTHEST)[at], FARTHEST)
    return bundle[at], steps, np.where(last[:, None], values[at], 0.0)

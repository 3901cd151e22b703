"""Sizes of a convolution and the tiles in which its output is computed.

A tile is a few rows of a few pieces; a piece is one vector of neighbouring pixels, whose sum stays
in a register while the weights stream by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Place

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A two-dimensional convolution; a one-dimensional one has height 1.

    Args:
        batch: Images.
        channels: Of the input.
        filters: Channels of the output.
        size: Height and width of the input.
        out: Height and width of the output.
        kernel: Taps.
        stride: Of the taps, down and right.
        padding: Zeros above and to the left.
        dilation: Between taps.
        groups: Of channels.
    """

    batch: int
    channels: int
    filters: int
    size: Pair
    out: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def pointwise(self) -> bool:
        """One tap, no stride, no padding: rows need not be kept apart."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0)) and (
            self.size == self.out
        )

    @property
    def pixels(self) -> int:
        """Positions of the output."""
        return self.out[0] * self.out[1]

    def flat(self) -> Geometry:
        """The same, all rows as one."""
        return replace(self, size=(1, self.size[0] * self.size[1]), out=(1, self.pixels))


def geometry(net: Net, layer: Layer) -> Geometry | None:
    """Sizes of a convolution layer with one or two spatial dimensions, else None."""
    x, y = net.tensors[layer.inputs[0]].shape, net.tensors[layer.outputs[0]].shape
    rank = len(x) - 2
    if rank not in (1, 2):
        return None

    def pair(values: Sequence[int], fill: int) -> Pair:
        return (fill, int(values[0])) if rank == 1 else (int(values[0]), int(values[1]))

    a = layer.attributes
    return Geometry(
        batch=x[0], channels=x[1], filters=y[1], size=pair(x[2:], 1), out=pair(y[2:], 1),
        kernel=pair(layer.weights["weight"].shape[2:], 1), stride=pair(a["stride"], 1),
        padding=pair([before for before, _ in a["padding"]], 0),
        dilation=pair(a["dilation"], 1), groups=a["groups"],
    )  # fmt: skip


def strides4(place: Place) -> tuple[int, int, int, int]:
    """Strides of image, channel, row and pixel."""
    n, c, *rest = place.strides
    return (n, c, 0, rest[0]) if len(rest) == 1 else (n, c, rest[0], rest[1])


def borders(layer: Layer) -> tuple[Pair, ...]:
    """The border of zeros that the padding of a layer asks for."""
    return tuple((int(a), int(b)) for a, b in layer.attributes["padding"])


@dataclass(frozen=True, slots=True)
class Piece:
    """One vector of a row.

    Args:
        column: Of its first pixel, from the start of the tile.
        lanes: Pixels that are computed.
        keep: Pixels that are stored.
    """

    column: int
    lanes: int
    keep: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an output is cut into equal tiles; the last one may overlap the one before it.

    Args:
        rows: Of one tile.
        pieces: Of each row.
        tops: First rows.
        lefts: First columns.
    """

    rows: int
    pieces: tuple[Piece, ...]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def vectors(self) -> int:
        """Accumulators of one tile and filter."""
        return self.rows * len(self.pieces)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.tops) * len(self.lefts)

    @property
    def apart(self) -> bool:
        """Whether no tile overlaps another."""
        wide = self.pieces[-1].column + self.pieces[-1].keep
        sides = ((self.tops, self.rows), (self.lefts, wide))
        return all(b - a >= size for at, size in sides for a, b in pairwise(at))

    @property
    def pitch(self) -> int:
        """Pixels from row to row where rows of a tile are packed for aligned loads."""
        widest = max(p.lanes for p in self.pieces)
        return ceil(max(p.column + p.lanes for p in self.pieces) / widest) * widest

    @property
    def lanes(self) -> tuple[int, ...]:
        """The widths of vector that it uses."""
        return tuple(sorted({p.lanes for p in self.pieces}))


def row_pieces(width: int, lanes: int) -> tuple[Piece, ...]:
    """Vectors that cover a row; the last is the narrowest that does."""
    full, rest = divmod(width, lanes)
    pieces = [Piece(i * lanes, lanes, lanes) for i in range(full)]
    if rest:
        narrow = min((n for n in (4, 8, 16) if rest <= n <= lanes), default=lanes)
        pieces.append(Piece(full * lanes, narrow, rest))
    return tuple(pieces)


def tiling(out: Pair, lanes: int, most: int) -> Tiling:
    """Tiles of at most `most` vectors."""
    height, width = out
    pieces = row_pieces(width, lanes)
    if len(pieces) <= most:
        count = ceil(height / (most // len(pieces)))
        rows = ceil(height / count)
        tops = {min(i * rows, height - rows) for i in range(count)}
        return Tiling(rows, pieces, tuple(sorted(tops)), (0,))
    count = ceil(len(pieces) / most)
    chunk = ceil(len(pieces) / count)
    lefts = [min(i * chunk * lanes, width - chunk * lanes) for i in range(count)]
    whole = tuple(Piece(i * lanes, lanes, lanes) for i in range(chunk))
    return Tiling(1, whole, tuple(range(height)), tuple(sorted(set(lefts))))

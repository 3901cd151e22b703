"""Float kernels for processors with vectors, dense and sparse: what is chosen from, per layer."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.codegen.encodings import INDICES
from penjing.codegen.kernel import Kernel
from penjing.codegen.kernels.block_linear import BlockLinear
from penjing.codegen.kernels.cover import Style
from penjing.codegen.kernels.dense_conv import DenseConv
from penjing.codegen.kernels.dense_linear import DenseLinear
from penjing.codegen.kernels.depthwise import Depthwise
from penjing.codegen.kernels.depthwise_plane import DepthwisePlane
from penjing.codegen.kernels.kernel_conv import KernelConv
from penjing.codegen.kernels.plane_mean import PlaneMean
from penjing.codegen.kernels.pointwise_batch import PointwiseBatch
from penjing.codegen.kernels.recurrent import Recurrent
from penjing.codegen.kernels.recurrent_batch import RecurrentBatch
from penjing.codegen.kernels.run_linear import RunLinear
from penjing.codegen.kernels.sparse_conv import SparseConv
from penjing.codegen.kernels.sparse_linear import ColumnLinear, WindowLinear
from penjing.codegen.kernels.split import Split
from penjing.codegen.kernels.turn import Turn

__all__ = [
    "BOARD_TILES",
    "BlockLinear",
    "ColumnLinear",
    "DenseConv",
    "DenseLinear",
    "Depthwise",
    "DepthwisePlane",
    "KernelConv",
    "PlaneMean",
    "PointwiseBatch",
    "Recurrent",
    "RecurrentBatch",
    "RunLinear",
    "SparseConv",
    "Split",
    "Style",
    "Turn",
    "WindowLinear",
    "board_kernels",
    "compact_kernels",
    "host_kernels",
]

DENSE_TILES = ((8, 3), (6, 4), (12, 2), (4, 6), (4, 3), (6, 2), (3, 4), (4, 1), (1, 8))
"""Filters and vectors at once: those that fit 32 registers, then 16."""
LONG_TILES = ((8, 3), (6, 4), (6, 2), (4, 3))
"""Those of long rows."""
BLOCK_TILES = ((2, 8), (4, 4), (4, 5), (8, 2), (8, 3), (2, 4), (4, 2))
"""Filters that share their zeros and vectors at once."""
WAYS: tuple[dict[str, bool], ...] = ({}, {"staged": True}, {"flat": True})
"""How a convolution reads its input."""
COMPACT_TILES = ((1, 8), (2, 8), (4, 4), (8, 2))
"""The same, where weights shall be small."""
BOARD_TILES = ((1, 4), (2, 4))
"""The same on microcontrollers, whose code shall be small as well."""
LINEAR_TILES = ((1, 8), (1, 4), (6, 4), (4, 4), (2, 8), (4, 2), (2, 4))
"""Rows and vectors at once."""
BLOCKS = [(lanes, along) for lanes in (16, 8, 4) for along in (False, True)]
"""Lengths and directions of blocks in linear layers."""


def host_kernels() -> tuple[Kernel, ...]:
    """Every float kernel in every style; those too big for a machine's registers decline."""
    return (*_convolutions(), *_products(), PlaneMean())


def board_kernels() -> tuple[Kernel, ...]:
    """Float kernels for microcontrollers: small tiles, and inputs read where they lie.

    What staging gains is aligned loads from a cache; a board has none, and its memory is short.
    """
    style = Style(vectors=4)
    once: list[Kernel] = [DenseLinear(rows=1, vectors=4), WindowLinear()]
    return (
        SparseConv(style=style),
        KernelConv(style=style),
        DenseConv(filters=4, style=Style(vectors=1)),
        Depthwise(vectors=4),
        *once,
        ColumnLinear(conv=SparseConv(style=style)),
        *(Recurrent(product=product) for product in once),
        PlaneMean(),
    )


def compact_kernels(tiles: Sequence[tuple[int, int]] = COMPACT_TILES) -> tuple[Kernel, ...]:
    """Every way to write sparse weights, for programs that shall be small.

    Args:
        tiles: Filters that share their zeros, and vectors at once.

    Returns:
        The kernels.
    """
    convolutions = [
        SparseConv(style=Style(vectors=v), bundle=b, index=i, codebook=c)
        for b, v in tiles
        for i in INDICES
        for c in (False, True)
    ]
    products = [ColumnLinear(conv=conv) for conv in convolutions]
    return (*convolutions, *products, *(Recurrent(product=product) for product in products))


def _convolutions() -> tuple[Kernel, ...]:
    sparse = [Style(**how, vectors=v) for how in WAYS for v in (8, 12, 16)]
    dense = [
        DenseConv(filters=f, style=Style(**how, vectors=v, cache_bytes=128 << 10))
        for f, v in DENSE_TILES
        for how in WAYS
    ]
    return (
        *(SparseConv(style=style) for style in sparse),
        *(
            SparseConv(style=Style(**how, vectors=v), bundle=b)
            for b, v in BLOCK_TILES
            for how in (WAYS[0], WAYS[2])
        ),
        *(
            PointwiseBatch(conv=SparseConv(style=Style(staged=s, vectors=v)))
            for s in (False, True)
            for v in (8, 12)
        ),
        *(PointwiseBatch(conv=DenseConv(filters=f, style=Style(vectors=v))) for f, v in LONG_TILES),
        *(KernelConv(style=style) for style in sparse),
        *dense,
        *(Depthwise(vectors=v, flat=f) for v in (4, 8, 12, 16) for f in (False, True)),
        *(DepthwisePlane(vectors=v) for v in (4, 8)),
    )


def _products() -> tuple[Kernel, ...]:
    blocks = [BlockLinear(lanes=n, along=a, rows=m) for n, a in BLOCKS for m in (1, 4)]
    once: list[Kernel] = [WindowLinear(), RunLinear(), DenseLinear(), *blocks[::2]]
    shared = [Split(product=product) for product in once]
    return (
        *(DenseLinear(rows=m, vectors=v) for m, v in LINEAR_TILES),
        *(DenseLinear(vectors=v, skip=True) for v in (8, 4)),
        WindowLinear(),
        *(RunLinear(rows=m) for m in (1, 4)),
        *blocks,
        *shared,
        *(Recurrent(product=product) for product in (*once, *shared)),
        *(
            RecurrentBatch(product=ColumnLinear(conv=SparseConv(style=Style(vectors=v))))
            for v in (1, 4)
        ),
        *(
            ColumnLinear(conv=SparseConv(style=Style(vectors=v, staged=s)))
            for v in (8, 16)
            for s in (False, True)
        ),
        *(ColumnLinear(conv=SparseConv(style=Style(vectors=v), bundle=b)) for b, v in BLOCK_TILES),
    )

"""Float kernels for processors with vectors, dense and sparse: what is chosen from, per layer."""

from __future__ import annotations

from penjing.codegen.kernel import Kernel
from penjing.codegen.kernels.cover import Style
from penjing.codegen.kernels.dense_conv import DenseConv
from penjing.codegen.kernels.dense_linear import DenseLinear
from penjing.codegen.kernels.depthwise import Depthwise
from penjing.codegen.kernels.recurrent import Recurrent
from penjing.codegen.kernels.sparse_conv import SparseConv
from penjing.codegen.kernels.sparse_linear import ColumnLinear, WindowLinear

__all__ = [
    "ColumnLinear",
    "DenseConv",
    "DenseLinear",
    "Depthwise",
    "Recurrent",
    "SparseConv",
    "Style",
    "WindowLinear",
    "host_kernels",
]

DENSE_TILES = ((8, 3), (6, 4), (12, 2), (4, 6), (4, 3), (6, 2), (3, 4), (4, 1), (1, 8))
"""Filters and vectors at once: those that fit 32 registers, then 16."""
LINEAR_TILES = ((1, 8), (1, 4), (6, 4), (4, 4), (2, 8), (4, 2), (2, 4))
"""Rows and vectors at once."""


def host_kernels() -> tuple[Kernel, ...]:
    """Every float kernel in every style; those too big for a machine's registers decline."""
    sparse = [Style(staged=s, vectors=v) for s in (False, True) for v in (8, 12, 16)]
    dense = [
        DenseConv(filters=f, style=Style(vectors=v, staged=s, cache_bytes=128 << 10))
        for f, v in DENSE_TILES
        for s in (False, True)
    ]
    return (
        *(SparseConv(style=style) for style in sparse),
        *dense,
        *(Depthwise(vectors=v) for v in (4, 8, 12, 16)),
        *(DenseLinear(rows=m, vectors=v) for m, v in LINEAR_TILES),
        WindowLinear(),
        Recurrent(product=WindowLinear()),
        Recurrent(product=DenseLinear(rows=1, vectors=8)),
        *(ColumnLinear(style=Style(vectors=v)) for v in (8, 16)),
    )

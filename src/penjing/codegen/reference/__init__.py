"""Plain C for every kind of layer: any strides, no tuning, the last resort of the choice."""

from __future__ import annotations

from penjing.codegen.kernel import Kernel
from penjing.codegen.reference import convolution, movement, pooling, products, recurrent
from penjing.codegen.reference.kernel import Reference, in_place

__all__ = ["reference_kernels"]


def reference_kernels() -> tuple[Kernel, ...]:
    """One kernel per kind of layer.

    Example:
        >>> len({kernel.kind for kernel in reference_kernels()})
        20
    """
    return (
        Reference("conv", convolution.emit, convolution.asks),
        Reference("conv_transpose", convolution.emit_transposed),
        Reference("linear", products.linear, products.linear_asks),
        Reference("matmul", products.matmul),
        Reference("attention", products.attention, products.attention_asks),
        Reference("pool", pooling.pool),
        Reference("adaptive_pool", pooling.adaptive),
        Reference("reduce", pooling.reduce),
        Reference("topk", pooling.topk),
        Reference("softmax", pooling.softmax, in_place),
        Reference("normalize", pooling.normalize, in_place),
        Reference("resize", pooling.resize),
        Reference("map", movement.map_, in_place),
        Reference("move", movement.move),
        Reference("copy", movement.copy),
        Reference("concat", movement.concat),
        Reference("embedding", movement.embedding),
        Reference("lstm", recurrent.lstm, recurrent.asks),
        Reference("gru", recurrent.gru, recurrent.asks),
        Reference("rnn", recurrent.rnn, recurrent.asks),
    )

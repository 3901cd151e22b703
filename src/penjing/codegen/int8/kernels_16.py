"""Layers of 16-bit activations: which kernel, and what it needs.

Weights stay int8 and are written whole, zeros too. Zero points are 0, so zeros around an image are
zeros. A sum has 64 bits; within it, up to 504 products are added in 32.
"""

from __future__ import annotations

from collections.abc import Mapping

from penjing.errors import ExportError
from penjing.quantization.integers import WIDE, IntegerLayer, IntegerNet

TILES_16: Mapping[str, int] = {"pairs_16": 2, "rows_16": 1}
"""Pixels that a convolution kernel takes at a time."""

WORD = 4
_CONV = ("scale_16", "layer_16")

PARTS_16: Mapping[str, tuple[str, ...]] = {
    "pairs_16": (*_CONV, "columns_16", "words", "both", "conv_pairs_16"),
    "rows_16": (*_CONV, "columns_16", "conv_rows_16"),
    "grouped_16": (*_CONV, "grouped_16"),
    "depthwise_16": (*_CONV, "depthwise_16"),
    "conv_transpose_16": (*_CONV, "transposed_16"),
    "matmul_16": ("scale_16", "matmul_16"),
    "add_16": ("to_16", "add_16"),
    "mul_16": ("to_16", "mul_16"),
    "average_16": ("to_16", "pool_16"),
    "max_16": ("to_16", "pool_16"),
    "mean_16": ("to_16", "mean_16"),
    "lookup_16": ("line_16", "lookup_16"),
    "rescale_16": ("to_16", "rescale_16"),
    "concat_16": ("to_16", "rescale_16", "runs"),
    "softmax_16": ("to_16", "line_16", "softmax_16"),
    "pad_16": ("pad",),
    "move_16": ("move",),
    "resize_16": ("resize_16",),
    "layer_norm_16": ("root", "norm_16"),
}
"""Files of C that a kernel needs."""

ORDER_16 = (
    "scale_16", "to_16", "layer_16", "columns_16", "conv_pairs_16", "conv_rows_16", "grouped_16",
    "depthwise_16", "transposed_16", "matmul_16", "add_16", "mul_16", "pool_16", "mean_16",
    "line_16", "lookup_16", "rescale_16", "softmax_16", "resize_16", "norm_16",
)  # fmt: skip
"""The order in which they are written, behind those of int8."""


def is_wide(net: IntegerNet, layer: IntegerLayer) -> bool:
    """Whether a layer has 16-bit activations."""
    return net.tensors[layer.output].bits == WIDE


def kernel_16(layer: IntegerLayer, dense: str) -> str:
    """The kernel of a layer.

    Args:
        layer: The layer.
        dense: "pairs" or "rows", how the target's dense convolutions go.

    Returns:
        One of `PARTS_16`.

    Raises:
        ExportError: There is none.
    """
    kind = layer.kind
    if kind == "conv":
        kind = dense if layer.attributes["groups"] == 1 else "grouped"
    if f"{kind}_16" not in PARTS_16:
        raise ExportError(f"layer {layer.name!r}: {kind} has no kernel of 16-bit activations")
    return f"{kind}_16"


def pitch_16(net: IntegerNet, layer: IntegerLayer, kernel: str) -> int:
    """Bytes between the columns that a convolution gathers; 0 when it reads its input as it is."""
    if kernel not in TILES_16:
        return 0
    depth = int(layer.weights["weight"][0].size)
    source, result = net.tensors[layer.inputs[0]].shape, net.tensors[layer.output].shape
    taps = layer.weights["weight"].shape[1:3]
    plain = not any(map(any, layer.attributes["padding"]))
    one = taps == (1, 1) and source[:2] == result[:2]
    whole = kernel == "rows_16" or depth % WORD == 0
    if plain and whole and (taps == source[:2] or one):
        return 0
    return -(-depth // WORD) * WORD * 2

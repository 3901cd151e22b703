"""Convolutions as C: their constants and calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.choice import walk_of
from penjing.codegen.int8.encodings import Listed
from penjing.codegen.int8.steps import LANES, TILES, WINDOWED, WORD, Frame, Step, window_columns
from penjing.codegen.int8.text import Text, clamped, structured
from penjing.codegen.int8.weights import (
    as_chunks,
    as_list,
    as_pairs,
    as_picks,
    as_rows,
    as_sixteens,
    as_twos,
    as_words,
    in_window,
)
from penjing.errors import ExportError
from penjing.quantization.integers import HIGH, LOW, IntegerLayer, Shape

CONV_FUNCTIONS: Mapping[str, str] = {
    "pairs": "pj_conv", "rows": "pj_conv", "sparse": "pj_sparse", "gather": "pj_gather",
}  # fmt: skip
"""Functions of whole layers, by kernel."""

TILED = frozenset({"listed", "words", "twos"})
"""Kernels that have a function for tiles alone."""

_ENCODERS = {
    "pairs": as_pairs, "rows": as_rows, "sparse": as_list, "gather": as_chunks, "grouped": as_rows,
    "words": as_words, "twos": as_twos,
}  # fmt: skip
_TILE_FUNCTIONS = {
    "pairs": "pj_tile", "rows": "pj_tile", "sparse": "pj_sparse_tile", "gather": "pj_gather_tile",
    "words": "pj_words_tile", "twos": "pj_twos_tile",
}  # fmt: skip
_Q31 = 31
_BYTE = 8
_FLIP = 128  # what is added to bytes where products want them without sign


def conv_structure(  # noqa: PLR0913 - what the kernels differ in
    text: Text,
    layer: IntegerLayer,
    encoded: NDArray[np.int8],
    pitch: int = 0,
    lanes: int = 1,
    word: int = 1,
    shapes: tuple[Shape, Shape] | None = None,
) -> str:
    """Write the constants of a layer: channels filled up to `lanes`, columns to `word` bytes.

    Args:
        text: The program so far.
        layer: A convolution.
        encoded: Its weight.
        pitch: Bytes between columns.
        lanes: Channels that are taken at a time.
        word: Bytes that are.
        shapes: Of its input and output; None for those of its tensors.

    Returns:
        Address of the structure.
    """
    values = _conv_values(text, layer, encoded, pitch, lanes, word, shapes)
    return text.structure(layer, "conv", values)


def _conv_values(  # noqa: PLR0913 - as above
    text: Text,
    layer: IntegerLayer,
    encoded: NDArray[np.int8],
    pitch: int,
    lanes: int = 1,
    word: int = 1,
    shapes: tuple[Shape, Shape] | None = None,
) -> dict[str, Any]:
    """What a structure of a convolution holds, in C."""
    net = text.net
    source, result = net.tensors[layer.inputs[0]], net.tensors[layer.output]
    shapes = shapes or (source.shape, result.shape)
    weight, bias = layer.weights["weight"], layer.weights["bias"].astype(np.int64)
    depthwise = layer.kind == "depthwise"
    axes = (0, 1) if depthwise else (1, 2, 3)
    kernel = weight.shape[:2] if depthwise else weight.shape[1:3]
    check_sums(text, layer, weight, bias, _scale(layer), axes)
    if layer.kind == "conv":  # the sum then takes values as they are, and padding as the zero point
        bias = bias - source.zero_point * weight.astype(np.int64).sum(axes)
    depth = -(-weight[0].size // word) * word
    (top, _), (left, _) = layer.attributes["padding"]
    values: dict[str, Any] = {
        "weight": text.array(layer, "weight", encoded),
        "bias": text.array(layer, "bias", _filled(bias, lanes).astype(np.int32)),
        **_scales(text, layer, lanes),
        **dict(zip(("height", "width", "channels"), shapes[0], strict=True)),
        **dict(zip(("rows", "columns", "outputs"), shapes[1], strict=True)),
        **dict(zip(("kernel_height", "kernel_width"), kernel, strict=True)),
        **dict(zip(("stride_height", "stride_width"), layer.attributes["stride"], strict=True)),
    }
    dilation = layer.attributes["dilation"]
    values |= dict(zip(("dilation_height", "dilation_width"), dilation, strict=True))
    values |= {"top": top, "left": left, "depth": depth, "pitch": pitch}
    values |= {"input_zero": source.zero_point, "zero": result.zero_point, **clamped(layer)}
    return values


def _filled(values: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Values of all channels, filled up to whole lanes."""
    return np.pad(values, (0, -len(values) % lanes), mode="edge")


def _scales(text: Text, layer: IntegerLayer, lanes: int) -> dict[str, Any]:
    """Multipliers and shifts, one of each where all channels have the same."""
    multiplier = _filled(layer.weights["multiplier"], lanes)
    shift = _filled(-layer.weights["shift"], lanes).astype(np.int8)
    alike = lanes == 1 and bool((multiplier == multiplier[0]).all() and (shift == shift[0]).all())
    count = 1 if alike else len(shift)
    return {
        "multiplier": text.array(layer, "multiplier", multiplier[:count]),
        "shift": text.array(layer, "shift", shift[:count]),
        "which": 0 if alike else -1,
    }


def _scale(layer: IntegerLayer) -> tuple[NDArray[Any], NDArray[Any]]:
    return layer.weights["multiplier"], layer.weights["shift"]


def check_sums(
    text: Text,
    layer: IntegerLayer,
    weight: NDArray[Any],
    bias: NDArray[np.int64],
    scale: tuple[NDArray[Any], NDArray[Any]],
    axes: tuple[int, ...] = (1,),
) -> None:
    """Refuse a layer whose sums could leave 32 bits, on the way or while they are rescaled.

    Args:
        text: Is told the largest sum.
        layer: Named when it is refused.
        weight: In any order.
        bias: Per output channel.
        scale: Multiplier and shift per output channel.
        axes: Of the weight, over which products are added.

    Raises:
        ExportError: A sum may be too large.
    """
    shift = scale[1].astype(np.int64)
    weights = np.abs(weight.astype(np.int64)).sum(axes)
    largest = (np.abs(bias) + weights * (HIGH - LOW)) << np.maximum(shift, 0)
    high = largest * scale[0].astype(np.int64) >> _Q31
    added = np.where(shift < 0, 1 << np.maximum(-shift - 1, 0), -LOW)  # a half, or the zero point
    over = np.maximum(largest, high + added)
    text.largest = max(text.largest, int(largest.max()))
    if (over >= 1 << _Q31).any():
        channel = int(over.argmax())
        raise ExportError(
            f"layer {layer.name!r}: sums of output channel {channel} may reach "
            f"{int(largest[channel])}, beyond what 32 bits hold while they are rescaled; its "
            "weights or bias are too large for its scales"
        )


def conv_call(text: Text, step: Step) -> str:
    """A convolution in tiles."""
    layer = step.layer
    struct, tile = _tile_structure(text, step)
    scratch = text.scratch(layer.name)
    x = text.at(layer.inputs[0])
    if step.add is None or step.residual is None:
        places = f"{x}, {text.at(layer.output)}, {scratch}"
        if step.kernel in TILED:
            return f"pj_tiled({struct}, {tile}, {TILES[step.kernel]}, {places});"
        return f"{CONV_FUNCTIONS[step.kernel]}({struct}, {places});"
    add = add_structure(text, step.add)
    swapped = int(step.add.inputs[0] == step.residual)
    return (
        f"pj_conv_add({struct}, {tile}, {TILES[step.kernel]}, {add}, "
        f"{swapped}, {x}, {text.at(step.residual)}, {text.at(step.output)}, {scratch}, "
        f"{text.scratch(layer.name, step.column_bytes)});"
    )


def _tile_structure(text: Text, step: Step) -> tuple[str, str]:
    """The constants of a convolution in tiles, and the function of a tile."""
    layer = step.layer
    if step.listed is not None:
        return _listed_structure(text, step, step.listed), tile_name(step.listed)
    weight = layer.weights["weight"]
    if step.kernel in WINDOWED and step.pitch:
        weight = in_window(weight, window_columns(layer), layer.attributes["dilation"][1])
    encoded = _ENCODERS[step.kernel](weight)
    word = WORD if step.kernel == "pairs" else 1
    struct = conv_structure(text, layer, encoded, step.pitch, word=word)
    return struct, _TILE_FUNCTIONS[step.kernel]


def tile_name(listed: Listed) -> str:
    """Of the function that reads weights in this form."""
    bits = "" if listed.form.bits == _BYTE else f"_{listed.form.bits}bit"
    one = "" if listed.grid.pitch else "_pixel"
    return f"pj_{walk_of(listed)}{bits}{one}_tile"


def _listed_structure(text: Text, step: Step, listed: Listed) -> str:
    """The address of a convolution whose weights have a small form."""
    layer, form, grid = step.layer, listed.form, listed.grid
    conv = _conv_values(text, layer, _some(listed.packed), step.pitch)
    found = {"places": listed.places, "book": listed.book, "offsets": listed.offsets}
    arrays = {key: a for key, a in found.items() if a is not None and a.size > 0}
    values: dict[str, Any] = {"conv": structured(conv)}
    for key in found:
        values[key] = text.array(layer, key, arrays[key]) if key in arrays else "NULL"
    cells = form.cell if form.index == "runs" else 1
    kernels = form.index == "kernels"
    values |= {"rows": 1 if kernels else grid.rows, "run": grid.run, "apart": cells}
    values |= {"cells": listed.channels if kernels else grid.run // cells}
    values |= {"bundle": form.bundle, "bits": listed.shape_bits}
    return f"{text.structure(layer, 'listed', values)}.conv"


def _some(values: NDArray[Any]) -> NDArray[Any]:
    """C has no empty arrays."""
    return values if values.size else np.zeros(1, values.dtype)


def wide_call(text: Text, step: Step, frame: Frame) -> str:
    """A convolution of sixteen outputs at a time."""
    layer, at = step.layer, text.scratch(step.layer.name)
    struct, x = _wide_structure(text, step, frame), text.at(layer.inputs[0])
    if step.add is None or step.residual is None:
        return f"pj_wide({struct}, {x}, {text.at(layer.output)}, {at});"
    swapped = int(step.add.inputs[0] == step.residual)
    return (
        f"pj_wide_add({struct}, {add_structure(text, step.add)}, {swapped}, {x}, "
        f"{text.at(step.residual)}, {text.at(step.output)}, {at}, "
        f"{text.scratch(layer.name, step.column_bytes)});"
    )


def _wide_structure(text: Text, step: Step, frame: Frame) -> str:
    layer = step.layer
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    weight, bias = layer.weights["weight"], layer.weights["bias"].astype(np.int64)
    check_sums(text, layer, weight, bias, _scale(layer), (1, 2, 3))
    sums = weight.astype(np.int64).sum((1, 2, 3))
    bias = bias - source.zero_point * sums
    height, width, channels = frame.shape
    (top, _), (left, _) = layer.attributes["padding"]
    (down, right), (apart, _) = layer.attributes["stride"], layer.attributes["dilation"]
    row = frame.framed[1] * channels
    filled = {
        "bias": bias,
        "flipped": bias - _FLIP * sums,
        "multiplier": layer.weights["multiplier"],
        "shift": -layer.weights["shift"],
    }
    values: dict[str, Any] = {"steps": "NULL"}
    encoded = as_sixteens(weight)
    if step.kernel == "picks":
        encoded, steps = as_picks(weight)
        values["steps"] = text.array(layer, "steps", steps)
    values["weight"] = text.array(layer, "weight", _some(encoded))
    for key, numbers in filled.items():
        values[key] = text.array(layer, key, _filled(numbers, LANES).astype(np.int32))
    values |= {"height": height, "width": width, "channels": channels}
    values |= {"rows": frame.rows, "columns": frame.columns, "outputs": result.shape[2]}
    values |= {"tall": frame.framed[0], "wide": frame.framed[1], "top": top, "left": left}
    run = weight.shape[2] * channels
    values |= {"kernel_height": weight.shape[1], "run": run, "reach": apart * row}
    values |= {"down": down * row, "right": right * channels}
    values |= {"input_zero": source.zero_point, "zero": result.zero_point, **clamped(layer)}
    return text.structure(layer, "wide", values)


def grouped(text: Text, layer: IntegerLayer) -> str:
    """A convolution in groups."""
    weight = layer.weights["weight"]
    struct = conv_structure(text, layer, as_rows(weight), 0)
    return (
        f"pj_grouped({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, "
        f"{layer.attributes['groups']});"
    )


def depthwise(text: Text, layer: IntegerLayer, lanes: int = 1) -> str:
    """A convolution of each channel alone."""
    weight = as_rows(layer.weights["weight"])
    struct = conv_structure(text, layer, weight, 0, lanes)
    return f"pj_depthwise({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)});"


def depthwise_lanes(text: Text, layer: IntegerLayer) -> str:
    """A depthwise convolution of sixteen channels at a time."""
    return depthwise(text, layer, LANES)


def conv_transpose(text: Text, layer: IntegerLayer) -> str:
    """A transposed convolution."""
    weight = layer.weights["weight"]
    struct = conv_structure(text, layer, as_rows(weight), 0)
    return (
        f"pj_transposed({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, "
        f"{layer.attributes['groups']});"
    )


def add_structure(text: Text, layer: IntegerLayer) -> str:
    """The constants of an addition."""
    values: dict[str, int] = {}
    for side, key in (("left", "left_"), ("right", "right_"), ("result", "")):
        multiplier, shift = layer.attributes[side]
        values |= {f"{key}multiplier": multiplier, f"{key}shift": -shift}
    zeros = [text.net.tensors[n].zero_point for n in (*layer.inputs, layer.output)]
    values |= dict(zip(("left_zero", "right_zero", "zero"), zeros, strict=True))
    return text.structure(layer, "add", {**values, **clamped(layer)})

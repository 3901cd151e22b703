"""Calls of the kernels of 16-bit activations, as C."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.kernels_16 import WORD, pitch_16
from penjing.codegen.int8.text import Text
from penjing.codegen.int8.weights import as_pairs, as_rows
from penjing.errors import ExportError
from penjing.quantization.integers import IntegerLayer, Scale

MOST_TAPS = 504
"""Products of 16 and 8 bits whose sum fits 32 (`PJ_MOST` in C)."""

_MOST_SUMMED = 2**15  # values of 16 bits that are added in 32
_SUM_LIMIT = 2**47
_Q15 = 15
_REDUCED_MAX = 2**15 - 1


def _at(text: Text, name: str) -> str:
    """Pointer to a tensor; stored ones are of their type already."""
    place = text.at(name)
    return place if name in text.net.constants else f"(int16_t *)({place})"


def _bounds(text: Text, layer: IntegerLayer) -> dict[str, int]:
    """Limits of the activation that a layer ends in."""
    out = text.net.tensors[layer.output]
    return {k: int(layer.attributes.get(k, d)) for k, d in (("low", out.low), ("high", out.high))}


def _limits(text: Text, layer: IntegerLayer) -> str:
    return ", ".join(map(str, _bounds(text, layer).values()))


def _elements(text: Text, name: str) -> int:
    return math.prod(text.net.tensors[name].shape)


def _right(scale: Scale) -> str:
    """A multiplier of 31 bits and the shift to the right behind it."""
    return f"{scale[0]}, {-scale[1]}"


def _reduced(multiplier: NDArray[Any]) -> NDArray[np.int64]:
    """Multipliers of 15 bits; see `formats.rescale_wide`."""
    found: NDArray[np.int64] = (multiplier.astype(np.int64) + (1 << _Q15)) >> (_Q15 + 1)
    return np.minimum(found, _REDUCED_MAX)


def _structure(
    text: Text, layer: IntegerLayer, encoded: NDArray[np.int8], column: tuple[int, int]
) -> str:
    """Write the constants of a layer with a weight; `column`: values of a column, and apart."""
    source, result = text.net.tensors[layer.inputs[0]], text.net.tensors[layer.output]
    weight, depthwise = layer.weights["weight"], layer.kind == "depthwise"
    _check_sums(layer, weight, (0, 1) if depthwise else (1, 2, 3))
    multiplier, down = _reduced(layer.weights["multiplier"]), _Q15 - layer.weights["shift"]
    alike = bool((multiplier == multiplier[0]).all() and (down == down[0]).all())
    count = 1 if alike else len(down)
    kernel = weight.shape[:2] if depthwise else weight.shape[1:3]
    (top, _), (left, _) = layer.attributes["padding"]
    values: dict[str, Any] = {
        "weight": text.array(layer, "weight", encoded),
        "bias": text.array(layer, "bias", layer.weights["bias"].astype(np.int32)),
        "multiplier": text.array(layer, "multiplier", multiplier[:count].astype(np.int16)),
        "shift": text.array(layer, "shift", down[:count].astype(np.int8)),
        "which": 0 if alike else -1,
        **dict(zip(("height", "width", "channels"), source.shape, strict=True)),
        **dict(zip(("rows", "columns", "outputs"), result.shape, strict=True)),
        **dict(zip(("kernel_height", "kernel_width"), kernel, strict=True)),
        **dict(zip(("stride_height", "stride_width"), layer.attributes["stride"], strict=True)),
    }
    dilation = layer.attributes["dilation"]
    values |= dict(zip(("dilation_height", "dilation_width"), dilation, strict=True))
    values |= {"top": top, "left": left, "depth": column[0], "pitch": column[1]}
    return text.structure(layer, "conv_16", {**values, **_bounds(text, layer)})


def _check_sums(layer: IntegerLayer, weight: NDArray[Any], axes: tuple[int, ...]) -> None:
    """Refuse biases beyond 32 bits, and sums that leave 48."""
    bias = np.abs(layer.weights["bias"].astype(np.int64))
    largest = bias + np.abs(weight.astype(np.int64)).sum(axes) * 2**15
    if bias.max() >= 2**31 or largest.max() >= _SUM_LIMIT:
        channel = int(largest.argmax())
        raise ExportError(
            f"layer {layer.name!r}: sums of output channel {channel} may reach "
            f"{int(largest[channel])} from a bias of {int(bias[channel])}; biases have 32 bits, "
            "sums 48. Its weights are too small for its bias"
        )
    if layer.kind == "depthwise" and weight.shape[0] * weight.shape[1] > MOST_TAPS:
        raise ExportError(
            f"layer {layer.name!r}: a depthwise window of {weight.shape[0]}x{weight.shape[1]} "
            f"values has no kernel of 16 bits; at most {MOST_TAPS} are added up"
        )


def _conv(text: Text, layer: IntegerLayer, kernel: str) -> str:
    weight, pitch = layer.weights["weight"], pitch_16(text.net, layer, kernel)
    depth = weight[0].size if kernel == "rows_16" else -(-weight[0].size // WORD) * WORD
    struct = _structure(text, layer, _ENCODERS[kernel](weight), (depth, pitch // 2))
    pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
    return f"pj_conv_16({struct}, {pair}, (int16_t *)({text.scratch(layer.name)}));"


def _as_halves(weight: NDArray[Any]) -> NDArray[np.int8]:
    """As `as_pairs`, the middle two of each word exchanged: even bytes go with the first two."""
    rows = weight.reshape(len(weight), -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % WORD)))
    words = rows.reshape(len(rows), -1, WORD)[:, :, [0, 2, 1, 3]]
    return as_pairs(words)


_ENCODERS = {"pairs_16": _as_halves, "rows_16": as_rows}


def _windowed(function: str) -> Callable[[Text, IntegerLayer], str]:
    def call(text: Text, layer: IntegerLayer) -> str:
        weight = layer.weights["weight"]
        struct = _structure(text, layer, as_rows(weight), (weight[0].size, 0))
        pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
        groups = layer.attributes.get("groups")
        return f"{function}({struct}, {pair}{'' if groups is None else f', {groups}'});"

    return call


def _matmul(text: Text, layer: IntegerLayer) -> str:
    left, right = (text.net.tensors[n].shape for n in layer.inputs)
    multiplier, shift = layer.attributes["result"]
    if left[2] * 2**30 >= _SUM_LIMIT or shift > _Q15 - 1:
        raise ExportError(
            f"layer {layer.name!r}: sums over {left[2]} products may leave 48 bits, or its scales "
            "are too far apart"
        )
    reads = ", ".join(_at(text, n) for n in (*layer.inputs, layer.output))
    sizes = ", ".join(map(str, (*left, right[2])))
    scale = f"{int(_reduced(np.array(multiplier)))}, {_Q15 - shift}"
    return f"pj_matmul_16({reads}, {sizes}, {scale}, {_limits(text, layer)});"


def _add(text: Text, layer: IntegerLayer) -> str:
    values: dict[str, int] = {}
    for side, key in (("left", "left_"), ("right", "right_"), ("result", "")):
        multiplier, shift = layer.attributes[side]
        values |= {f"{key}multiplier": multiplier, f"{key}shift": -shift}
    struct = text.structure(layer, "add_16", {**values, **_bounds(text, layer)})
    reads = ", ".join(_at(text, n) for n in (*layer.inputs, layer.output))
    return f"pj_add_16({struct}, {reads}, {_elements(text, layer.output)});"


def _mul(text: Text, layer: IntegerLayer) -> str:
    reads = ", ".join(_at(text, n) for n in (*layer.inputs, layer.output))
    sizes = f"{_elements(text, layer.output)}, {_elements(text, layer.inputs[1])}"
    scale = _right(layer.attributes["result"])
    return f"pj_mul_16({reads}, {sizes}, {scale}, {_limits(text, layer)});"


def _pool(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    _check_added(layer, math.prod(layer.attributes["kernel"]))
    (top, _), (left, _) = layer.attributes["padding"]
    values: dict[str, Any] = {
        **dict(zip(("height", "width", "channels"), source.shape, strict=True)),
        **dict(zip(("rows", "columns"), result.shape[:2], strict=True)),
        **dict(zip(("kernel_height", "kernel_width"), layer.attributes["kernel"], strict=True)),
        **dict(zip(("stride_height", "stride_width"), layer.attributes["stride"], strict=True)),
        "top": top,
        "left": left,
        **_bounds(text, layer),
    }
    struct = text.structure(layer, "pool_16", values)
    pair = f"{_at(text, source.name)}, {_at(text, result.name)}"
    return f"pj_pool_16({struct}, {pair}, {int(layer.kind == 'max')});"


def _check_added(layer: IntegerLayer, count: int) -> None:
    if count >= _MOST_SUMMED:
        raise ExportError(
            f"layer {layer.name!r}: {count} values of 16 bits do not add up in 32; at most "
            f"{_MOST_SUMMED - 1} do"
        )


def _mean(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.inputs[0]].shape
    _check_added(layer, height * width)
    pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
    scale = _right(layer.attributes["result"])
    return f"pj_mean_16({pair}, {height * width}, {channels}, {scale});"


def _lookup(text: Text, layer: IntegerLayer) -> str:
    points = text.array(layer, "points", layer.weights["table"])
    pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
    return f"pj_lookup_16({points}, {pair}, {_elements(text, layer.output)});"


def _rescale(text: Text, layer: IntegerLayer) -> str:
    pair, n = (
        f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}",
        _elements(text, layer.output),
    )
    return f"pj_rescale_16({pair}, 1, {n}, {n}, {_right(layer.attributes['result'])});"


def _concat(text: Text, layer: IntegerLayer) -> str:
    result, many = layer.output, layer.attributes["runs"]
    apart = _elements(text, result) // many
    calls, at = [], 0
    for name, scale in zip(layer.inputs, layer.attributes["parts"], strict=True):
        run = _elements(text, name) // many
        if scale is None:  # bytes
            place = f"{_bytes(text, name)}, {text.at(result)} + {2 * at}"
            calls.append(f"pj_runs({place}, {many}, {2 * run}, {2 * apart});")
        else:
            place = f"{_at(text, name)}, {_at(text, result)} + {at}"
            calls.append(f"pj_rescale_16({place}, {many}, {run}, {apart}, {_right(scale)});")
        at += run
    return "\n    ".join(calls)


def _bytes(text: Text, name: str) -> str:
    """Pointer to the bytes of a tensor."""
    place = text.at(name)
    return f"(const int8_t *){place}" if name in text.net.constants else place


def _softmax(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.output].shape
    _check_added(layer, channels)
    tables = ", ".join(
        text.array(layer, k, layer.weights[k]) for k in ("exponential", "reciprocal")
    )
    mask, rows = "NULL", 1
    if "mask" in layer.weights:
        values = layer.weights["mask"]
        mask, rows = text.array(layer, "mask", values), values.shape[0] * values.shape[1]
    pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
    scale = _right((layer.attributes["multiplier"], layer.attributes["shift"]))
    return (
        f"pj_softmax_16({pair}, {height * width}, {channels}, {scale}, {tables}, {mask}, {rows});"
    )


def _pad(text: Text, layer: IntegerLayer) -> str:
    """Zeros, by the kernel of bytes."""
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    (top, _), (left, _) = layer.attributes["padding"]
    before, _ = layer.attributes.get("channels", (0, 0))
    wide, deep = result.shape[1:]
    first = 2 * ((top * wide + left) * deep + before)
    return (
        f"pj_pad({_bytes(text, source.name)}, {text.at(result.name)}, {height}, {width}, "
        f"{2 * channels}, {wide}, {2 * deep}, {first}, {result.size_bytes}, 0);"
    )


def _move(text: Text, layer: IntegerLayer) -> str:
    """By the kernel of bytes: the innermost loop is over the two of a value."""
    counts = (*layer.attributes["counts"], 2)
    strides = (*(2 * s for s in layer.attributes["strides"]), 1)
    if len(counts) > 1 and strides[-2] == 2:
        counts, strides = (*counts[:-2], 2 * counts[-2]), (*strides[:-2], 1)
    loops = np.array(list(zip(counts, strides, strict=True))[::-1], np.int32)
    return (
        f"pj_move({_bytes(text, layer.inputs[0])} + {2 * layer.attributes['offset']}, "
        f"{text.at(layer.output)}, {text.array(layer, 'loops', loops)}, {len(counts)}, "
        f"{math.prod(counts[:-1])});"
    )


def _resize(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    tables = [text.array(layer, k, layer.weights[k].astype(np.int32)) for k in ("rows", "columns")]
    sizes = ", ".join(map(str, source.shape))
    return (
        f"pj_resize_16({_at(text, source.name)}, {_at(text, result.name)}, {sizes}, "
        f"{tables[0]}, {result.shape[0]}, {tables[1]}, {result.shape[1]});"
    )


def _layer_norm(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.inputs[0]].shape
    run = len(layer.weights["gain"])
    gain, offset = (text.array(layer, k, layer.weights[k]) for k in ("gain", "offset"))
    pair = f"{_at(text, layer.inputs[0])}, {_at(text, layer.output)}"
    return (
        f"pj_norm_16({pair}, {height * width * channels // run}, {run}, {gain}, {offset}, "
        f"{layer.attributes['shift']}, INT64_C({layer.attributes['epsilon']}), "
        f"{layer.attributes.get('centred', 1)});"
    )


CALLS_16: Mapping[str, Callable[[Text, IntegerLayer], str]] = {
    "pairs_16": lambda text, layer: _conv(text, layer, "pairs_16"),
    "rows_16": lambda text, layer: _conv(text, layer, "rows_16"),
    "grouped_16": _windowed("pj_grouped_16"),
    "depthwise_16": _windowed("pj_depthwise_16"),
    "conv_transpose_16": _windowed("pj_transposed_16"),
    "matmul_16": _matmul,
    "add_16": _add,
    "mul_16": _mul,
    "average_16": _pool,
    "max_16": _pool,
    "mean_16": _mean,
    "lookup_16": _lookup,
    "rescale_16": _rescale,
    "concat_16": _concat,
    "softmax_16": _softmax,
    "pad_16": _pad,
    "move_16": _move,
    "resize_16": _resize,
    "layer_norm_16": _layer_norm,
}
"""The call of every kernel, as C."""

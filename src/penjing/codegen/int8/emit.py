"""The C text of an integer program."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.arena import ALIGN, Arena
from penjing.codegen.int8.image import images
from penjing.codegen.int8.steps import LANES, SPARSE, TILES, Frame, Step, window_columns
from penjing.codegen.int8.weights import (
    as_chunks,
    as_list,
    as_pairs,
    as_rows,
    as_sixteens,
    in_window,
)
from penjing.errors import ExportError
from penjing.quantization.integers import HIGH, LOW, IntegerLayer, IntegerNet, Scale

_C_TYPES: Mapping[str, str] = {"int8": "int8_t", "int32": "int32_t"}
_PER_LINE = 24
_Q31 = 31
_FLIP = 128  # what is added to bytes where products want them without sign

_ORDER = (
    "scale", "words", "both", "halves", "lanes", "layer", "copy", "columns", "finish", "four",
    "window", "conv_pairs", "conv_rows", "conv_sparse", "conv_gather", "conv_wide", "grouped",
    "depthwise_lanes", "depthwise", "add", "conv_add", "add_lanes", "wide_add", "mul", "pool",
    "mean", "lookup", "rescale", "runs", "pad", "move", "softmax", "image", "transposed",
    "matmul", "resize", "norm",
)  # fmt: skip
_CONV = ("scale", "layer", "finish")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "pairs": (*_CONV, "copy", "columns", "words", "both", "conv_pairs"),
    "rows": (*_CONV, "copy", "columns", "four", "conv_rows"),
    "sparse": (*_CONV, "copy", "window", "conv_sparse"),
    "gather": (*_CONV, "copy", "window", "conv_gather"),
    "grouped": (*_CONV, "grouped"),
    "wide": ("scale", "lanes", "conv_wide"),
    "add_lanes": ("scale", "lanes", "add", "add_lanes"),
    "depthwise_lanes": (
        *_CONV,
        "lanes",
        "four",
        "words",
        "halves",
        "depthwise_lanes",
        "depthwise",
    ),
    "depthwise": (*_CONV, "four", "words", "halves", "depthwise"),
    "add": ("scale", "add"),
    "mul": ("scale", "mul"),
    "average": ("scale", "pool"),
    "max": ("scale", "pool"),
    "mean": ("scale", "mean"),
    "lookup": ("lookup",),
    "image": ("image",),
    "rescale": ("scale", "rescale"),
    "concat": ("scale", "rescale", "runs"),
    "softmax": ("scale", "softmax"),
    "pad": ("pad",),
    "move": ("move",),
    "conv_transpose": (*_CONV, "transposed"),
    "matmul": ("scale", "matmul"),
    "resize": ("resize",),
    "layer_norm": ("scale", "norm"),
}
_ENCODERS = {
    "pairs": as_pairs,
    "rows": as_rows,
    "sparse": as_list,
    "gather": as_chunks,
    "grouped": as_rows,
}
_TILE_FUNCTIONS = {
    "pairs": "pj_tile",
    "rows": "pj_tile",
    "sparse": "pj_sparse_tile",
    "gather": "pj_gather_tile",
}
_CONV_FUNCTIONS = {
    "pairs": "pj_conv",
    "rows": "pj_conv",
    "sparse": "pj_sparse",
    "gather": "pj_gather",
}


@dataclass(slots=True)
class Text:
    """A program while it is written.

    Args:
        net: The network.
        arena: Where its tensors lie.
        constants: C text of constant arrays and structures.
        bytes: Size of the constants of every layer, by its name.
        largest: Bound on what is rescaled.
    """

    net: IntegerNet
    arena: Arena
    constants: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    largest: int = 0

    def at(self, name: str) -> str:
        """Pointer to a tensor."""
        if name in self.net.constants:
            return self._constant(name)
        return f"m + {self.arena.offsets[name]}"

    def _constant(self, name: str) -> str:
        """A stored tensor, written once."""
        values = self.net.constants[name]
        if name not in self.bytes:
            self.bytes[name] = values.nbytes
            self.constants.append(
                f"static const int8_t {name}[{values.size}] = {{\n{_numbers(values)}\n}};\n"
            )
        return name

    def array(self, layer: IntegerLayer, name: str, values: NDArray[Any]) -> str:
        """Write a constant array and return its name."""
        found = f"{layer.name}_{name}"
        ctype = _C_TYPES[values.dtype.name]
        self.constants.append(
            f"static const {ctype} {found}[{values.size}] = {{\n{_numbers(values)}\n}};\n"
        )
        self.bytes[layer.name] = self.bytes.get(layer.name, 0) + values.nbytes
        return found

    def structure(self, layer: IntegerLayer, kind: str, values: Mapping[str, Any]) -> str:
        """Write a constant structure and return its address."""
        found = f"{layer.name}_{kind}"
        fields = ",\n    ".join(f".{k} = {v}" for k, v in values.items())
        self.constants.append(f"static const pj_{kind}_t {found} = {{\n    {fields}}};\n")
        return f"&{found}"


def program_text(net: IntegerNet, steps: Sequence[Step], arena: Arena) -> tuple[str, Text]:
    """`net.c`, and what was written while it was made."""
    text = Text(net, arena)
    calls = [
        f"    {_call(text, step)} /* {step.layer.name}: {step.kernel} */\n    NET_DONE({n})"
        for n, step in enumerate(steps)
    ]
    return "\n".join(
        [
            "/* An int8 network; channels last; bit for bit what penjing's reference computes. */",
            '#include "net.h"\n\n#include <assert.h>\n#include <stddef.h>\n#include <string.h>\n',
            *(["#define PJ_WIDE_SUMS\n"] if text.largest >= 1 << (_Q31 - 1) else []),
            "#ifdef NET_PROFILE\nextern void net_done(int step);\n#define NET_DONE(n) net_done(n);",
            "#else\n#define NET_DONE(n)\n#endif\n",
            *_functions(steps),
            *text.constants,
            "void net_run(void *arena) {\n    int8_t *const m = (int8_t *)arena;",
            "    assert((uintptr_t)arena % NET_ARENA_ALIGN == 0);",
            *calls,
            "}\n",
        ]
    ), text


def header_text(net: IntegerNet, arena: Arena) -> str:
    """`net.h`."""
    lines = [
        "/* An int8 network. Write the inputs into the arena, call net_run, read the outputs: they",
        " * lie at NET_INPUT_0(arena) and NET_OUTPUT_0(arena), channels last. The arena is the",
        " * caller's, aligned to NET_ARENA_ALIGN (asserted without NDEBUG), and holds nothing",
        " * between calls; its inputs are overwritten. Calls with different arenas may run at the",
        " * same time.",
        " * A number x is the integer x / scale + zero_point, rounded. */",
        "#ifndef NET_H\n#define NET_H\n#include <stdint.h>\n",
        f"#define NET_ARENA_BYTES {arena.size_bytes}",
        f"#define NET_ARENA_ALIGN {ALIGN}",
    ]
    pictures = images(net)
    for role, names in (("INPUT", net.inputs), ("OUTPUT", net.outputs)):
        for n, name in enumerate(names):
            tensor, picture = net.tensors[name], pictures.get(name)
            key, kind = f"NET_{role}_{n}", "int8_t" if picture is None else "uint8_t"
            lines += [] if picture is None else _image_note(picture)
            lines += [
                f"\n#define {key}(arena) (({kind} *)(arena) + {arena.offsets[name]})",
                f"#define {key}_BYTES {tensor.size_bytes}",
                f"#define {key}_HEIGHT {tensor.shape[0]}",
                f"#define {key}_WIDTH {tensor.shape[1]}",
                f"#define {key}_CHANNELS {tensor.shape[2]}",
            ]
            if picture is None:
                lines.append(f"#define {key}_SCALE {np.float32(tensor.scale):.9g}f")
                lines.append(f"#define {key}_ZERO_POINT ({tensor.zero_point})")
    lines.append("\nvoid net_run(void *arena);\n\n#endif\n")
    return "\n".join(lines)


def _image_note(layer: IntegerLayer) -> list[str]:
    said = textwrap.wrap(f"The next input is no such number: {layer.attributes['note']}.", 96)
    return ["", *(f"{'/*' if i == 0 else ' *'} {line}" for i, line in enumerate(said)), " */"]


def _functions(steps: Sequence[Step]) -> list[str]:
    wanted = {part for step in steps for part in _PARTS[step.kernel]}
    for step in steps:
        if step.add is not None:
            wanted |= (
                {"add", "conv_add"} if step.frame is None else {"add", "add_lanes", "wide_add"}
            )
    folder = files("penjing.codegen.int8").joinpath("c")
    text = "\n".join(folder.joinpath(f"{part}.c").read_text() for part in _ORDER if part in wanted)
    return [_used(text, steps)]


def _used(text: str, steps: Sequence[Step]) -> str:
    """Without the functions of whole layers that no step calls."""
    called = {_CONV_FUNCTIONS[s.kernel] for s in steps if s.kernel in TILES and s.add is None}
    for name in set(_CONV_FUNCTIONS.values()) - called:
        text = re.sub(rf"static void {name}\(.*?\n}}\n", "", text, flags=re.DOTALL)
    return text


def _call(text: Text, step: Step) -> str:
    if step.kernel in TILES:
        return _conv_call(text, step)
    if step.frame is not None:
        return _wide_call(text, step, step.frame)
    return _CALLS[step.kernel](text, step.layer)


def _numbers(values: NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    rows = [flat[i : i + _PER_LINE] for i in range(0, len(flat), _PER_LINE)]
    return ",\n".join("    " + ",".join(map(_number, row)) for row in rows)


def _number(value: int) -> str:
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)


def _clamped(layer: IntegerLayer) -> dict[str, int]:
    return {k: int(layer.attributes.get(k, d)) for k, d in (("low", LOW), ("high", HIGH))}


def _conv_structure(
    text: Text,
    layer: IntegerLayer,
    encoded: NDArray[np.int8],
    pitch: int,
    output: str,
    lanes: int = 1,
) -> str:
    net = text.net
    source, result = net.tensors[layer.inputs[0]], net.tensors[output]
    weight, bias = layer.weights["weight"], layer.weights["bias"].astype(np.int64)
    depthwise = layer.kind == "depthwise"
    axes = (0, 1) if depthwise else (1, 2, 3)
    kernel = weight.shape[:2] if depthwise else weight.shape[1:3]
    _check_sums(text, layer, weight, bias, axes)
    if layer.kind == "conv":  # the sum then takes values as they are, and padding as the zero point
        bias = bias - source.zero_point * weight.astype(np.int64).sum(axes)
    depth = weight[0].size
    (top, _), (left, _) = layer.attributes["padding"]
    values: dict[str, Any] = {
        "weight": text.array(layer, "weight", encoded),
        "bias": text.array(layer, "bias", _filled(bias, lanes).astype(np.int32)),
        **_scales(text, layer, lanes),
        **dict(zip(("height", "width", "channels"), source.shape, strict=True)),
        **dict(zip(("rows", "columns", "outputs"), result.shape, strict=True)),
        **dict(zip(("kernel_height", "kernel_width"), kernel, strict=True)),
        **dict(zip(("stride_height", "stride_width"), layer.attributes["stride"], strict=True)),
    }
    dilation = layer.attributes["dilation"]
    values |= dict(zip(("dilation_height", "dilation_width"), dilation, strict=True))
    values |= {"top": top, "left": left, "depth": depth, "pitch": pitch}
    values |= {"input_zero": source.zero_point, "zero": result.zero_point, **_clamped(layer)}
    return text.structure(layer, "conv", values)


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


def _check_sums(
    text: Text,
    layer: IntegerLayer,
    weight: NDArray[Any],
    bias: NDArray[np.int64],
    axes: tuple[int, ...],
) -> None:
    """Refuse a layer whose sums could leave 32 bits, on the way or while they are rescaled."""
    shift = layer.weights["shift"].astype(np.int64)
    weights = np.abs(weight.astype(np.int64)).sum(axes)
    largest = (np.abs(bias) + weights * (HIGH - LOW)) << np.maximum(shift, 0)
    high = largest * layer.weights["multiplier"].astype(np.int64) >> _Q31
    half = np.where(shift < 0, 1 << np.maximum(-shift - 1, 0), 0)
    over = np.maximum(largest, high + half)
    text.largest = max(text.largest, int(largest.max()))
    if (over >= 1 << _Q31).any():
        channel = int(over.argmax())
        raise ExportError(
            f"layer {layer.name!r}: sums of output channel {channel} may reach "
            f"{int(largest[channel])}, beyond what 32 bits hold while they are rescaled; its "
            "weights or bias are too large for its scales"
        )


def _conv_call(text: Text, step: Step) -> str:
    layer = step.layer
    weight = layer.weights["weight"]
    if step.kernel in SPARSE and step.pitch:
        weight = in_window(weight, window_columns(layer), layer.attributes["dilation"][1])
    encoded = _ENCODERS[step.kernel](weight)
    inner = layer.output
    struct = _conv_structure(text, layer, encoded, step.pitch, inner)
    if step.kernel == "pairs":
        text.constants[-1] = re.sub(
            r"\.depth = (\d+)", lambda m: f".depth = {-(-int(m[1]) // 4) * 4}", text.constants[-1]
        )
    scratch = f"m + {text.arena.scratch[layer.name]}" if step.scratch_bytes else "m"
    x = text.at(layer.inputs[0])
    if step.add is None or step.residual is None:
        return f"{_CONV_FUNCTIONS[step.kernel]}({struct}, {x}, {text.at(layer.output)}, {scratch});"
    add = _add_structure(text, step.add)
    swapped = int(step.add.inputs[0] == step.residual)
    return (
        f"pj_conv_add({struct}, {_TILE_FUNCTIONS[step.kernel]}, {TILES[step.kernel]}, {add}, "
        f"{swapped}, {x}, {text.at(step.residual)}, {text.at(step.output)}, {scratch}, "
        f"{scratch} + {step.column_bytes});"
    )


def _wide_call(text: Text, step: Step, frame: Frame) -> str:
    layer, at = step.layer, f"m + {text.arena.scratch[step.layer.name]}"
    struct, x = _wide_structure(text, layer, frame), text.at(layer.inputs[0])
    if step.add is None or step.residual is None:
        return f"pj_wide({struct}, {x}, {text.at(layer.output)}, {at});"
    swapped = int(step.add.inputs[0] == step.residual)
    return (
        f"pj_wide_add({struct}, {_add_structure(text, step.add)}, {swapped}, {x}, "
        f"{text.at(step.residual)}, {text.at(step.output)}, {at}, {at} + {step.column_bytes});"
    )


def _wide_structure(text: Text, layer: IntegerLayer, frame: Frame) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    weight, bias = layer.weights["weight"], layer.weights["bias"].astype(np.int64)
    _check_sums(text, layer, weight, bias, (1, 2, 3))
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
    values: dict[str, Any] = {"weight": text.array(layer, "weight", as_sixteens(weight))}
    for key, numbers in filled.items():
        values[key] = text.array(layer, key, _filled(numbers, LANES).astype(np.int32))
    values |= {"height": height, "width": width, "channels": channels}
    values |= {"rows": frame.rows, "columns": frame.columns, "outputs": result.shape[2]}
    values |= {"tall": frame.framed[0], "wide": frame.framed[1], "top": top, "left": left}
    run = weight.shape[2] * channels
    values |= {"kernel_height": weight.shape[1], "run": run, "reach": apart * row}
    values |= {"down": down * row, "right": right * channels}
    values |= {"input_zero": source.zero_point, "zero": result.zero_point, **_clamped(layer)}
    return text.structure(layer, "wide", values)


def _grouped(text: Text, layer: IntegerLayer) -> str:
    weight = layer.weights["weight"]
    struct = _conv_structure(text, layer, as_rows(weight), 0, layer.output)
    return (
        f"pj_grouped({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, "
        f"{layer.attributes['groups']});"
    )


def _depthwise(text: Text, layer: IntegerLayer, lanes: int = 1) -> str:
    weight = as_rows(layer.weights["weight"])
    struct = _conv_structure(text, layer, weight, 0, layer.output, lanes)
    return f"pj_depthwise({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)});"


def _depthwise_lanes(text: Text, layer: IntegerLayer) -> str:
    return _depthwise(text, layer, LANES)


def _add_structure(text: Text, layer: IntegerLayer) -> str:
    values: dict[str, int] = {}
    for side, key in (("left", "left_"), ("right", "right_"), ("result", "")):
        multiplier, shift = layer.attributes[side]
        values |= {f"{key}multiplier": multiplier, f"{key}shift": -shift}
    zeros = [text.net.tensors[n].zero_point for n in (*layer.inputs, layer.output)]
    values |= dict(zip(("left_zero", "right_zero", "zero"), zeros, strict=True))
    return text.structure(layer, "add", {**values, **_clamped(layer)})


def _add_lanes(text: Text, layer: IntegerLayer) -> str:
    return _add(text, layer).replace("pj_add(", "pj_add_lanes(", 1)


def _add(text: Text, layer: IntegerLayer) -> str:
    a, b = (text.at(n) for n in layer.inputs)
    n = text.net.tensors[layer.output].size_bytes
    return f"pj_add({_add_structure(text, layer)}, {a}, {b}, {text.at(layer.output)}, {n});"


def _scale_array(text: Text, layer: IntegerLayer, name: str, scale: Scale) -> str:
    return text.array(layer, name, np.array([scale[0], -scale[1]], np.int32))


def _mul(text: Text, layer: IntegerLayer) -> str:
    tensors = [text.net.tensors[n] for n in (*layer.inputs, layer.output)]
    grids = [*(t.zero_point for t in tensors), *_clamped(layer).values()]
    period = tensors[1].size_bytes
    a, b = (text.at(n) for n in layer.inputs)
    return (
        f"pj_mul({a}, {b}, {text.at(layer.output)}, {tensors[2].size_bytes}, {period}, "
        f"{_scale_array(text, layer, 'scale', layer.attributes['result'])}, "
        f"{text.array(layer, 'grids', np.array(grids, np.int8))});"
    )


def _pool(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    (top, _), (left, _) = layer.attributes["padding"]
    values: dict[str, Any] = {
        **dict(zip(("height", "width", "channels"), source.shape, strict=True)),
        **dict(zip(("rows", "columns"), result.shape[:2], strict=True)),
        **dict(zip(("kernel_height", "kernel_width"), layer.attributes["kernel"], strict=True)),
        **dict(zip(("stride_height", "stride_width"), layer.attributes["stride"], strict=True)),
        "top": top,
        "left": left,
        **_clamped(layer),
    }
    struct = text.structure(layer, "pool", values)
    maximum = int(layer.kind == "max")
    return f"pj_pool({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, {maximum});"


def _mean(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    scale = _scale_array(text, layer, "scale", layer.attributes["result"])
    return (
        f"pj_mean({text.at(source.name)}, {text.at(result.name)}, {height * width}, {channels}, "
        f"{scale}, {source.zero_point}, {result.zero_point});"
    )


def _lookup(text: Text, layer: IntegerLayer) -> str:
    table = text.array(layer, "table", layer.weights["table"].astype(np.int8))
    n = text.net.tensors[layer.output].size_bytes
    return f"pj_lookup({table}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, {n});"


def _image(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.output].shape
    table = text.array(layer, "table", layer.weights["table"])
    pair = f"{text.at(layer.inputs[0])}, {text.at(layer.output)}"
    return f"pj_image({table}, {pair}, {height * width}, {channels});"


def _rescale(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    scale = _scale_array(text, layer, "scale", layer.attributes["result"])
    n = result.size_bytes
    return (
        f"pj_rescale({text.at(source.name)}, {text.at(result.name)}, 1, {n}, {n}, {scale}, "
        f"{source.zero_point}, {result.zero_point});"
    )


def _concat(text: Text, layer: IntegerLayer) -> str:
    result = text.net.tensors[layer.output]
    axis = layer.attributes["axis"]
    many, apart = math.prod(result.shape[:axis]), math.prod(result.shape[axis:])
    calls, at = [], 0
    for n, (name, scale) in enumerate(zip(layer.inputs, layer.attributes["parts"], strict=True)):
        source = text.net.tensors[name]
        run = math.prod(source.shape[axis:])
        head = f"{text.at(name)}, {text.at(result.name)} + {at}, {many}, {run}, {apart}"
        if scale is None:
            calls.append(f"pj_runs({head});")
        else:
            array = _scale_array(text, layer, f"scale_{n}", scale)
            zeros = f"{source.zero_point}, {result.zero_point}"
            calls.append(f"pj_rescale({head}, {array}, {zeros});")
        at += run
    return "\n    ".join(calls)


def _softmax(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.output].shape
    numbers = ", ".join(str(layer.attributes[k]) for k in ("multiplier", "shift", "least"))
    return (
        f"pj_softmax({text.at(layer.inputs[0])}, {text.at(layer.output)}, {height * width}, "
        f"{channels}, {numbers});"
    )


def _pad(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    (top, _), (left, _) = layer.attributes["padding"]
    before, _ = layer.attributes.get("channels", (0, 0))
    wide, deep = result.shape[1:]
    first = (top * wide + left) * deep + before
    return (
        f"pj_pad({text.at(source.name)}, {text.at(result.name)}, {height}, {width}, {channels}, "
        f"{wide}, {deep}, {first}, {result.size_bytes}, {source.zero_point});"
    )


def _move(text: Text, layer: IntegerLayer) -> str:
    counts, strides = layer.attributes["counts"], layer.attributes["strides"]
    loops = np.array(list(zip(counts, strides, strict=True))[::-1], np.int32)
    runs = math.prod(counts[:-1])
    return (
        f"pj_move({text.at(layer.inputs[0])} + {layer.attributes['offset']}, "
        f"{text.at(layer.output)}, {text.array(layer, 'loops', loops)}, {len(counts)}, {runs});"
    )


def _conv_transpose(text: Text, layer: IntegerLayer) -> str:
    weight = layer.weights["weight"]
    struct = _conv_structure(text, layer, as_rows(weight), 0, layer.output)
    return (
        f"pj_transposed({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, "
        f"{layer.attributes['groups']});"
    )


def _matmul(text: Text, layer: IntegerLayer) -> str:
    left, right, result = (text.net.tensors[n] for n in (*layer.inputs, layer.output))
    many, rows, inner = left.shape
    grids = [left.zero_point, right.zero_point, result.zero_point, *_clamped(layer).values()]
    _check_product(text, layer, inner)
    return (
        f"pj_matmul({text.at(left.name)}, {text.at(right.name)}, {text.at(result.name)}, {many}, "
        f"{rows}, {inner}, {result.shape[2]}, "
        f"{_scale_array(text, layer, 'scale', layer.attributes['result'])}, "
        f"{text.array(layer, 'grids', np.array(grids, np.int8))});"
    )


def _check_product(text: Text, layer: IntegerLayer, inner: int) -> None:
    """Refuse a product whose sums could leave 32 bits."""
    shift = max(layer.attributes["result"][1], 0)
    text.largest = max(text.largest, inner * (HIGH - LOW) ** 2)
    if inner * (HIGH - LOW) ** 2 << shift >= 1 << _Q31:
        raise ExportError(
            f"layer {layer.name!r}: sums over {inner} products may leave 32 bits while they are "
            "rescaled; its scales are too far apart"
        )


def _resize(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    tables = [text.array(layer, k, layer.weights[k].astype(np.int32)) for k in ("rows", "columns")]
    return (
        f"pj_resize({text.at(source.name)}, {text.at(result.name)}, {height}, {width}, {channels}, "
        f"{tables[0]}, {result.shape[0]}, {tables[1]}, {result.shape[1]});"
    )


def _layer_norm(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    gain, offset = (text.array(layer, k, layer.weights[k]) for k in ("gain", "offset"))
    return (
        f"pj_norm({text.at(source.name)}, {text.at(result.name)}, {height * width}, {channels}, "
        f"{gain}, {offset}, {layer.attributes['shift']}, "
        f"INT64_C({layer.attributes['epsilon']}), {result.zero_point});"
    )


_CALLS = {
    "grouped": _grouped,
    "depthwise": _depthwise,
    "depthwise_lanes": _depthwise_lanes,
    "add_lanes": _add_lanes,
    "add": _add,
    "mul": _mul,
    "average": _pool,
    "max": _pool,
    "mean": _mean,
    "lookup": _lookup,
    "image": _image,
    "rescale": _rescale,
    "concat": _concat,
    "softmax": _softmax,
    "pad": _pad,
    "move": _move,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "resize": _resize,
    "layer_norm": _layer_norm,
}

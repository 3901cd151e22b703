"""The C text of an integer program."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from penjing.codegen.emulator import named
from penjing.codegen.int8.arena import ALIGN, Arena
from penjing.codegen.int8.calls_16 import CALLS_16
from penjing.codegen.int8.choice import walk_of
from penjing.codegen.int8.convolutions import (
    CONV_FUNCTIONS,
    TILED,
    add_structure,
    conv_call,
    conv_transpose,
    depthwise,
    depthwise_lanes,
    grouped,
    tile_name,
    wide_call,
)
from penjing.codegen.int8.encodings import Listed
from penjing.codegen.int8.image import images
from penjing.codegen.int8.kernels_16 import ORDER_16, PARTS_16
from penjing.codegen.int8.parts import part_calls
from penjing.codegen.int8.recurrent import carry, recurrent
from penjing.codegen.int8.steps import TILES, Step
from penjing.codegen.int8.streaming import offsets as state_offsets
from penjing.codegen.int8.text import Text, clamped
from penjing.codegen.int8.volumes import volume
from penjing.codegen.targets import Target
from penjing.codegen.threads import PRELUDE
from penjing.errors import ExportError
from penjing.quantization.integers import (
    BYTE,
    HIGH,
    LOW,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    Scale,
)

_Q31 = 31
_SPAN = HIGH - LOW  # the largest distance between two values of a byte
_WIDTH = 100  # of lines

_CONTRACT = """Write the inputs into the arena, call net_run, read the outputs: they lie at
NET_INPUT_0(arena) and NET_OUTPUT_0(arena), channels last. A number x is the integer x / SCALE +
ZERO_POINT, rounded and cut off at the limits of its type. The arena is the caller's, aligned to
NET_ARENA_ALIGN (asserted without NDEBUG); it holds nothing between calls, and a call overwrites its
inputs. There is no other state: calls with different arenas may run at the same time."""
_BOARD = """ Words are read at any address, so unaligned accesses must not trap (after reset
CCR.UNALIGN_TRP is 0)."""
_OVERVIEW = """@KIND@; channels last; bit for bit what penjing's reference computes. First
the functions that its layers share, then weights and shapes layer by layer, then net_run."""
_HELPER = """#if defined(__GNUC__) /* which of these a program calls depends on the core */
#define PJ_HELPER static inline __attribute__((unused))
#else
#define PJ_HELPER static inline
#endif
"""
_TOGETHER = "\N{NO-BREAK SPACE}"

_OPENING = """#include "net.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>
"""
_PROFILE = """#ifdef NET_PROFILE
#define NET_DONE(n) net_done(n);
#else
#define NET_DONE(n)
#endif
"""
_ENTRY = """void net_run(@TAKES@) {
    int8_t *const m = (int8_t *)arena;
    assert((uintptr_t)arena % NET_ARENA_ALIGN == 0);"""
_STATE = """    int8_t *const s = (int8_t *)state;
    assert((uintptr_t)state % NET_ARENA_ALIGN == 0);"""
_TAKES = {False: "void *arena", True: "void *arena, void *state"}
_STREAM = """ A call takes one piece of a stream. The state, NET_STATE_BYTES aligned as the arena,
is the caller's too; net_reset puts it to the start."""

_DECLARATIONS = """
#ifdef __cplusplus
extern "C" {
#endif

void net_run(@TAKES@);
@RESET@
#ifdef NET_PROFILE
void net_done(int step); /* yours, called after every layer */
#endif

#ifdef __cplusplus
}
#endif

#endif
"""

_ORDER = (
    "scale", "words", "both", "two", "halves", "lanes", "pick", "layer", "copy", "columns",
    "finish", "four", "window", "tile", "tiled", "sums", "conv_pairs", "conv_rows", "conv_sparse",
    "conv_gather", "conv_words", "conv_twos", "listed", "walk_dense", "walk_delta", "walk_csr",
    "walk_bitmap", "walk_cells", "conv_wide", "grouped", "depthwise_pixel", "depthwise_lanes",
    "depthwise", "add", "conv_add", "add_lanes", "wide_add", "mul", "pool", "mean", "lookup",
    "rescale", "runs", "pad", "move", "softmax", "image", "transposed", "matmul", "resize", "root",
    "norm", "layer_norm", "group_norm", "prelu", "embedding", "volume", "recurrent", "gated", "gru",
    "lstm", "rnn", "carry", *ORDER_16,
)  # fmt: skip
_CONV = ("scale", "layer", "finish")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "pairs": (*_CONV, "copy", "columns", "words", "both", "conv_pairs"),
    "rows": (*_CONV, "copy", "columns", "four", "conv_rows"),
    "sparse": (*_CONV, "copy", "window", "conv_sparse"),
    "gather": (*_CONV, "copy", "window", "conv_gather"),
    "listed": (*_CONV, "copy", "window", "tile", "sums", "listed"),
    "words": (*_CONV, "copy", "window", "words", "both", "tile", "sums", "conv_words"),
    "twos": (*_CONV, "copy", "window", "words", "both", "two", "tile", "sums", "conv_twos"),
    "grouped": (*_CONV, "grouped"),
    "volume": (*_CONV, "copy", "columns", "volume"),
    "wide": ("scale", "lanes", "pick", "conv_wide"),
    "picks": ("scale", "lanes", "pick", "conv_wide"),
    "add_lanes": ("scale", "lanes", "add", "add_lanes"),
    "depthwise_lanes": ("scale", "layer", "lanes", "depthwise_lanes", "depthwise"),
    "depthwise": (*_CONV, "four", "words", "halves", "depthwise_pixel", "depthwise"),
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
    "prelu": ("scale", "prelu"),
    "embedding": ("embedding",),
    "layer_norm": ("scale", "root", "norm", "layer_norm"),
    "group_norm": ("scale", "root", "norm", "group_norm"),
    "gru": ("scale", "recurrent", "gated", "gru"),
    "lstm": ("scale", "recurrent", "gated", "lstm"),
    "rnn": ("scale", "recurrent", "rnn"),
    "carry": ("carry",),
    **PARTS_16,
}


def program_text(
    net: IntegerNet, steps: Sequence[Step], arena: Arena, name: str = "net"
) -> tuple[str, Text]:
    """The C file, and what was written while it was made."""
    text = Text(net, arena)
    calls = [
        f"{_comment(net, step)}\n{_calls(text, step)}\n    {name.upper()}_DONE({n})"
        for n, step in enumerate(steps)
    ]
    wide_sums = ["#define PJ_WIDE_SUMS\n"] if text.largest >= 1 << (_Q31 - 1) else []
    return "\n".join(
        [
            *_c_comment(named(_OVERVIEW, name).replace("@KIND@", _kind(net))),
            named(_OPENING, name),
            *wide_sums,
            _HELPER,
            *([PRELUDE] if any(step.parts for step in steps) else []),
            named(_PROFILE, name),
            *_functions(steps),
            *text.constants,
            *([named(_reset_text(net), name)] if net.states else []),
            named(_ENTRY.replace("@TAKES@", _TAKES[bool(net.states)]), name),
            *([named(_STATE, name)] if net.states else []),
            *calls,
            "}\n",
        ]
    ), text


def _kind(net: IntegerNet) -> str:
    """What is in integers of how many bits."""
    wide = any(net.tensors[name].bits > BYTE for name in net.inputs)
    return "A network of int8 weights and int16 values" if wide else "An int8 network"


def _comment(net: IntegerNet, step: Step) -> str:
    """What a call computes, as C."""
    layer = step.layer
    said = layer.kind.replace("_", " ")
    weight = layer.weights.get("weight")
    if weight is not None:
        taps = weight.shape[:2] if layer.kind == "depthwise" else weight.shape[1:-1]
        said += f" {'x'.join(map(str, taps))}"
    shapes = [net.tensors[name].shape for name in (*layer.inputs, layer.output)]
    *given, made = ["x".join(map(str, shape)) for shape in shapes]
    added = "" if step.add is None else f", then {step.add.name}: add"
    kernel = "" if step.kernel == layer.kind else f" ({step.kernel})"
    return _filled(
        f"/* {layer.name}: {said}{kernel}, {' and '.join(given)} to {made}{added} */", "     * "
    )


def _wrapped(calls: str) -> str:
    """Calls in lines of a common length, broken between arguments."""
    return "\n".join(
        _filled(line.strip().replace(" + ", f"{_TOGETHER}+{_TOGETHER}"), " " * 12)
        for line in calls.splitlines()
    )


def _filled(text: str, next_indent: str) -> str:
    filled = textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent=next_indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return filled.replace(_TOGETHER, " ")


def header_text(net: IntegerNet, arena: Arena, target: Target, name: str = "net") -> str:
    """The header."""
    streams = _STREAM if net.states else ""
    board, big = "" if target.board is None else _BOARD, name.upper()
    said = f"{_kind(net)} for {target.name}. {named(_CONTRACT + streams, name)}{board}"
    lines = [
        *_c_comment(said),
        f"#ifndef {big}_H\n#define {big}_H\n#include <stdint.h>\n",
        f"#define {big}_ARENA_BYTES {arena.size_bytes}",
        f"#define {big}_ARENA_ALIGN {ALIGN}",
    ]
    pictures = images(net)
    for role, names in (("INPUT", net.inputs), ("OUTPUT", net.outputs)):
        for n, tensor_name in enumerate(names):
            tensor, picture = net.tensors[tensor_name], pictures.get(tensor_name)
            key, at = f"{big}_{role}_{n}", arena.offsets[tensor_name] * BYTE // tensor.bits
            kind = f"{tensor.dtype}_t" if picture is None else "uint8_t"
            lines += [] if picture is None else _image_note(picture)
            if tensor.numbers:
                lines += _number_lines(key, tensor, arena.offsets[tensor_name])
                continue
            lines += [
                f"\n#define {key}(arena) (({kind} *)(arena) + {at})",
                f"#define {key}_BYTES {tensor.size_bytes}",
                f"#define {key}_HEIGHT {tensor.shape[0]}",
                f"#define {key}_WIDTH {tensor.shape[1]}",
                f"#define {key}_CHANNELS {tensor.shape[2]}",
            ]
            if picture is None:
                lines.append(f"#define {key}_SCALE {_literal(tensor.scale)}")
                lines.append(f"#define {key}_ZERO_POINT ({tensor.zero_point})")
    if net.states:
        lines.append(f"\n#define {big}_STATE_BYTES {state_offsets(net, ALIGN)[1]}")
    reset = "void net_reset(void *state);\n" if net.states else ""
    declared = _DECLARATIONS.replace("@TAKES@", _TAKES[bool(net.states)]).replace("@RESET@", reset)
    return "\n".join([*lines, named(declared, name)])


def _reset_text(net: IntegerNet) -> str:
    """The function that begins a stream."""
    rows = ["void net_reset(void *state) {", "    int8_t *const s = (int8_t *)state;"]
    places, _ = state_offsets(net, ALIGN)
    for name, state in net.states.items():
        place = f"s + {places[name]}" if places[name] else "s"
        rows.append(f"    memset({place}, {state.zero_point}, {state.size_bytes});")
    return "\n".join([*rows, "}\n"])


def _number_lines(key: str, tensor: IntegerTensor, offset: int) -> list[str]:
    """What the header says of an input of numbers."""
    place = f"(void *)((int8_t *)(arena) + {offset})"
    return [
        "",
        *_c_comment(f"The next input is numbers, each from 0 to {tensor.numbers - 1}."),
        f"\n#define {key}(arena) ((int32_t *){place})",
        f"#define {key}_BYTES {tensor.size_bytes}",
        f"#define {key}_COUNT {tensor.shape[1]}",
        f"#define {key}_NUMBERS {tensor.numbers}",
    ]


def _literal(value: float) -> str:
    """A float of C."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _image_note(layer: IntegerLayer) -> list[str]:
    return ["", *_c_comment(f"The next input is no such number: {layer.attributes['note']}.")]


def _c_comment(text: str) -> list[str]:
    rows = textwrap.wrap(f"{text}{_TOGETHER}*/", _WIDTH - 4)
    rows = [f"{'/*' if i == 0 else ' *'} {row}" for i, row in enumerate(rows)]
    return [row.replace(_TOGETHER, " ") for row in rows]


def _functions(steps: Sequence[Step]) -> list[str]:
    wanted = {part for step in steps for part in _PARTS[step.kernel]}
    for step in steps:
        if step.add is not None:
            wanted |= (
                {"add", "tile", "conv_add"}
                if step.frame is None
                else {"add", "add_lanes", "wide_add"}
            )
    folder = files("penjing.codegen.int8").joinpath("c")
    wanted |= {f"walk_{walk_of(s.listed)}" for s in steps if s.listed is not None}
    wanted |= {"tiled"} if any(s.kernel in TILED and s.add is None for s in steps) else set()
    text = "\n".join(folder.joinpath(f"{part}.c").read_text() for part in _ORDER if part in wanted)
    window = folder.joinpath("window_tile.c").read_text()
    blocks = sorted({s.kernel for s in steps} & {"words", "twos"})
    listed = folder.joinpath("listed_tile.c").read_text()
    tiles = {tile_name(s.listed): s.listed for s in steps if s.listed is not None}
    return [
        _used(text, steps),
        *(window.replace("@NAME@", f"pj_{name}") for name in blocks),
        *(_tile(listed, name, tiles[name]) for name in sorted(tiles)),
    ]


def _tile(template: str, name: str, listed: Listed) -> str:
    """The function of one tile of weights in a small form."""
    one = not listed.grid.pitch
    values = {
        "NAME": name,
        "WINDOW": "    (void)row, (void)first, (void)scratch;"
        if one
        else "    pj_window(conv, x, row, first, scratch);\n    x = scratch;",
        "WALK": f"pj_{walk_of(listed)}",
        "BITS": str(listed.form.bits),
        "PIXELS": "1" if one else "4",
    }
    for key, value in values.items():
        template = template.replace(f"@{key}@", value)
    return template


def _used(text: str, steps: Sequence[Step]) -> str:
    """Without the functions of whole layers that no step calls."""
    called = {CONV_FUNCTIONS.get(s.kernel) for s in steps if s.add is None}
    for name in set(CONV_FUNCTIONS.values()) - called:
        text = re.sub(rf"static void {name}\(.*?\n}}\n", "", text, flags=re.DOTALL)
    return text


def _calls(text: Text, step: Step) -> str:
    """What computes a step; threads take a part each."""
    if not step.parts:
        return _wrapped(_call(text, step))
    rows = [f"    PJ_THREADS({len(step.parts)})"]
    rows.append(f"    for (int part = 0; part < {len(step.parts)}; ++part) {{")
    for n, call in enumerate(part_calls(text, step, _call)):
        body = textwrap.indent(_wrapped(call), " " * 8)
        rows.append(f"        if (part == {n}) {{\n{body}\n        }}")
    return "\n".join([*rows, "    }"])


def _call(text: Text, step: Step) -> str:
    if step.kernel in TILES:
        return conv_call(text, step)
    if step.frame is not None:
        return wide_call(text, step, step.frame)
    return _CALLS[step.kernel](text, step.layer)


def _add_lanes(text: Text, layer: IntegerLayer) -> str:
    return _add(text, layer).replace("pj_add(", "pj_add_lanes(", 1)


def _add(text: Text, layer: IntegerLayer) -> str:
    a, b = (text.at(n) for n in layer.inputs)
    n = text.net.tensors[layer.output].size_bytes
    return f"pj_add({add_structure(text, layer)}, {a}, {b}, {text.at(layer.output)}, {n});"


def _scale_array(text: Text, layer: IntegerLayer, name: str, scale: Scale, largest: int) -> str:
    """Multiplier and shift of values of at most this magnitude."""
    _check_shift(text, layer, scale[1], largest)
    return text.array(layer, name, np.array([scale[0], -scale[1]], np.int32))


def _check_shift(text: Text, layer: IntegerLayer, shift: int, largest: int) -> None:
    """Refuse a scale that moves values out of 32 bits."""
    text.largest = max(text.largest, largest)
    if largest >= 1 << _Q31:
        raise ExportError(
            f"layer {layer.name!r}: its sums may reach {largest}, and 32 bits do not hold that"
        )
    if largest << max(shift, 0) >= 1 << _Q31:
        raise ExportError(
            f"layer {layer.name!r}: values up to {largest} are moved up by {shift} bits while they "
            "are rescaled, and 32 bits do not hold that; the scale of its result is too small for "
            "those of its inputs: quantize with calibration data that fills the result's range"
        )


def _mul(text: Text, layer: IntegerLayer) -> str:
    tensors = [text.net.tensors[n] for n in (*layer.inputs, layer.output)]
    grids = [*(t.zero_point for t in tensors), *clamped(layer).values()]
    period = tensors[1].size_bytes
    a, b = (text.at(n) for n in layer.inputs)
    return (
        f"pj_mul({a}, {b}, {text.at(layer.output)}, {tensors[2].size_bytes}, {period}, "
        f"{_scale_array(text, layer, 'scale', layer.attributes['result'], _SPAN**2)}, "
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
        **clamped(layer),
    }
    struct = text.structure(layer, "pool", values)
    maximum = int(layer.kind == "max")
    return f"pj_pool({struct}, {text.at(layer.inputs[0])}, {text.at(layer.output)}, {maximum});"


def _mean(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    sums = height * width * _SPAN
    scale = _scale_array(text, layer, "scale", layer.attributes["result"], sums)
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
    scale = _scale_array(text, layer, "scale", layer.attributes["result"], _SPAN)
    n = result.size_bytes
    return (
        f"pj_rescale({text.at(source.name)}, {text.at(result.name)}, 1, {n}, {n}, {scale}, "
        f"{source.zero_point}, {result.zero_point});"
    )


def _concat(text: Text, layer: IntegerLayer) -> str:
    result = text.net.tensors[layer.output]
    many = layer.attributes["runs"]
    apart = result.size_bytes // many
    calls, at = [], 0
    for n, (name, scale) in enumerate(zip(layer.inputs, layer.attributes["parts"], strict=True)):
        source = text.net.tensors[name]
        run = source.size_bytes // many
        head = f"{text.at(name)}, {text.at(result.name)} + {at}, {many}, {run}, {apart}"
        if scale is None:
            calls.append(f"pj_runs({head});")
        else:
            array = _scale_array(text, layer, f"scale_{n}", scale, _SPAN)
            zeros = f"{source.zero_point}, {result.zero_point}"
            calls.append(f"pj_rescale({head}, {array}, {zeros});")
        at += run
    return "\n    ".join(calls)


def _softmax(text: Text, layer: IntegerLayer) -> str:
    height, width, channels = text.net.tensors[layer.output].shape
    numbers = ", ".join(str(layer.attributes[k]) for k in ("multiplier", "shift", "least"))
    mask, rows = "NULL", 1
    if "mask" in layer.weights:
        values = layer.weights["mask"]
        mask, rows = text.array(layer, "mask", values), values.shape[0] * values.shape[1]
    return (
        f"pj_softmax({text.at(layer.inputs[0])}, {text.at(layer.output)}, {height * width}, "
        f"{channels}, {numbers}, {mask}, {rows});"
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


def _matmul(text: Text, layer: IntegerLayer) -> str:
    left, right, result = (text.net.tensors[n] for n in (*layer.inputs, layer.output))
    many, rows, inner = left.shape
    grids = [left.zero_point, right.zero_point, result.zero_point, *clamped(layer).values()]
    scale = _scale_array(text, layer, "scale", layer.attributes["result"], inner * _SPAN**2)
    return (
        f"pj_matmul({text.at(left.name)}, {text.at(right.name)}, {text.at(result.name)}, {many}, "
        f"{rows}, {inner}, {result.shape[2]}, {scale}, "
        f"{text.array(layer, 'grids', np.array(grids, np.int8))});"
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
    gain, offset = (text.array(layer, k, layer.weights[k]) for k in ("gain", "offset"))
    run = len(layer.weights["gain"])
    centred = layer.attributes.get("centred", 1)
    about = 0 if centred else source.zero_point
    return (
        f"pj_norm({text.at(source.name)}, {text.at(result.name)}, {source.size_bytes // run}, "
        f"{run}, {gain}, {offset}, {layer.attributes['shift']}, "
        f"INT64_C({layer.attributes['epsilon']}), {result.zero_point}, {centred}, {about});"
    )


def _group_norm(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    gain, offset = (text.array(layer, k, layer.weights[k]) for k in ("gain", "offset"))
    return (
        f"pj_group_norm({text.at(source.name)}, {text.at(result.name)}, {height * width}, "
        f"{channels}, {channels // layer.attributes['groups']}, {gain}, {offset}, "
        f"{layer.attributes['shift']}, INT64_C({layer.attributes['epsilon']}), "
        f"{result.zero_point});"
    )


def _prelu(text: Text, layer: IntegerLayer) -> str:
    source, result = (text.net.tensors[n] for n in (layer.inputs[0], layer.output))
    height, width, channels = source.shape
    multiplier = text.array(layer, "multiplier", layer.weights["multiplier"])
    shift = text.array(layer, "shift", (-layer.weights["shift"]).astype(np.int8))
    positive = _scale_array(text, layer, "scale", layer.attributes["positive"], _SPAN)
    _check_shift(text, layer, int(layer.weights["shift"].max()), _SPAN)
    return (
        f"pj_prelu({text.at(source.name)}, {text.at(result.name)}, {height * width}, {channels}, "
        f"{multiplier}, {shift}, {positive}, {source.zero_point}, {result.zero_point});"
    )


def _embedding(text: Text, layer: IntegerLayer) -> str:
    source, table = text.net.tensors[layer.inputs[0]], layer.weights["table"]
    name, (rows, width) = text.array(layer, "table", table), table.shape
    pair = f"{text.at(source.name)}, {text.at(layer.output)}"
    return f"pj_embedding({name}, {pair}, {source.shape[1]}, {rows}, {width});"


_CALLS = {
    "grouped": grouped,
    "volume": volume,
    "depthwise": depthwise,
    "depthwise_lanes": depthwise_lanes,
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
    "conv_transpose": conv_transpose,
    "matmul": _matmul,
    "resize": _resize,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    "embedding": _embedding,
    "gru": recurrent,
    "lstm": recurrent,
    "rnn": recurrent,
    "carry": carry,
    **CALLS_16,
}

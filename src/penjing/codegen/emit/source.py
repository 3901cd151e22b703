"""The program text: constants, functions and one entry point that runs every layer in turn."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from penjing.codegen.arena import Arena
from penjing.codegen.ir import C_TYPES, WIDTHS, Layer
from penjing.codegen.kernel import Blob, Code, Place, Site
from penjing.codegen.layout import Lay
from penjing.codegen.reference.text import at, function, number
from penjing.codegen.targets import Target
from penjing.codegen.threads import PRELUDE

BLOB_TYPES: Mapping[str, str] = {
    "float32": "float",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
}
SEPARATE_BYTES = 2**21  # constants beyond this lie in a file of their own: compilers read C slowly
_PER_LINE = 8


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer became.

    Args:
        layer: The layer.
        kernel: Name of its kernel.
        code: Its C; blobs are named as in the program.
    """

    layer: Layer
    kernel: str
    code: Code

    @property
    def constant_bytes(self) -> int:
        """Bytes of its constants, shared ones included."""
        return sum(blob.values.nbytes for blob in self.code.blobs)

    @property
    def threaded(self) -> bool:
        """Whether threads share its work; else it runs on one."""
        text = "".join((self.code.call, *self.code.functions.values()))
        return "PJ_PARALLEL" in text or "PJ_THREADS" in text


@dataclass(frozen=True, slots=True)
class Text:
    """The parts of a program.

    Args:
        header: Of the `.h`.
        source: Of the `.c`.
        weights: Bytes of the separate file of constants; empty when they are in the source.
        assembly: Text that includes the separate file.
        steps: Every layer, in order.
        blobs: Every constant once.
    """

    header: str
    source: str
    weights: bytes
    assembly: str
    steps: tuple[Step, ...]
    blobs: tuple[Blob, ...]


def write_text(arena: Arena, target: Target, name: str, notes: Mapping[str, Any]) -> Text:
    """Write the C of a planned net.

    Args:
        arena: The plan.
        target: What is compiled for.
        name: Prefix of public names, a C identifier.
        notes: What the header says of inputs and outputs, by "inputs" and "outputs".

    Returns:
        Header, source and what each layer became.
    """
    steps = [_step(arena, layer, target) for layer in arena.laid.net.layers]
    steps, blobs = _deduplicated(steps, _constants(arena))
    separate = sum(b.values.nbytes for b in blobs) > SEPARATE_BYTES and target.board is None
    header = _header(arena, target, name, notes)
    source = _source(arena, name, steps, blobs, separate)
    weights, assembly = _separate(name, blobs) if separate else (b"", "")
    return Text(header, source, weights, assembly, tuple(steps), tuple(blobs))


# ------------------------------------------------------------------ layers


def pointer(arena: Arena, lay: Lay, *, write: bool) -> str:
    """C expression of the first element of a tensor."""
    buffer = arena.laid.buffers[lay.buffer]
    kind = C_TYPES[buffer.dtype]
    plus = f" + {lay.offset}" if lay.offset else ""
    if lay.buffer in arena.offsets:
        const = "" if write else "const "
        return f"({const}{kind} *)(void *)(arena + {arena.offsets[lay.buffer]}){plus}"
    if buffer.home == "constant":
        return f"{constant_name(buffer.name)}{plus}"
    if buffer.home == "state":
        start = state_offsets(arena)[buffer.position]
        return f"({kind} *)(void *)(state + {start}){plus}"
    return f"{buffer.home}{buffer.position}{plus}"


def constant_name(tensor: str) -> str:
    """Name of a constant tensor in the program."""
    return f"{tensor}_values"


def state_offsets(arena: Arena) -> list[int]:
    """Bytes from the start of the caller's state to each piece, and its end."""
    offsets = [0]
    for read, _ in arena.laid.net.states:
        size = arena.laid.net.tensors[read].size_bytes
        offsets.append(offsets[-1] + -(-size // 16) * 16)
    return offsets


def _place(arena: Arena, tensor: str, *, write: bool) -> Place:
    found, lay = arena.laid.net.tensors[tensor], arena.laid.lays[tensor]
    return Place(
        pointer=pointer(arena, lay, write=write),
        shape=found.shape,
        strides=lay.strides,
        dtype=found.dtype,
        border=lay.border,
        slack=lay.slack,
        grid=found.grid,
    )


def _step(arena: Arena, layer: Layer, target: Target) -> Step:
    laid = arena.laid
    placed = laid.placed.get(layer.name, frozenset())
    inputs = tuple(
        replace(place, pointer="") if tensor in placed else place
        for tensor in layer.inputs
        for place in [_place(arena, tensor, write=False)]
    )
    outputs = tuple(_place(arena, tensor, write=True) for tensor in layer.outputs)
    scratch = arena.offsets.get(f"{layer.name}:scratch")
    where = "(void *)0" if scratch is None else f"(void *)(arena + {scratch})"
    kernel = laid.kernels[layer.name]
    code = kernel.emit(Site(layer, inputs, outputs, where, target))
    cleared = _clearing(arena, layer, outputs)
    if cleared:
        calls = "\n".join(["{", code.call, "}", *(c for c, _ in cleared)])
        code = replace(
            code, call=calls, functions={**code.functions, **dict(t for _, t in cleared)}
        )
    return Step(layer, kernel.name, code)


def _clearing(
    arena: Arena, layer: Layer, outputs: Sequence[Place]
) -> list[tuple[str, tuple[str, str]]]:
    """Calls that put zeros around what a layer wrote, with the function that does it."""
    found = []
    junk = arena.laid.needs[layer.name].junk
    for tensor, place in zip(layer.outputs, outputs, strict=True):
        inherited = arena.laid.lays[tensor].buffer in arena.heirs
        if not any(map(any, place.border)) or (inherited and not junk):
            continue
        name, text = _border(place)
        found.append((f"{name}({place.pointer});", (name, text)))
    return found


def _border(place: Place) -> tuple[str, str]:
    """A function that fills the border of a tensor: planes before and after, outermost first."""
    rank, first = len(place.shape), len(place.shape) - len(place.border)
    zero = number(0.0) if place.dtype == "f32" else str(getattr(place.grid, "zero_point", 0))
    body: list[str] = []
    for d in range(first, rank):
        before, after = place.border[d - first]
        for low, high in ((-before, 0), (place.shape[d], place.shape[d] + after)):
            if low == high:
                continue
            ranges = []
            for e in range(rank):
                if e == d:
                    ranges.append((low, high))
                elif e > d:
                    outer = place.border[e - first]
                    ranges.append((-outer[0], place.shape[e] + outer[1]))
                else:
                    ranges.append((0, place.shape[e]))
            names = [f"i{e}" for e in range(rank)]
            body += [f"for (int i{e} = {a}; i{e} < {b}; i{e}++)" for e, (a, b) in enumerate(ranges)]
            body.append(f"y[{at(place.strides, names)}] = {zero};")
    return function("border", f"{C_TYPES[place.dtype]} *y", body)


# ------------------------------------------------------------------ constants


def _constants(arena: Arena) -> list[Blob]:
    """Constant tensors that layers read."""
    net = arena.laid.net
    read = {arena.laid.lays[n].buffer for layer in net.layers for n in layer.inputs}
    return [
        Blob(constant_name(name), net.constants[name], "table")
        for name in net.constants
        if name in read
    ]


def _deduplicated(
    steps: Sequence[Step], constants: Sequence[Blob]
) -> tuple[list[Step], list[Blob]]:
    """Equal constants once; the calls name the one that stays."""
    kept: dict[tuple[str, bytes], Blob] = {}
    alias: dict[str, str] = {}
    for blob in [*constants, *(b for step in steps for b in step.code.blobs)]:
        key = (blob.values.dtype.name, np.ascontiguousarray(blob.values).tobytes())
        first = kept.setdefault(key, blob)
        if first.align < blob.align:
            first = kept[key] = replace(first, align=blob.align)
        if first.name != blob.name:
            alias[blob.name] = first.name
    if not alias:
        return list(steps), list(kept.values())

    def renamed(step: Step) -> Step:
        call = re.sub(r"\b\w+\b", lambda m: alias.get(m.group(), m.group()), step.code.call)
        blobs = tuple(replace(b, name=alias.get(b.name, b.name)) for b in step.code.blobs)
        return replace(step, code=replace(step.code, call=call, blobs=blobs))

    return [renamed(step) for step in steps], list(kept.values())


def _literals(blob: Blob) -> Iterable[str]:
    flat = blob.values.reshape(-1)
    if blob.values.dtype.kind == "f":
        return [number(v).strip("()") for v in flat.tolist()]
    if blob.values.dtype.name == "int32":  # the smallest int32 is no literal of C
        return ["(-2147483647 - 1)" if v == -(2**31) else str(v) for v in flat.tolist()]
    return map(str, flat.tolist())


def _array(blob: Blob) -> str:
    kind = BLOB_TYPES[blob.values.dtype.name]
    size = max(blob.values.size, 1)
    literals = list(_literals(blob)) or ["0"]
    rows = [
        ", ".join(literals[i : i + _PER_LINE]) + "," for i in range(0, len(literals), _PER_LINE)
    ]
    align = f" PJ_ALIGNED({blob.align})" if blob.align > 4 else ""
    body = "\n  ".join(rows)
    return f"static const {kind} {blob.name}[{size}]{align} = {{\n  {body}\n}};\n"


def _separate(name: str, blobs: Sequence[Blob]) -> tuple[bytes, str]:
    """All constants in one binary, and the assembly that gives each its name."""
    data = bytearray()
    rows = ["#if defined(__linux__) && defined(__ELF__)", '.section .note.GNU-stack,"",%progbits']
    rows += ["#endif", ".section .rodata"]
    for blob in blobs:
        raw = np.ascontiguousarray(blob.values).tobytes()
        data += b"\0" * (-len(data) % 64)
        symbol = f"{name}_{blob.name}"
        rows += [".balign 64", f".globl {symbol}", f".hidden {symbol}", f"{symbol}:"]
        rows.append(f'.incbin "{name}_weights.bin", {len(data)}, {len(raw)}')
        data += raw
    return bytes(data), "\n".join(rows) + "\n"


# ------------------------------------------------------------------ files


def _shape(values: Sequence[int]) -> str:
    return " x ".join(map(str, values)) or "1"


def parameters(arena: Arena) -> list[tuple[str, str]]:
    """C parameters of the entry point: declaration and name, in order."""
    net = arena.laid.net
    found = [
        (f"const {C_TYPES[net.tensors[n].dtype]} *input{i}", f"input{i}")
        for i, n in enumerate(net.inputs)
    ]
    found += [
        (f"{C_TYPES[net.tensors[n].dtype]} *output{i}", f"output{i}")
        for i, n in enumerate(net.outputs)
    ]
    if net.states:
        found.append(("void *state", "state"))
    return [*found, ("void *arena", "arena")]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 96, subsequent_indent="  ", break_on_hyphens=False)


def _header(arena: Arena, target: Target, name: str, notes: Mapping[str, Any]) -> str:
    net, big = arena.laid.net, name.upper()
    rows = [f"/* {name}: written by penjing for {target.name}.", " *"]
    for side, names in (("input", net.inputs), ("output", net.outputs)):
        for i, tensor in enumerate(names):
            found = net.tensors[tensor]
            note = notes.get(f"{side}s", {}).get(i, "")
            note = f"; {note}" if note else ""
            text = f"{side}{i}: {C_TYPES[found.dtype]}, {_shape(found.shape)}, row-major{note}"
            rows += [f" * {line}" for line in _wrapped(text)]
    rows += [
        " *",
        f" * The arena is {arena.size_bytes} bytes of the caller's, aligned to {target.align}, and",
        " * holds nothing between calls. Calls with different arenas may run at the same time.",
        " * Inputs and outputs are aligned as their type; none of the buffers overlap. Without",
        " * NDEBUG the alignment is asserted.",
        " *",
        " * Denormal numbers are computed with as IEEE 754 says, which takes many cycles on some",
        " * processors: a caller that may have them and can do without sets flush-to-zero in its",
        " * thread's control register (MXCSR, FPCR, FPSCR). NaN and infinity of an input meet",
        " * nonzero weights only: zeros do not pass them on.",
        " */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define {big}_ALIGN {target.align}",
        f"#define {big}_ARENA_BYTES {max(arena.size_bytes, 1)}",
        f"#define {big}_INPUTS {len(net.inputs)}",
        f"#define {big}_OUTPUTS {len(net.outputs)}",
    ]
    for side, names in (("INPUT", net.inputs), ("OUTPUT", net.outputs)):
        for i, tensor in enumerate(names):
            rows.append(f"#define {big}_{side}{i}_ELEMENTS {prod(net.tensors[tensor].shape)}")
    listed = ", ".join(text for text, _ in parameters(arena))
    rows += ["", "#ifdef __cplusplus", 'extern "C" {', "#endif", ""]
    if net.states:
        rows += [
            f"#define {big}_STATE_BYTES {state_offsets(arena)[-1]}",
            "/* The state of a stream, aligned to 16, is the caller's as well: this puts it at the",
            " * start, and every call of the program moves it on by one piece. One state per",
            " * stream; streams may go on at the same time, each with an arena of its own. */",
            f"void {name}_reset(void *state);",
            "",
        ]
    rows += [f"void {name}_run({listed});", "", "#ifdef __cplusplus", "}", "#endif", ""]
    return "\n".join([*rows, "#endif", ""])


_PRELUDE = """#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define PJ_RESTRICT __restrict__
#define PJ_ALIGNED(n) __attribute__((aligned(n)))
#else
#define PJ_RESTRICT
#define PJ_ALIGNED(n)
#endif
"""


def _source(
    arena: Arena, name: str, steps: Sequence[Step], blobs: Sequence[Blob], separate: bool
) -> str:
    rows = [f'#include "{name}.h"\n', _PRELUDE, PRELUDE]
    for blob in blobs:
        if separate:
            kind = BLOB_TYPES[blob.values.dtype.name]
            rows.append(
                f"#define {blob.name} {name}_{blob.name}\nextern const {kind} {blob.name}[];"
            )
        else:
            rows.append(_array(blob))
    functions: dict[str, str] = {}
    for step in steps:
        for key, text in step.code.functions.items():
            if functions.setdefault(key, text) != text:
                raise AssertionError(f"two functions are called {key}")
    rows += functions.values()
    rows += _reset(arena, name)
    rows += _entry(arena, name, steps)
    return "\n".join(rows) + "\n"


def _reset(arena: Arena, name: str) -> list[str]:
    net = arena.laid.net
    if not net.states:
        return []
    rows = [f"void {name}_reset(void *state) {{"]
    rows.append(f"  memset(state, 0, {state_offsets(arena)[-1]});")
    return [*rows, "}\n"]


def _entry(arena: Arena, name: str, steps: Sequence[Step]) -> list[str]:
    net = arena.laid.net
    listed = parameters(arena)
    renamed = [
        (text.replace("*arena", "*arena_").replace("*state", "*state_"), n) for text, n in listed
    ]
    rows = [f"void {name}_run({', '.join(text for text, _ in renamed)}) {{"]
    rows.append("  unsigned char *arena = (unsigned char *)arena_;")
    rows.append("  (void)arena;")
    rows.append(f"  assert((uintptr_t)arena_ % {name.upper()}_ALIGN == 0);")
    if net.states:
        rows.append("  unsigned char *state = (unsigned char *)state_;")
        rows.append("  assert((uintptr_t)state_ % 16 == 0);")
    for _, n in listed:
        if n not in {"arena", "state"}:
            tensor = (net.inputs if n.startswith("input") else net.outputs)[
                int(n.removeprefix("input").removeprefix("output"))
            ]
            width = WIDTHS[net.tensors[tensor].dtype]
            rows.append(f"  (void){n};")
            if width > 1:
                rows.append(f"  assert((uintptr_t){n} % {width} == 0);")
    rows += _io(arena, "input")
    for step in steps:
        source = f" {step.layer.source}" if step.layer.source else ""
        rows.append(f"  /* {step.layer.kind}{source} ({step.kernel}) */")
        rows += ["  {", *(f"    {row}" for row in step.code.call.splitlines()), "  }"]
    return [*rows, *_io(arena, "output"), "}"]


def _io(arena: Arena, side: str) -> list[str]:
    """Copies between the caller's buffers and those in the arena, unless they are the same."""
    net = arena.laid.net
    rows = []
    for i, tensor in enumerate(net.inputs if side == "input" else net.outputs):
        buffer = arena.laid.lays[tensor].buffer
        if buffer not in arena.offsets:
            continue
        size, inside = net.tensors[tensor].size_bytes, f"arena + {arena.offsets[buffer]}"
        pair = (inside, f"input{i}") if side == "input" else (f"output{i}", inside)
        rows.append(
            f"  if ((const void *){side}{i} != (const void *)({inside})) "
            f"memcpy({pair[0]}, {pair[1]}, {size});"
        )
    return rows

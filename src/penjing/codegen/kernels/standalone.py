"""One layer as a program of its own, to test and to time a kernel without the rest of a network."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Kernel, Place, Room, Site
from penjing.codegen.targets import Target
from penjing.codegen.threads import PRELUDE


@dataclass(frozen=True, slots=True)
class Alone:
    """C of one layer and the memory it works on.

    Args:
        source: `void NAME(void *const *memory)`, the last pointer is the scratch.
        name: Of the function.
        places: Inputs, then outputs.
        scratch_bytes: Needed.
        code: As the kernel gave it.
    """

    source: str
    name: str
    places: tuple[Place, ...]
    scratch_bytes: int
    code: Code

    def buffers(self, values: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        """Memory for every place, inputs filled, borders zero, slack and scratch not a number."""
        found = []
        for i, place in enumerate(self.places):
            span = _span(place)
            memory = _aligned(span)
            memory[...] = np.nan
            memory[: span - place.slack] = 0.0
            if i < len(values):
                view(memory, place)[...] = values[i]
            found.append(memory)
        scratch = _aligned(self.scratch_bytes // 4 + 16)
        scratch[...] = np.nan
        return [*found, scratch]


def _aligned(count: int) -> np.ndarray:
    raw = np.empty(count + 32, np.float32)
    skip = (-raw.ctypes.data // 4) % 16
    return raw[skip : skip + count]


def _first(place: Place) -> int:
    pairs = zip(place.border[::-1], place.strides[::-1], strict=False)
    return sum(before * stride for (before, _), stride in pairs)


def _span(place: Place) -> int:
    sizes = list(place.shape)
    for i, (before, after) in enumerate(place.border[::-1], 1):
        sizes[-i] += before + after
    return 1 + sum((n - 1) * s for n, s in zip(sizes, place.strides, strict=True)) + place.slack


def view(memory: np.ndarray, place: Place) -> np.ndarray:
    """The tensor inside its memory."""
    return np.lib.stride_tricks.as_strided(
        memory[_first(place) :], place.shape, [4 * s for s in place.strides]
    )


def _place(name: str, shape: tuple[int, ...], room: Room) -> Place:
    wide = list(shape)
    border = room.border or ()
    for i, (before, after) in enumerate(border[::-1], 1):
        wide[-i] += before + after
    order = room.order or tuple(range(len(wide)))
    steps = {d: prod(wide[e] for e in order[i + 1 :]) for i, d in enumerate(order)}
    strides = tuple(steps[d] for d in range(len(wide)))
    place = Place("", shape, strides, "f32", border, room.slack)
    first = _first(place)
    return Place(f"({name} + {first})", shape, strides, "f32", border, room.slack)


def alone(
    kernel: Kernel,
    net: Net,
    layer: Layer,
    target: Target,
    name: str = "layer",
    *,
    apart: bool = False,
) -> Alone:
    """The program of one layer, its tensors packed as the kernel asks.

    Args:
        kernel: Takes the layer.
        net: That the layer is part of.
        layer: Of floats.
        target: That is compiled for.
        name: Of the C function and prefix of its constants.
        apart: Constants are pointers that the caller sets, so that the source is short.
    """
    site = packed_site(kernel, net, layer, target)
    places, count = (*site.inputs, *site.outputs), len(site.inputs)
    code = kernel.emit(site)
    write = _pointer if apart else _constant
    constants = "".join(write(blob) for blob in code.blobs)
    inputs = "".join(
        f"    {'const ' if i < count else ''}float *m{i} = memory[{i}];\n"
        for i in range(len(places))
    )
    text = f"""{HEADER}{"".join(code.functions.values())}{constants}
void {name}(void *const *memory);
void {name}(void *const *memory) {{
{inputs}    void *scratch = memory[{len(places)}];
    (void)scratch;
    {{ {code.call} }}
}}
"""
    scratch = kernel.needs(net, layer, target).scratch_bytes
    return Alone(text, name, places, scratch, code)


def packed_site(kernel: Kernel, net: Net, layer: Layer, target: Target) -> Site:
    """The site of a layer alone: every tensor packed as the kernel asks.

    Args:
        kernel: Takes the layer.
        net: That the layer is part of.
        layer: Of floats.
        target: That is compiled for.
    """
    needs = kernel.needs(net, layer, target)
    rooms = [*needs.inputs] + [Room()] * (len(layer.inputs) - len(needs.inputs))
    rooms += [*needs.outputs] + [Room()] * (len(layer.outputs) - len(needs.outputs))
    places = tuple(
        _place(f"m{i}", net.tensors[tensor].shape, room)
        for i, (tensor, room) in enumerate(zip((*layer.inputs, *layer.outputs), rooms, strict=True))
    )
    count = len(layer.inputs)
    return Site(layer, places[:count], places[count:], "scratch", target)


HEADER = f"""#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#define PJ_RESTRICT restrict
{PRELUDE}"""


def _pointer(blob: Blob) -> str:
    kind = "float" if blob.values.dtype == np.float32 else f"{blob.values.dtype.name}_t"
    return f"const {kind} *{blob.name};\n"


def _constant(blob: Blob) -> str:
    flat = blob.values.ravel()
    if flat.dtype == np.float32:
        kind, items = "float", (float(v).hex() + "f" for v in flat)
    else:
        kind, items = f"{flat.dtype.name}_t", (str(v) for v in flat)
    body = ",".join(items)
    return (
        f"static const {kind} {blob.name}[{len(flat)}] "
        f"__attribute__((aligned({blob.align}))) = {{{body}}};\n"
    )

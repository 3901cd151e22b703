"""Layers on several threads: each computes some rows of the result, or some of its channels.

A part is a layer of its own for the kernel inside, on the rows of the input that it needs and with
scratch memory of its own. Where every pixel is its own column, pixels are shared out instead of
rows; where there is but one, the outputs are. Parts of one image have the same weights, which are
written once. Starting the threads costs microseconds, so that small layers stay on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.arena import Arena
from penjing.codegen.int8.choice import PIXELS, work_ns
from penjing.codegen.int8.kernels_16 import TILES_16
from penjing.codegen.int8.steps import FRAMED, LANES, TILES, Frame, Part, Step, is_direct
from penjing.codegen.int8.text import Text
from penjing.codegen.threads import START_NS
from penjing.quantization.integers import BYTE, IntegerLayer, IntegerNet, Shape

SHARED = (
    frozenset(TILES)
    | frozenset(TILES_16)
    | FRAMED
    | {"depthwise", "depthwise_lanes", "depthwise_16"}
)
"""Kernels whose layers threads share."""


def shared(net: IntegerNet, step: Step, threads: int) -> Step:
    """A step in parts, where that gains more than starting the threads costs.

    Args:
        net: The network.
        step: Any step.
        threads: Most parts.
    """
    if threads < 2 or step.kernel not in SHARED or not _is_apart(net, step):
        return step
    work = work_ns(net, step)
    parts = _parts(net, step, threads) if work > START_NS else ()
    gains = len(parts) > 1 and work * (1 - 1 / len(parts)) > START_NS
    return replace(step, parts=parts) if gains else step


def _is_apart(net: IntegerNet, step: Step) -> bool:
    """Whether what a step reads lies in the arena, the tensor that it adds being another one."""
    names = [step.layer.inputs[0], *([] if step.residual is None else [step.residual])]
    return len(set(names)) == len(names) and not any(name in net.constants for name in names)


def _parts(net: IntegerNet, step: Step, threads: int) -> tuple[Part, ...]:
    source, result = (net.tensors[n].shape for n in (step.layer.inputs[0], step.layer.output))
    if result[0] * result[1] == 1:
        return () if step.listed is not None else _by_outputs(net, step, threads)
    if step.pitch == 0 and step.layer.kind == "conv" and is_direct(net, step.layer, "rows"):
        source, result = ((1, s[0] * s[1], s[2]) for s in (source, result))
    axis = 0 if result[0] > 1 else 1
    if axis == 1 and source[0] > 1:
        return ()
    cuts = _cuts(result[axis], threads, PIXELS if axis else 1)
    return tuple(_piece(net, step, (source, result), axis, span) for span in pairwise(cuts))


def _cuts(count: int, threads: int, unit: int) -> list[int]:
    """Where parts begin, in whole units where that leaves one for every thread, and the end."""
    unit = unit if count >= threads * unit else 1
    many = min(threads, count)
    whole = -(-count // unit)
    return [*(whole * i // many * unit for i in range(many)), count]


def _by_outputs(net: IntegerNet, step: Step, threads: int) -> tuple[Part, ...]:
    """Parts of a result of one pixel: some rows of the weight each, in whole vectors."""
    layer = step.layer
    outputs = len(layer.weights["weight"])
    if layer.kind != "conv" or outputs < 2 * LANES:
        return ()
    cuts = _cuts(outputs, min(threads, -(-outputs // LANES)), LANES)
    return tuple(
        Part(
            replace(step, layer=_rows_of(layer, first, last)),
            {layer.output: (1, 1, last - first)},
            _moved(net, step, 0, first),
        )
        for first, last in pairwise(cuts)
    )


def _rows_of(layer: IntegerLayer, first: int, last: int) -> IntegerLayer:
    return replace(layer, weights={key: w[first:last] for key, w in layer.weights.items()})


def _moved(net: IntegerNet, step: Step, read: int, made: int) -> Mapping[str, int]:
    """Bytes by which a part's tensors begin later, from elements of the input and the result."""
    source, narrow = net.tensors[step.layer.inputs[0]], BYTE
    both = {name: made for name in (step.residual, step.output) if name is not None}
    return {
        name: count * net.tensors[name].bits // narrow
        for name, count in {source.name: read, **both}.items()
    }


def _piece(
    net: IntegerNet, step: Step, shapes: tuple[Shape, Shape], axis: int, span: tuple[int, int]
) -> Part:
    """The part that makes some rows of the result, or some pixels of its one row."""
    layer, (source, result) = step.layer, shapes
    (first, last), (before, after) = span, layer.attributes["padding"][axis]
    taps = layer.weights["weight"].shape
    taps = taps[:2] if layer.kind == "depthwise" else taps[1:3]
    stride, apart = (layer.attributes[key][axis] for key in ("stride", "dilation"))
    begin = first * stride - before
    end = (last - 1) * stride - before + (taps[axis] - 1) * apart + 1
    start = min(max(begin, 0), source[axis])
    stop = max(min(end, source[axis]), start)
    padding = list(layer.attributes["padding"])
    padding[axis] = (max(-begin, 0), after)
    read, made = _with(source, axis, stop - start), _with(result, axis, last - first)
    part = replace(layer, attributes={**layer.attributes, "padding": tuple(padding)})
    return Part(
        replace(step, layer=part, frame=_framed(step.frame, axis, read, made, end - begin)),
        {layer.inputs[0]: read, layer.output: made},
        _moved(
            net, step, start * math.prod(source[axis + 1 :]), first * math.prod(result[axis + 1 :])
        ),
    )


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (size, *shape[1:]) if axis == 0 else (shape[0], size, shape[2])


def _framed(
    frame: Frame | None, axis: int, source: Shape, result: Shape, reach: int
) -> Frame | None:
    """The frame of a part that reads `reach` rows, or columns, with the padding."""
    if frame is None:
        return None
    framed = (reach, frame.framed[1]) if axis == 0 else (frame.framed[0], reach)
    return Frame(source, framed, result[0], result[1], frame.step)


@dataclass(slots=True)
class PartText(Text):
    """A program while one part of a layer is written.

    Args:
        number: Of the part, in the names of its constants.
        known: Constants of the parts before it, name by content.
    """

    number: int = 0
    known: dict[Any, str] = field(default_factory=dict)

    def named(self, layer: IntegerLayer, name: str) -> str:
        """Name of a constant."""
        return f"{layer.name}_{name}_{self.number}"

    def array(self, layer: IntegerLayer, name: str, values: NDArray[Any]) -> str:
        """Write a constant array, unless a part before has the same, and return its name."""
        key = (layer.name, name, values.dtype.name, np.ascontiguousarray(values).tobytes())
        if key not in self.known:
            self.known[key] = Text.array(self, layer, name, values)
        return self.known[key]

    def structure(self, layer: IntegerLayer, kind: str, values: Mapping[str, Any]) -> str:
        """Write a constant structure, unless a part before has the same; return its address."""
        key = (layer.name, kind, str(values))
        if key not in self.known:
            self.known[key] = Text.structure(self, layer, kind, values)
        return self.known[key]


def part_calls(text: Text, step: Step, call: Callable[[Text, Step], str]) -> list[str]:
    """The call of every part.

    Args:
        text: The program so far; constants are written into it.
        step: A step in parts.
        call: What writes one.
    """
    known: dict[Any, str] = {}
    calls = []
    for number, (part, scratch) in enumerate(zip(step.parts, step.part_scratch, strict=False)):
        tensors = dict(text.net.tensors)
        for name, shape in part.shapes.items():
            tensors[name] = replace(tensors[name], shape=shape)
        own = PartText(
            replace(text.net, tensors=tensors), _shifted(text.arena, step, part, scratch),
            text.constants, text.bytes, text.largest, number, known,
        )  # fmt: skip
        calls.append(call(own, part.step))
        text.largest = own.largest
    return calls


def _shifted(arena: Arena, step: Step, part: Part, scratch: int) -> Arena:
    """The arena as a part sees it."""
    offsets = {name: arena.offsets[name] + by for name, by in part.moved.items()}
    own = {step.layer.name: arena.scratch.get(step.layer.name, 0) + scratch}
    return Arena({**arena.offsets, **offsets}, {**arena.scratch, **own}, arena.size_bytes)

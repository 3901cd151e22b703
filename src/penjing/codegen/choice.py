"""Which kernel computes which layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Literal

from penjing.codegen.boards import estimated, scale
from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Kernel, constant_bytes_of
from penjing.codegen.targets import Target
from penjing.codegen.tuning import measured
from penjing.errors import ExportError

Optimize = Literal["latency", "flash", "ram"]
TUNED = ("conv", "linear")
"""Kinds of layers that have several fast kernels."""
VECTOR = 16
"""Pixels that the widest vectors hold."""
CLEAR_NS = 0.3
"""Of one element of a border."""
TIE = 1.02
"""Measured times that differ by less are equal: the estimate decides, every time alike."""


def choose(
    net: Net, kernels: Sequence[Kernel], target: Target, optimize: Optimize, *, tune: bool = False
) -> dict[str, Kernel]:
    """Pick a kernel for every layer, of those that take it.

    Args:
        net: Fused.
        kernels: Candidates.
        target: What is compiled for.
        optimize: What counts: the estimated time; the bytes of constants and code's text; or the
            bytes of scratch memory and borders. Ties go by time.
        tune: With "latency", measure the promising kernels on this machine, which must be able to
            run what is compiled for the target.

    Returns:
        Kernel by name of the layer.

    Raises:
        ExportError: No kernel takes a layer.
    """
    chosen: dict[str, Kernel] = {}
    times: dict[str, tuple[Kernel, float]] = {}
    for layer in net.layers:
        able = [kernel for kernel in kernels if kernel.takes(net, layer, target)]
        if not able:
            raise ExportError(
                f"no kernel of {target.name!r} computes {layer.kind} ({layer.source}, layer "
                f"{layer.name!r})"
            )
        if optimize == "latency":
            quick = tune and layer.kind in TUNED and len(able) > 2
            best = _quickest(net, layer, able, target, (times, quick))
        else:
            best = _smallest(net, layer, able, target, optimize)
        chosen[layer.name] = best
    return chosen


def _quickest(
    net: Net,
    layer: Layer,
    able: Sequence[Kernel],
    target: Target,
    known: tuple[dict[str, tuple[Kernel, float]], bool],
) -> Kernel:
    """The kernel of the least time, counting what its wishes cost whoever makes its input."""
    times, tune = known
    if tune:
        pairs = list(measured(net, layer, able, target).values())
    else:
        pairs = [(kernel, estimated(kernel, net, layer, target)) for kernel in able]
    price = 0.0
    if layer.kind == "conv" and len(net.tensors[layer.inputs[0]].shape) in (3, 4):
        price = _price_of_border(net, layer, target, times)

    def whole(pair: tuple[Kernel, float]) -> float:
        rooms = pair[0].needs(net, layer, target).inputs if price else ()
        return pair[1] + (price if rooms and any(map(any, rooms[0].border)) else 0.0)

    least = min(map(whole, pairs))
    close = [pair for pair in pairs if whole(pair) <= TIE * least]
    best = min(close, key=lambda pair: pair[0].cost(net, layer, target) if tune else whole(pair))
    times[layer.name] = best
    return best[0]


def _price_of_border(
    net: Net, layer: Layer, target: Target, times: Mapping[str, tuple[Kernel, float]]
) -> float:
    """What a border around the input of a convolution costs before it begins, in the unit of times.

    It has to be cleared; and rows of the layer that makes the input no longer touch, where they
    would, so that each ends in a vector that is not full.
    """
    shape = net.tensors[layer.inputs[0]].shape
    height, width = (1, *shape[2:])[-2:]
    (top, bottom), (left, right) = ((0, 0), *layer.attributes["padding"])[-2:]
    wide: int = (height + top + bottom) * (width + left + right)
    clearing = scale(target) * CLEAR_NS * prod(shape[:2]) * (wide - height * width)
    maker = next((m for m in net.layers if layer.inputs[0] in m.outputs), None)
    if maker is None or maker.kind != "conv":
        return clearing
    kernel, nanoseconds = times[maker.name]
    rooms = kernel.needs(net, maker, target).outputs
    touching = bool(rooms) and rooms[0].touching
    if not touching and prod(maker.weights["weight"].shape[2:]) > 1:
        return clearing
    rows, one = height * ceil(width / VECTOR), ceil(height * width / VECTOR)
    return clearing + nanoseconds * (rows / one - 1)


def _smallest(
    net: Net, layer: Layer, able: Sequence[Kernel], target: Target, optimize: Optimize
) -> Kernel:
    """The kernel of the least memory; ties go by time."""
    costs = [estimated(kernel, net, layer, target) for kernel in able]
    sizes = [_size(net, layer, kernel, target, optimize) for kernel in able]
    return able[min(range(len(able)), key=lambda i: (sizes[i], costs[i]))]


def _size(net: Net, layer: Layer, kernel: Kernel, target: Target, optimize: Optimize) -> int:
    """Bytes of flash or RAM that differ between kernels of one layer."""
    if optimize == "ram":
        needs = kernel.needs(net, layer, target)
        borders = sum(room.border != () for room in (*needs.inputs, *needs.outputs))
        return needs.scratch_bytes + borders
    return constant_bytes_of(kernel, net, layer, target)

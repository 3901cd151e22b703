"""Which kernel computes which layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Kernel
from penjing.codegen.targets import Target
from penjing.codegen.tuning import measured
from penjing.errors import ExportError

Optimize = Literal["latency", "flash", "ram"]
TUNED = ("conv", "linear")
"""Kinds of layers that have several fast kernels."""


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
    for layer in net.layers:
        able = [kernel for kernel in kernels if kernel.takes(net, layer, target)]
        if not able:
            raise ExportError(
                f"no kernel of {target.name!r} computes {layer.kind} ({layer.source}, layer "
                f"{layer.name!r})"
            )
        chosen[layer.name] = _best(net, layer, able, target, (optimize, tune))
    return chosen


def _best(
    net: Net, layer: Layer, able: Sequence[Kernel], target: Target, how: tuple[Optimize, bool]
) -> Kernel:
    optimize, tune = how
    costs = [kernel.cost(net, layer, target) for kernel in able]
    if optimize == "latency" and tune and layer.kind in TUNED and len(able) > 2:
        times = measured(net, layer, able, target)
        return min(times.values(), key=lambda pair: pair[1])[0]
    if optimize == "latency":
        return able[costs.index(min(costs))]
    sizes = [_size(net, layer, kernel, target, optimize) for kernel in able]
    return able[min(range(len(able)), key=lambda i: (sizes[i], costs[i]))]


def _size(net: Net, layer: Layer, kernel: Kernel, target: Target, optimize: Optimize) -> int:
    """Bytes of flash or RAM that differ between kernels of one layer."""
    if optimize == "ram":
        needs = kernel.needs(net, layer, target)
        borders = sum(room.border != () for room in (*needs.inputs, *needs.outputs))
        return needs.scratch_bytes + borders
    held = getattr(kernel, "constant_bytes", None)
    if held is not None:
        return int(held(net, layer, target))
    return sum(array.nbytes for array in layer.weights.values() if array is not None)

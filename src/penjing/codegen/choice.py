"""Which kernel computes which layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from penjing.codegen.ir import Net
from penjing.codegen.kernel import Kernel
from penjing.codegen.targets import Target
from penjing.errors import ExportError

Optimize = Literal["latency", "flash", "ram"]


def choose(
    net: Net, kernels: Sequence[Kernel], target: Target, optimize: Optimize
) -> dict[str, Kernel]:
    """Pick a kernel for every layer: of those that take it, the one with the least cost.

    Args:
        net: Fused.
        kernels: Candidates.
        target: What is compiled for.
        optimize: What counts.

    Returns:
        Kernel by name of the layer.

    Raises:
        ExportError: No kernel takes a layer.
    """
    del optimize
    chosen: dict[str, Kernel] = {}
    for layer in net.layers:
        able = [kernel for kernel in kernels if kernel.takes(net, layer, target)]
        if not able:
            raise ExportError(
                f"no kernel of {target.name!r} computes {layer.kind} ({layer.source}, layer "
                f"{layer.name!r})"
            )
        chosen[layer.name] = min(able, key=lambda k, one=layer: k.cost(net, one, target))  # type: ignore[misc] # bound now
    return chosen

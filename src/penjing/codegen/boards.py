"""What kernels cost on microcontrollers, in executed instructions.

A kernel estimates nanoseconds of a large processor. A board has no caches and other registers, so
the share of each kernel differs: its estimate is multiplied by the instructions that were counted
in the emulator per estimated nanosecond, on a Cortex-M4 (which the M7 shares its instructions
with) and a Cortex-M55. Counted were a linear layer of 256 inputs and 64 outputs and a convolution
of 3 x 3, 16 to 16 channels on 8 x 8 pixels, dense and with 60 and 90 percent zeros; the two sparse
counts differ by at most a quarter, and their mean stands here.
"""

from __future__ import annotations

from collections.abc import Mapping

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Kernel
from penjing.codegen.targets import Target

_ARMV7 = {
    "dense_linear": 64.0, "window_linear": 20.0, "column_linear": 32.0,
    "dense_conv": 43.0, "sparse_conv": 46.0, "kernel_conv": 46.0,
}  # fmt: skip
INSTRUCTIONS: Mapping[str, Mapping[str, float]] = {
    "cortex-m4": _ARMV7,
    "cortex-m7": _ARMV7,
    "cortex-m55": {
        "dense_linear": 15.4, "window_linear": 18.3, "column_linear": 12.0,
        "dense_conv": 33.7, "sparse_conv": 15.7, "kernel_conv": 15.7,
    },
}  # fmt: skip
"""Per estimated nanosecond, by target and kernel."""


def estimated(kernel: Kernel, net: Net, layer: Layer, target: Target) -> float:
    """Nanoseconds of a kernel on a large processor, instructions on a board that was counted.

    Args:
        kernel: That takes the layer.
        net: That the layer is part of.
        layer: The layer.
        target: What is compiled for.

    Returns:
        The estimate, to be compared with those of other kernels for the same target.
    """
    return kernel.cost(net, layer, target) * scale(target, kernel.name)


def scale(target: Target, name: str = "dense_conv") -> float:
    """What a kernel's nanoseconds are multiplied by; a kernel not counted costs as dense code."""
    board = INSTRUCTIONS.get(target.name, {})
    known = next((known for known in board if name.endswith(known)), "dense_conv")
    return board.get(known, 1.0)

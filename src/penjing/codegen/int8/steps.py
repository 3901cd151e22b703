"""What an integer program is made of: layers, each with the kernel that runs it.

A step is one layer, or a convolution and the addition that follows it: its result then never lies
in memory as a whole, and may be written over the tensor that it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from penjing.codegen.int8.encodings import Listed
from penjing.codegen.int8.kernels_16 import TILES_16
from penjing.quantization.integers import IntegerLayer, IntegerNet, Shape

Optimize = Literal["latency", "flash", "ram"]

TILES: Mapping[str, int] = {
    "pairs": 2, "rows": 1, "sparse": 4, "gather": 4, "listed": 4,
    "words": 4, "twos": 4,
}  # fmt: skip
"""Pixels that a convolution kernel takes at a time."""

WINDOWED = frozenset({"sparse", "gather", "listed", "words", "twos"})
"""Kernels that leave zeros out; what a tile reads is one window."""

SPARSE = WINDOWED | {"picks"}
"""Kernels that leave zeros out."""

FRAMED = frozenset({"wide", "picks"})
"""Kernels that copy their input with its frame."""

KEPT = frozenset({"gru", "lstm"})
"""Kernels that keep 16 bits per hidden unit from step to step."""

WORD = 4
LANES = 16
"""Values that the kernels of large processors take at a time."""

LANED: Mapping[str, str] = {"add": "_lanes", "depthwise": "_lanes"}
"""Kinds of layers that have such a kernel, with the ending of its name."""

BEYOND = 3
"""Pixels that the last tile of a wide kernel reads beyond the last column, and does not store."""

SLACK = 64  # bytes behind a framed input that are cleared, as rows of the kernel end in whole words


@dataclass(frozen=True, slots=True)
class Frame:
    """A convolution as a wide kernel sees it: rows of the kernel are runs of bytes.

    Args:
        shape: Height, width and channels of the input.
        framed: Its height and width with the frame.
        rows: Of the output.
        columns: Of the output.
        step: Columns of the input from pixel to pixel.
    """

    shape: Shape
    framed: tuple[int, int]
    rows: int
    columns: int
    step: int

    @property
    def size_bytes(self) -> int:
        """Memory for the framed input, and for what is read behind it."""
        height, width = self.framed
        return (height * width + BEYOND * self.step) * self.shape[2] + SLACK


@dataclass(frozen=True, slots=True)
class Step:
    """A layer to be run by a kernel.

    Args:
        layer: The layer; for a fused step its convolution.
        kernel: "pairs", "rows", "wide", "picks", "sparse", "gather", "words", "twos" or "listed"
            for a convolution, else the kind of layer, with "_lanes" where sixteen values are taken
            at a time.
        add: The addition fused with it, if any.
        residual: The other tensor of that addition.
        pitch: Bytes between the columns that a convolution gathers, or between rows of a window; 0
            when it reads its input as it lies.
        frame: The input with its frame that a wide kernel copies, and what it makes of it.
        listed: The weights in the form that the kernel "listed" reads.
        parts: What each of several threads computes; empty where one computes all.
    """

    layer: IntegerLayer
    kernel: str
    add: IntegerLayer | None = None
    residual: str | None = None
    pitch: int = 0
    frame: Frame | None = None
    listed: Listed | None = field(default=None, compare=False)
    parts: tuple[Part, ...] = field(default=(), compare=False)

    @property
    def part_scratch(self) -> tuple[int, ...]:
        """First byte of the scratch memory of every part, in that of the step; and the end."""
        sizes = (-(-part.step.scratch_bytes // LANES) * LANES for part in self.parts)
        return tuple(accumulate(sizes, initial=0))

    @property
    def column_bytes(self) -> int:
        """Memory for the columns of one tile, or for the framed input."""
        if self.frame is not None:
            return self.frame.size_bytes
        if self.kernel in WINDOWED:
            return self.pitch * int(self.layer.weights["weight"].shape[1])
        return self.pitch * {**TILES, **TILES_16}.get(self.kernel, 1)

    @property
    def scratch_bytes(self) -> int:
        """Memory that is used only meanwhile: columns, then results to be added; or states."""
        if self.parts:
            return self.part_scratch[-1]
        if self.kernel in KEPT and "state" in self.layer.attributes:
            return 0
        if self.kernel in KEPT:
            return 2 * int(self.layer.weights["state"].shape[1])
        if self.add is None:
            return self.column_bytes
        pixels = TILES[self.kernel] if self.frame is None else self.frame.columns
        return self.column_bytes + pixels * len(self.layer.weights["weight"])

    @property
    def reads(self) -> tuple[str, ...]:
        """Every tensor that is read."""
        return self.layer.inputs if self.residual is None else (*self.layer.inputs, self.residual)

    @property
    def output(self) -> str:
        """The tensor that is written."""
        return self.layer.output if self.add is None else self.add.output


@dataclass(frozen=True, slots=True)
class Part:
    """What one thread computes of a step.

    Args:
        step: The part as a step of its own.
        shapes: Of its tensors that are smaller than those of the whole, by name.
        moved: Bytes by which its tensors begin later.
    """

    step: Step
    shapes: Mapping[str, Shape]
    moved: Mapping[str, int]


def is_plain(layer: IntegerLayer) -> bool:
    """Whether a convolution is not in groups."""
    return bool(layer.attributes["groups"] == 1)


def window_columns(layer: IntegerLayer) -> int:
    """Columns of the input that a tile of a sparse kernel reads."""
    across, apart = layer.weights["weight"].shape[2], layer.attributes["dilation"][1]
    return int((across - 1) * apart + 1 + (TILES["sparse"] - 1) * layer.attributes["stride"][1])


def is_direct(net: IntegerNet, layer: IntegerLayer, kernel: str) -> bool:
    """Whether a pixel of the input is itself the column of a pixel of the output."""
    source, result = net.tensors[layer.inputs[0]].shape, net.tensors[layer.output].shape
    kernel_shape = layer.weights["weight"].shape[1:3]
    plain = not any(map(any, layer.attributes["padding"]))
    fits = kernel != "pairs" or layer.weights["weight"][0].size % WORD == 0
    if not plain or not fits:
        return False
    if kernel_shape == source[:2] and kernel != "gather":
        return True  # the whole input is the one column
    if kernel == "gather":
        return False
    one = kernel_shape == (1, 1) and layer.attributes["stride"] == (1, 1)
    return one and (kernel not in WINDOWED or result[0] * result[1] == 1)

"""What an integer program does in which order, and by which kernel.

A step is one layer, or a convolution and the addition that follows it: its result then never lies
in memory as a whole, and may be written over the tensor that it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from penjing.codegen.int8.weights import LONGEST, count_chunks, sparse_bytes
from penjing.codegen.targets import Target
from penjing.quantization.integers import IntegerLayer, IntegerNet, Shape

Optimize = Literal["latency", "flash", "ram"]

TILES: Mapping[str, int] = {"pairs": 2, "rows": 1, "sparse": 4, "gather": 4}
"""Pixels that a convolution kernel takes at a time."""

SPARSE = frozenset({"sparse", "gather"})
"""Kernels that leave zeros out; what a tile reads is one window."""

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
        kernel: "pairs", "rows", "wide", "sparse" or "gather" for a convolution, else the kind of
            layer, with "_lanes" where sixteen values are taken at a time.
        add: The addition fused with it, if any.
        residual: The other tensor of that addition.
        pitch: Bytes between the columns that a convolution gathers, or between rows of a window; 0
            when it reads its input as it lies.
        frame: The input with its frame that a wide kernel copies, and what it makes of it.
    """

    layer: IntegerLayer
    kernel: str
    add: IntegerLayer | None = None
    residual: str | None = None
    pitch: int = 0
    frame: Frame | None = None

    @property
    def column_bytes(self) -> int:
        """Memory for the columns of one tile, or for the framed input."""
        if self.frame is not None:
            return self.frame.size_bytes
        if self.kernel in SPARSE:
            return self.pitch * int(self.layer.weights["weight"].shape[1])
        return self.pitch * TILES.get(self.kernel, 1)

    @property
    def scratch_bytes(self) -> int:
        """Memory that is used only meanwhile: columns, then results to be added; or states."""
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
class Cost:
    """Estimated instructions of a convolution kernel.

    Args:
        column: Per byte of a column that is gathered.
        product: Per product of a pixel and a weight, or sixteen weights that are gathered.
        output: Per output of a pixel.
    """

    column: float
    product: float
    output: float


# Fitted to counts of four layers, sparse ones at four sparsities, in the emulator; largest error 4
# percent (sparse and gather: 19). Those of the host are rough.
COSTS: Mapping[str, Mapping[str, Cost]] = {
    "dsp": {"pairs": Cost(0.0, 2.01, 27), "sparse": Cost(0.34, 3.54, 32)},
    "mve": {"rows": Cost(1.3, 0.209, 17), "gather": Cost(0.44, 5.5, 22)},
    "host": {
        "wide": Cost(0.05, 0.03, 1.5),
        "rows": Cost(0.3, 0.08, 6),
        "sparse": Cost(0.3, 1.0, 6),
    },
}


def dense_kernel(layer: IntegerLayer, target: Target, optimize: Optimize) -> str:
    """The dense convolution kernel that suits a layer and a target."""
    if _family(target) != "host":
        return "pairs" if _family(target) == "dsp" else "rows"
    near = layer.attributes["dilation"][1] == 1
    return "wide" if near and optimize == "latency" else "rows"


def _family(target: Target) -> str:
    if target.board is None:
        return "host"
    return "mve" if target.vector_bytes > WORD else "dsp"


def schedule(net: IntegerNet, target: Target, optimize: Optimize) -> tuple[Step, ...]:
    """Choose kernels and fuse additions.

    Args:
        net: The network.
        target: What is compiled for.
        optimize: What counts most.

    Returns:
        Steps in the order of the layers.
    """
    partners = _partners(net)
    fused = {conv: add for add, conv in partners.items()}
    steps = []
    lanes = LANED if _family(target) == "host" and optimize == "latency" else {}
    for layer in net.layers:
        if layer.name in fused.values():
            convolution = next(la for la in net.layers if partners[layer.name] == la.name)
            steps.append(_conv(net, convolution, target, optimize, layer))
        elif layer.name in fused:
            continue
        elif layer.kind == "conv":
            steps.append(_conv(net, layer, target, optimize, None))
        elif layer.kind == "volume":
            channels = net.tensors[layer.inputs[0]].shape[2]
            taps = int(np.prod(layer.weights["weight"].shape[1:4]))
            steps.append(Step(layer, "volume", pitch=taps * channels))
        else:
            steps.append(Step(layer, layer.kind + lanes.get(layer.kind, "")))
    return tuple(steps)


def _partners(net: IntegerNet) -> dict[str, str]:
    """Addition -> the convolution that is its last operand and has no other reader."""
    made = {layer.output: n for n, layer in enumerate(net.layers)}
    readers: dict[str, int] = {}
    for layer in net.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    found = {}
    for layer in net.layers:
        if layer.kind != "add":
            continue
        last = max(layer.inputs, key=lambda name: made.get(name, -1))
        maker = net.layers[made[last]] if last in made else None
        alone = readers[last] == 1 and last not in net.outputs
        if maker is not None and alone and maker.kind == "conv" and _is_plain(maker):
            found[layer.name] = maker.name
    return found


def _is_plain(layer: IntegerLayer) -> bool:
    return bool(layer.attributes["groups"] == 1)


def _conv(
    net: IntegerNet,
    layer: IntegerLayer,
    target: Target,
    optimize: Optimize,
    add: IntegerLayer | None,
) -> Step:
    if not _is_plain(layer):
        return Step(layer, "grouped")
    kernel = _choose(net, layer, target, optimize)
    frame = _frame(net, layer) if kernel == "wide" else None
    depth = layer.weights["weight"][0].size
    direct = frame is not None or is_direct(net, layer, kernel)
    pitch = 0 if direct else -(-depth // WORD) * WORD
    if kernel in SPARSE and not direct:
        pitch = window_columns(layer) * net.tensors[layer.inputs[0]].shape[2]
    if add is None:
        return Step(layer, kernel, pitch=pitch, frame=frame)
    residual = next(name for name in add.inputs if name != layer.output)
    return Step(layer, kernel, add, residual, pitch, frame)


def window_columns(layer: IntegerLayer) -> int:
    """Columns of the input that a tile of a sparse kernel reads."""
    across, apart = layer.weights["weight"].shape[2], layer.attributes["dilation"][1]
    return int((across - 1) * apart + 1 + (TILES["sparse"] - 1) * layer.attributes["stride"][1])


def _frame(net: IntegerNet, layer: IntegerLayer) -> Frame:
    """The frame of a convolution; where each pixel is its own column, all pixels are one row."""
    shape, (rows, columns, _) = net.tensors[layer.inputs[0]].shape, net.tensors[layer.output].shape
    tall, across = layer.weights["weight"].shape[1:3]
    (down, right), (apart, _) = layer.attributes["stride"], layer.attributes["dilation"]
    if is_direct(net, layer, "wide") and (tall, across) == (1, 1):
        pixels = shape[0] * shape[1]
        return Frame((1, pixels, shape[2]), (1, pixels), 1, pixels, 1)
    framed = ((rows - 1) * down + (tall - 1) * apart + 1, (columns - 1) * right + across)
    return Frame(shape, framed, rows, columns, right)


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
    return one and (kernel != "sparse" or result[0] * result[1] == 1)


def _choose(net: IntegerNet, layer: IntegerLayer, target: Target, optimize: Optimize) -> str:
    dense = dense_kernel(layer, target, optimize)
    weight = layer.weights["weight"]
    if weight.shape[1] * window_columns(layer) * weight.shape[3] > LONGEST:
        return dense
    if optimize == "flash":
        return "sparse" if sparse_bytes(weight) < weight.size else dense
    family = _family(target)
    costs = COSTS[family]
    sparse = "gather" if family == "mve" else "sparse"
    columns = net.tensors[layer.output].shape[1]
    cheapest: Sequence[str] = sorted(
        (dense, sparse), key=lambda k: _cost(layer, columns, k, costs[k])
    )
    return cheapest[0]


def _cost(layer: IntegerLayer, columns: int, kernel: str, cost: Cost) -> float:
    """Instructions per pixel; gathering works on whole tiles of a row, also where it fills none."""
    weight = layer.weights["weight"]
    products = weight.size
    if kernel in SPARSE:
        products = count_chunks(weight) if kernel == "gather" else (weight != 0).sum()
    tile = TILES[kernel] if kernel == "gather" else 1
    idle = -(-columns // tile) * tile / columns
    one = cost.column * weight[0].size + cost.product * products + cost.output * len(weight)
    return float(idle * one)

"""What an integer program does in which order, and by which kernel.

A step is one layer, or a convolution and the addition that follows it: its result then never lies
in memory as a whole, and may be written over the tensor that it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from penjing.codegen.int8.weights import sparse_bytes
from penjing.codegen.targets import Target
from penjing.quantization.integers import IntegerLayer, IntegerNet

Optimize = Literal["latency", "flash", "ram"]

TILES: Mapping[str, int] = {"pairs": 2, "rows": 1, "sparse": 4}
"""Pixels that a convolution kernel takes at a time."""

WORD = 4


@dataclass(frozen=True, slots=True)
class Step:
    """A layer to be run by a kernel.

    Args:
        layer: The layer; for a fused step its convolution.
        kernel: "pairs", "rows" or "sparse" for a convolution, else the kind of layer.
        add: The addition fused with it, if any.
        residual: The other tensor of that addition.
        pitch: Bytes between the columns that a convolution gathers; 0 when it reads its input as it
            lies.
    """

    layer: IntegerLayer
    kernel: str
    add: IntegerLayer | None = None
    residual: str | None = None
    pitch: int = 0

    @property
    def column_bytes(self) -> int:
        """Memory for the columns of one tile."""
        return self.pitch * TILES.get(self.kernel, 0)

    @property
    def scratch_bytes(self) -> int:
        """Memory that is used only meanwhile: columns, then results that are to be added."""
        made = 0 if self.add is None else TILES[self.kernel] * len(self.layer.weights["weight"])
        return self.column_bytes + made

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
        product: Per product of a pixel and a weight.
        output: Per output of a pixel.
    """

    column: float
    product: float
    output: float


# Fitted to counts of nine layers at four sparsities in the emulator, largest error 14 percent (MVE
# rows: 60, on the smallest layers); those of the host are rough.
COSTS: Mapping[str, Mapping[str, Cost]] = {
    "dsp": {"pairs": Cost(1.95, 1.51, 31), "sparse": Cost(1.51, 3.51, 47)},
    "mve": {"rows": Cost(1.71, 0.16, 21), "sparse": Cost(1.44, 2.94, 52)},
    "host": {"rows": Cost(0.3, 0.08, 6), "sparse": Cost(0.3, 1.0, 6)},
}


def dense_kernel(target: Target) -> str:
    """The dense convolution kernel that suits a target."""
    return "pairs" if _family(target) == "dsp" else "rows"


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
    for layer in net.layers:
        if layer.name in fused.values():
            convolution = next(la for la in net.layers if partners[layer.name] == la.name)
            steps.append(_conv(net, convolution, target, optimize, layer))
        elif layer.name in fused:
            continue
        elif layer.kind == "conv":
            steps.append(_conv(net, layer, target, optimize, None))
        else:
            steps.append(Step(layer, layer.kind))
    widest = max((s.pitch for s in steps if s.kernel == "sparse"), default=0)
    return tuple(replace(s, pitch=widest) if s.kernel == "sparse" and s.pitch else s for s in steps)


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
    kernel = _choose(layer, target, optimize)
    depth = layer.weights["weight"][0].size
    pitch = 0 if is_direct(net, layer, kernel) else -(-depth // WORD) * WORD
    if add is None:
        return Step(layer, kernel, pitch=pitch)
    residual = next(name for name in add.inputs if name != layer.output)
    return Step(layer, kernel, add, residual, pitch)


def is_direct(net: IntegerNet, layer: IntegerLayer, kernel: str) -> bool:
    """Whether a pixel of the input is itself the column of a pixel of the output."""
    source, result = net.tensors[layer.inputs[0]].shape, net.tensors[layer.output].shape
    kernel_shape = layer.weights["weight"].shape[1:3]
    plain = not any(map(any, layer.attributes["padding"]))
    fits = kernel != "pairs" or layer.weights["weight"][0].size % WORD == 0
    if not plain or not fits:
        return False
    if kernel_shape == source[:2]:
        return True  # the whole input is the one column
    one = kernel_shape == (1, 1) and layer.attributes["stride"] == (1, 1)
    return one and (kernel != "sparse" or result[0] * result[1] == 1)


def _choose(layer: IntegerLayer, target: Target, optimize: Optimize) -> str:
    dense = dense_kernel(target)
    weight = layer.weights["weight"]
    if optimize == "flash":
        return "sparse" if sparse_bytes(weight) < weight.size else dense
    costs = COSTS[_family(target)]
    cheapest: Sequence[str] = sorted((dense, "sparse"), key=lambda k: _cost(layer, k, costs[k]))
    return cheapest[0]


def _cost(layer: IntegerLayer, kernel: str, cost: Cost) -> float:
    """Instructions per pixel."""
    weight = layer.weights["weight"]
    products = (weight != 0).sum() if kernel == "sparse" else weight.size
    return float(cost.column * weight[0].size + cost.product * products + cost.output * len(weight))

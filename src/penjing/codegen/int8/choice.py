"""Which kernel computes which convolution, and how its weights are written.

For latency the estimated instructions decide. For flash the bytes do, of weights and of the code
that reads them, which layers share: a kernel that is used once has to earn its own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.codegen.int8.encodings import Grid, Listed, forms
from penjing.codegen.int8.kernels_16 import is_wide
from penjing.codegen.int8.steps import (
    SPARSE,
    TILES,
    WORD,
    Optimize,
    Step,
    is_direct,
    is_plain,
    window_columns,
)
from penjing.codegen.int8.weights import (
    LONGEST,
    POOL,
    count_chunks,
    count_steps,
    in_window,
    sparse_bytes,
)
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target
from penjing.quantization.integers import IntegerLayer, IntegerNet


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated instructions of a convolution kernel.

    Args:
        column: Per byte of a column that is gathered.
        product: Per product of a pixel and a weight, sixteen weights that are gathered, or a step
            of picks.
        output: Per output of a pixel.
        load: Per weight or step that is loaded, for as many pixels as are computed at a time.
    """

    column: float
    product: float
    output: float
    load: float = 0.0


COSTS: Mapping[str, Mapping[str, Cost]] = {
    "dsp": {
        "pairs": Cost(16.0, 0.98, 43),
        "sparse": Cost(2.0, 3.54, 32),
        "words": Cost(2.0, 2.13, 37),
        "twos": Cost(2.0, 2.5, 37),
    },
    "mve": {"rows": Cost(1.3, 0.209, 17), "gather": Cost(0.44, 5.5, 22)},
    "host": {
        "wide": Cost(0.05, 0.03, 1.5, 0.09),
        "picks": Cost(0.05, 1.75, 1.5, 9.0),
        "rows": Cost(0.3, 0.08, 6),
        "sparse": Cost(0.3, 1.0, 6),
    },
}
"""By instruction set. Of boards: fitted to executed instructions of layers at several sparsities in
the emulator, largest error 5 percent (gather: 19). Of the host: rough, in units of
`UNIT_NS` on a Zen 5."""

ALONE: Mapping[str, Mapping[str, Cost]] = {
    "dsp": {
        "pairs": Cost(0.0, 1.90, 27),
        "sparse": Cost(0.0, 8.0, 36),
        "words": Cost(0.0, 3.24, 34),
        "twos": Cost(0.0, 3.75, 33),
    }
}
"""The same of layers of one pixel, a vector times a matrix: nothing is copied, and no weight that
was read serves a second pixel. Fitted to 256 inputs and 64 outputs, zeros of 50 and 90 percent."""


def dense_kernel(layer: IntegerLayer, target: Target, optimize: Optimize) -> str:
    """The dense convolution kernel that suits a layer and a target."""
    if _family(target) != "host":
        return "pairs" if _family(target) == "dsp" else "rows"
    wide = optimize == "latency" and layer.attributes["dilation"][1] == 1
    return "wide" if wide else "rows"


UNIT_NS = 0.12
"""What a unit of the host's costs takes."""


def work_ns(net: IntegerNet, step: Step) -> float:
    """Nanoseconds of a convolution on one thread of a large processor, roughly."""
    rows, columns, _ = net.tensors[step.layer.output].shape
    costs = COSTS["host"]
    if step.layer.kind == "depthwise" or step.kernel not in {*costs, "listed"}:
        each = costs["rows"].product * step.layer.weights["weight"].size
    else:
        kernel = "sparse" if step.kernel == "listed" else step.kernel
        each = _cost(step.layer, columns, kernel, costs[kernel], alone=False)
    return UNIT_NS * rows * columns * each


def is_host(target: Target) -> bool:
    """Whether a target is a large processor."""
    return _family(target) == "host"


def _family(target: Target) -> str:
    if target.board is None:
        return "host"
    return "mve" if target.vector_bytes > WORD else "dsp"


Code = tuple[str, int, bool]
"""What layers have in common that share functions: how places are gone through, bits of values,
and whether pixels are computed one by one."""

BLOCKS_LEFT = 0.9
"""Share of the weights above which a layer has no pattern of blocks, and keeps its dense kernel."""

PIXELS = 8
"""That the kernels of large processors compute at a time, at most."""

DENSE = frozenset({"pairs", "rows", "wide"})
"""Kernels of a byte per weight, zeros included."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a convolution is computed.

    Args:
        kernel: Its name.
        size_bytes: Of the weights.
        listed: The weights in a small form, for the kernel "listed".
    """

    kernel: str
    size_bytes: int
    listed: Listed | None = field(default=None, compare=False)

    @property
    def code(self) -> Code:
        """The functions that it needs."""
        if self.listed is None:
            return self.kernel, 8, False
        return walk_of(self.listed), self.listed.form.bits, self.listed.grid.pitch == 0


def walk_of(listed: Listed) -> str:
    """The C function that goes through what is there."""
    index = listed.form.index
    return "cells" if index in {"runs", "kernels"} else index


CODE_BYTES: Mapping[str, int] = {
    "pairs": 2870, "rows": 1500, "wide": 0, "gather": 0, "sparse": 1110,
    "dense": 490, "delta": 450, "csr": 490, "bitmap": 540, "cells": 630,
}  # fmt: skip
"""Of a kernel's functions, as arm-none-eabi-gcc 12 makes them for a Cortex-M4 with -O2."""

WINDOW_BYTES, PIXEL_BYTES = 470, 100
"""Of the function that copies a window for four pixels, and less where there is but one."""


def choose(net: IntegerNet, target: Target, optimize: Optimize) -> Mapping[str, Choice]:
    """Pick kernels and encodings.

    Args:
        net: The network.
        target: What is compiled for.
        optimize: What counts: instructions, or bytes of weights and code.

    Returns:
        By name of every convolution of 8 bits that is not in groups.
    """
    layers = [la for la in net.layers if _is_narrow(net, la)]
    if optimize == "flash":
        return _smallest({la.name: _by_size(net, la, target) for la in layers})
    return {la.name: _quickest(net, la, target, optimize) for la in layers}


def is_listable(net: IntegerNet, layer: IntegerLayer) -> bool:
    """Whether the weights of a layer can have small forms."""
    return _is_narrow(net, layer) and _reaches(layer)


def _is_narrow(net: IntegerNet, layer: IntegerLayer) -> bool:
    """Whether a layer is a convolution of 8 bits that is not in groups."""
    return layer.kind == "conv" and is_plain(layer) and not is_wide(net, layer)


def _by_size(net: IntegerNet, layer: IntegerLayer, target: Target) -> list[Choice]:
    """Every way to write a layer's weights, the smallest of those that share a function."""
    weight = layer.weights["weight"]
    found = [Choice(dense_kernel(layer, target, "flash"), weight.size)]
    if _reaches(layer):
        found.append(Choice("sparse", sparse_bytes(weight)))
        found += [Choice("listed", f.size_bytes, f) for f in small_forms(net, layer)]
    best: dict[Code, Choice] = {}
    for choice in sorted(found, key=lambda c: c.size_bytes):
        best.setdefault(choice.code, choice)
    return list(best.values())


def small_forms(net: IntegerNet, layer: IntegerLayer) -> Sequence[Listed]:
    """A convolution's weights in every small form."""
    weight = layer.weights["weight"]
    across, apart = weight.shape[2], layer.attributes["dilation"][1]
    channels = weight.shape[3]
    if is_direct(net, layer, "listed"):
        taps = weight.shape[1] * across
        grid = Grid(1, weight[0].size, 0, (taps, channels))
    else:
        wide = (across - 1) * apart + 1
        weight = in_window(weight, wide, apart)
        pitch = window_columns(layer) * channels
        grid = Grid(weight.shape[1], wide * channels, pitch, (across, apart * channels))
    return list(forms(weight.reshape(len(weight), -1), grid))


def _smallest(ways: Mapping[str, Sequence[Choice]]) -> Mapping[str, Choice]:
    """The least bytes of layers and functions, which are given up as long as that helps."""
    allowed = {c.code for choices in ways.values() for c in choices}
    best, least = _picked(ways, allowed)
    while True:
        used = sorted({c.code for c in best.values()})
        tries = [(code, *_picked(ways, allowed - {code})) for code in used]
        code, found, size = min(tries, key=lambda t: t[2], default=(None, best, least))
        if code is None or size >= least:
            return best
        best, least = found, size
        allowed.remove(code)


def _picked(
    ways: Mapping[str, Sequence[Choice]], allowed: Set[Code]
) -> tuple[Mapping[str, Choice], int]:
    """The smallest choices with these functions, any where a layer has none; their bytes."""
    found = {
        name: min([c for c in choices if c.code in allowed] or choices, key=lambda c: c.size_bytes)
        for name, choices in ways.items()
    }
    code = _code_bytes({c.code for c in found.values()})
    return found, code + sum(c.size_bytes for c in found.values())


def _code_bytes(codes: Set[Code]) -> int:
    """Of the functions of all layers."""
    sparse = [one for name, _, one in codes if name not in DENSE]
    window = WINDOW_BYTES if not all(sparse) else 0
    return window + sum(CODE_BYTES[name] - PIXEL_BYTES * one for name, _, one in codes)


def _quickest(net: IntegerNet, layer: IntegerLayer, target: Target, optimize: Optimize) -> Choice:
    weight = layer.weights["weight"]
    dense = Choice(dense_kernel(layer, target, optimize), weight.size)
    if not _reaches(layer):
        return dense
    family = _family(target)
    costs = COSTS[family]
    able = [dense, Choice("gather" if family == "mve" else "sparse", sparse_bytes(weight))]
    if family == "dsp":
        able += _blocks(weight)
    if dense.kernel == "wide" and machine(target).picks:
        able.append(Choice("picks", 2 * POOL * count_steps(weight)))
    rows, columns, _ = net.tensors[layer.output].shape

    def cost(choice: Choice) -> float:
        alone = rows * columns == 1 and is_direct(net, layer, choice.kernel)
        own = ALONE.get(family, costs) if alone else costs
        found = own[choice.kernel]
        if is_direct(net, layer, choice.kernel):
            found = replace(found, column=0.0)
        return _cost(layer, 1 if alone else columns, choice.kernel, found, alone=alone)

    return min(able, key=cost)


def _blocks(weight: NDArray[Any]) -> list[Choice]:
    """Kernels for blocks, whose products come two by two, where some blocks are zero."""
    names = ("twos", "words") if weight.shape[3] % WORD == 0 else ("twos",)
    made = {name: _products(weight, name) for name in names}
    sizes = {name: (5 * n // 4 if name == "words" else 3 * n // 2) for name, n in made.items()}
    return [Choice(n, sizes[n]) for n in names if made[n] < BLOCKS_LEFT * weight.size]


def _reaches(layer: IntegerLayer) -> bool:
    """Whether two bytes say every place in a window."""
    weight = layer.weights["weight"]
    return bool(weight.shape[1] * window_columns(layer) * weight.shape[3] <= LONGEST)


def _cost(layer: IntegerLayer, columns: int, kernel: str, cost: Cost, *, alone: bool) -> float:
    """Instructions per pixel; gathering works on whole tiles of a row, also where it fills none."""
    weight = layer.weights["weight"]
    tile = TILES[kernel] if kernel in {"gather", "words", "twos"} and not alone else 1
    idle = -(-columns // tile) * tile / columns
    together = min(columns, PIXELS)
    each = (cost.product + cost.load / together) * _products(weight, kernel)
    one = cost.column * weight[0].size + each + cost.output * len(weight)
    return float(idle * one)


def _products(weight: NDArray[Any], kernel: str) -> int:
    """What a kernel multiplies per pixel, in its own units."""
    if kernel == "gather":
        return count_chunks(weight)
    if kernel == "picks":
        return count_steps(weight)
    if kernel == "words":
        return WORD * int(np.count_nonzero((weight.reshape(-1, WORD) != 0).any(1)))
    if kernel == "twos":
        rows = np.pad(weight.reshape(len(weight), -1), ((0, len(weight) % 2), (0, 0)))
        shared = np.count_nonzero((rows.reshape(-1, 2, rows.shape[1]) != 0).any(1), axis=1)
        return int(4 * (-(-shared // 2)).sum())
    return int(np.count_nonzero(weight)) if kernel in SPARSE else int(weight.size)

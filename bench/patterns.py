"""Which patterns of zeros pay, layer by layer?

    python bench/patterns.py --layer conv --pattern block:4x1 --sparsity 0.8    one row
    python bench/patterns.py --all                                              every row (minutes)

A row is one layer with random weights whose zeros have a pattern. Every kind of kernel that takes
the layer is built alone in all its styles and timed on one thread, in turn; a kind's time is its
best style's. `chosen` is what the compiler takes without measuring. Times hold what a kernel does
to its input (staging), not a change of layout in front of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import product
from typing import Any

import numpy as np
import torch

from penjing.codegen import tuning
from penjing.codegen.choice import choose
from penjing.codegen.encodings import sizes
from penjing.codegen.ir import RELU, Layer, Net, Tensor
from penjing.codegen.kernels import host_kernels
from penjing.codegen.targets import HOST
from penjing.pruning.patterns import Pattern, Tiling
from record import Record, pin

LAYERS = {
    "conv": (64, 64, 3, 16),
    "pointwise": (128, 128, 1, 14),
    "linear": (1024, 1024, 0, 1),
    "linear-16": (1024, 1024, 0, 16),
}
"""Outputs, inputs, kernel (0 = linear), height and width (rows)."""
FREE = ("element", "block:1x4", "block:4x1", "block:8x1", "block:4x4", "block:16x1", "block:1x16")
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
ROUNDS = 3
"""Times that everything is measured; the least counts."""


def rows_wanted() -> list[tuple[str, str, float]]:
    """Layer, pattern, sparsity."""
    found = [("conv", "shapes", 5 / 9)]
    for layer in LAYERS:
        found += [(layer, "element", 0.0), (layer, "2:4", 0.5), (layer, "1:4", 0.75)]
        patterns = (*FREE, "kernel") if layer == "conv" else FREE
        found += list(product([layer], patterns, SPARSITIES))
    return found


def weights(layer: str, pattern: str, sparsity: float) -> np.ndarray:
    """Random numbers with zeros."""
    outs, ins, kernel, _ = LAYERS[layer]
    taps = max(1, kernel * kernel)
    torch.manual_seed(0)
    weight = torch.randn(outs, ins, taps)
    if pattern == "shapes":  # four taps of nine, in one of four shapes
        shapes = torch.stack([torch.randperm(taps) < taps - round(sparsity * taps)] * 4)
        shapes = torch.stack([s[torch.randperm(taps)] for s in shapes])
        weight *= shapes[torch.randint(4, (outs, ins))]
    else:
        matrix = weight.permute(0, 2, 1).reshape(1, outs, -1)
        tiling = Tiling.of(Pattern.parse(pattern), matrix, taps)
        scores = torch.rand(tiling.sizes.shape, dtype=torch.float64)
        kept = tiling.keep(scores, sparsity)
        weight = (matrix * kept).reshape(outs, taps, ins).permute(0, 2, 1)
    shape = (outs, ins, kernel, kernel) if kernel else (outs, ins)
    return weight.reshape(shape).numpy().astype(np.float32)


def net_of(layer: str, weight: np.ndarray) -> Net:
    """The layer with bias and ReLU."""
    outs, ins, kernel, size = LAYERS[layer]
    attributes: dict[str, Any] = {"activation": RELU}
    if kernel:
        pad = (kernel // 2, kernel // 2)
        attributes |= {"stride": (1, 1), "padding": (pad, pad), "dilation": (1, 1), "groups": 1}
    held = {"weight": weight, "bias": np.zeros(outs, np.float32)}
    made = Layer("conv" if kernel else "linear", "layer", ("x",), ("y",), attributes, held)
    shapes = [(1, n, size, size) if kernel else (size, n) for n in (ins, outs)]
    tensors = {n: Tensor(n, s) for n, s in zip("xy", shapes, strict=True)}
    return Net(("x",), ("y",), (made,), tensors)


def times(net: Net) -> dict[str, float]:
    """Microseconds of the best style of every kind."""
    layer = net.layers[0]
    able = [k for k in host_kernels() if k.takes(net, layer, HOST)]
    best: dict[str, float] = {}
    for name in dict.fromkeys(k.name for k in able):
        kind = [k for k in able if k.name == name]
        for kernel, nanoseconds in tuning.measured(net, layer, kind, HOST).values():
            best[kernel.name] = min(best.get(kernel.name, np.inf), nanoseconds / 1e3)
    return best


def row(layer: str, pattern: str, sparsity: float) -> dict[str, Any]:
    """Build, time, compare."""
    weight = weights(layer, pattern, sparsity)
    net = net_of(layer, weight)
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder  # measured anew
            for name, value in times(net).items():
                best[name] = min(best.get(name, np.inf), value)
    chosen = choose(net, host_kernels(), HOST, "latency")["layer"].name
    return {
        "layer": layer,
        "pattern": pattern,
        "sparsity": sparsity,
        "nonzero": int(np.count_nonzero(weight)),
        "microseconds": best,
        "chosen": chosen,
        "chosen_over_best": best[chosen] / min(best.values()),
        "encodings_bytes": dict(sizes(weight.reshape(len(weight), -1))),
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layer", choices=LAYERS)
    parser.add_argument("--pattern")
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print the row, do not keep it")
    given = parser.parse_args()
    pin()
    rows = Record("patterns", __doc__.splitlines()[0], "python bench/patterns.py --all")
    for layer, pattern, sparsity in rows_wanted():
        if (given.layer or layer, given.pattern or pattern) != (layer, pattern):
            continue
        if given.sparsity not in (None, sparsity):
            continue
        if given.dry:
            print(row(layer, pattern, sparsity))
        elif not rows.has(layer=layer, pattern=pattern, sparsity=sparsity):
            rows.add(row(layer, pattern, sparsity))


if __name__ == "__main__":
    main()

"""What do patterns of zeros and bits of weights cost in int8: flash, executed instructions?

    python bench/integer_patterns.py                    every row that is missing (two minutes)
    python bench/integer_patterns.py --pattern 2:4      those of one pattern
    python bench/integer_patterns.py --again            every row anew

A small network (four convolutions and a linear layer, random weights, 16 x 16 x 3) whose weights
are zero in a pattern, the smallest magnitudes first, and then quantized. It is compiled for a core
to be fast and to be small; instructions are counted in the emulator, where the program is compared
bit for bit with the Python reference. `encodings` are those of the weights, layer by layer.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penjing.codegen.int8 import compile_integers
from penjing.codegen.int8.steps import Optimize
from penjing.graph.capture import capture
from penjing.pruning.patterns import Pattern, Tiling
from penjing.quantization.integers import IntegerNet
from penjing.quantization.lowering import integers
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.scheme import resolve
from penjing.task import Calibration
from record import Record

CORES = ("cortex-m4", "cortex-m55")
GOALS: tuple[Optimize, ...] = ("latency", "flash")
CASES = (
    ("none", 0.0, "int8"), ("none", 0.0, "int4"), ("none", 0.0, "ternary"),
    ("element", 0.5, "int8"), ("element", 0.8, "int8"), ("element", 0.95, "int8"),
    ("element", 0.8, "int4"), ("2:4", 0.5, "int8"), ("1:4", 0.75, "int8"),
    ("block:1x4", 0.8, "int8"), ("block:4x1", 0.8, "int8"), ("block:4x4", 0.8, "int8"),
    ("kernel", 0.8, "int8"), ("shapes", 5 / 9, "int8"),
)  # fmt: skip
"""Pattern, share of zeros, scheme; the first layer of three channels stays dense."""
SHAPES = 4
"""Kernel shapes that a layer of the pattern "shapes" may have, each of four taps of nine."""


def network() -> nn.Sequential:
    """Random, in eval mode."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for given, made, size, stride in (
        (3, 16, 3, 1),
        (16, 32, 3, 2),
        (32, 32, 3, 1),
        (32, 64, 1, 1),
    ):
        layers += [nn.Conv2d(given, made, size, stride, size // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def kept_shapes(weight: Tensor) -> Tensor:
    """Which taps stay when every kernel takes the best of a few shapes."""
    outs, ins = weight.shape[:2]
    taps = weight.flatten(2).abs()
    left = round(taps.shape[2] * 4 / 9)
    shapes = torch.stack([torch.randperm(taps.shape[2]) < left for _ in range(SHAPES)])
    best = (taps @ shapes.T.float()).argmax(2)
    return shapes[best].reshape(outs, ins, *weight.shape[2:])


def kept(weight: Tensor, pattern: str, sparsity: float) -> Tensor:
    """Which weights of a convolution or linear layer stay."""
    if pattern == "shapes":
        return kept_shapes(weight) if weight[0, 0].numel() > 1 else torch.ones_like(weight) > 0
    outs, ins = weight.shape[:2]
    taps = weight[0, 0].numel()
    matrix = weight.reshape(outs, ins, taps).permute(0, 2, 1).reshape(1, outs, -1)
    found = Pattern.parse("element" if pattern == "kernel" and taps == 1 else pattern)
    if found.obstacle(outs, ins):
        return torch.ones_like(weight) > 0
    tiling = Tiling.of(found, matrix, taps)
    scores = tiling.blocks(matrix.double() ** 2).sum((1, 3))
    stays = tiling.keep(scores, sparsity)
    return stays.reshape(outs, taps, ins).permute(0, 2, 1).reshape(weight.shape)


@torch.no_grad()
def integer_net(pattern: str, sparsity: float, scheme: str) -> IntegerNet:
    """Sparse, then quantized."""
    model, samples = network(), torch.randn(64, 3, 16, 16)
    for layer in list(model.modules())[2:]:
        if isinstance(layer, nn.Conv2d | nn.Linear) and pattern != "none":
            layer.weight *= kept(layer.weight, pattern, sparsity)
    settings = Settings(scheme=resolve(scheme))
    captured = capture(model, samples[:2])
    return integers(quantize_program(captured, Calibration.of(samples), settings))


def row(net: IntegerNet, core: str, optimize: Optimize) -> dict[str, Any]:
    """One program."""
    program = compile_integers(net, core, optimize)
    log, size = program.check(), program.flash()
    if not log.equal:
        raise SystemExit(f"the program for {core} differs from the reference: no figures")
    steps = json.loads(program.files["net.json"])["steps"]
    weights = [la.weights["weight"] for la in net.layers if "weight" in la.weights]
    return {
        "core": core,
        "optimize": optimize,
        "nonzero": int(sum(np.count_nonzero(w) for w in weights)),
        "weights": int(sum(w.size for w in weights)),
        "code_bytes": size.code_bytes,
        "constant_bytes": size.constant_bytes,
        "flash_bytes": size.flash_bytes,
        "arena_bytes": program.arena_bytes,
        "instructions": log.count,
        "macs": net.macs(),
        "kernels": [s["kernel"] for s in steps if "encoding" in s],
        "encodings": [s["encoding"] for s in steps if "encoding" in s],
    }


def main() -> None:
    """Do the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", help="only this one")
    parser.add_argument("--again", action="store_true", help="replace the rows that are there")
    parser.add_argument("--dry", action="store_true", help="print the rows, do not keep them")
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = "python bench/integer_patterns.py"
    rows = Record("integer_patterns", __doc__.splitlines()[0], command)
    for pattern, sparsity, scheme in CASES:
        if given.pattern not in (None, pattern):
            continue
        key = {"pattern": pattern, "sparsity": sparsity, "scheme": scheme}
        if given.again and not given.dry:
            rows.drop(**key)
        wanted = [(c, g) for c in CORES for g in GOALS]
        missing = [(c, g) for c, g in wanted if not rows.has(**key, core=c, optimize=g)]
        net = integer_net(pattern, sparsity, scheme) if missing else None
        for core, goal in missing:
            assert net is not None
            found = {**key, **row(net, core, goal)}
            print(found) if given.dry else rows.add(found)


if __name__ == "__main__":
    main()

"""How many cycles does an executed instruction take on a core?

    python bench/cycles.py

Published times of MLPerf Tiny's networks times the clock are cycles, but of programs whose
instructions nobody counted. Ours stand in for them: int8, dense, the same networks.

A Cortex-M4 is fitted on the submissions that run CMSIS-NN, whose dense kernels take nearly the
instructions of ours. No such submission ran on a Cortex-M7, which executes the same instructions;
its factor is that of the M4 times the ratio of cycles of libraries that ran on both cores. There
is no submission on a Cortex-M55, so it gets no estimate.

The network of visual wake words is left out: four fifths of its weights are zero, whole channels
among them, and it is not known which submissions compute those; two took fewer cycles than our
dense program executes instructions, which a Cortex-M4 cannot do for the same work. That was decided
after seeing its times; with it the factors are 1.40 (0.78 to 2.00) and 0.87 (0.38 to 1.51).

Each factor is a geometric mean. Its error is that of networks left out: a factor fitted on the
other networks predicts the cycles of every submission of the one left out; the interval spans the
worst of these predictions. The figures in penjing/codegen/cycles.py are those that this writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from microcontrollers import FILES
from penjing.codegen.int8 import compile_integers
from penjing.quantization.integers import IntegerLayer, IntegerNet
from penjing.quantization.tflite import read_tflite
from record import Record, data_folder

PUBLISHED = Path(__file__).parent / "published" / "mlperf_tiny.json"
STAND_IN = "CMSIS-NN"
NETWORKS = ("ic", "kws", "ad")
Figures = Sequence[dict[str, float]]
"""Per submission, or per library on two cores: a figure of every network."""


def dense(net: IntegerNet) -> IntegerNet:
    """The network without zeros, so that no kernel leaves any out; nothing else is counted."""

    def filled(layer: IntegerLayer) -> IntegerLayer:
        weights = {k: np.where(w == 0, w.dtype.type(1), w) if k == "weight" else w
                   for k, w in layer.weights.items()}  # fmt: skip
        return replace(layer, weights=weights)

    return replace(net, layers=tuple(filled(layer) for layer in net.layers))


def instructions(network: str, core: str) -> int:
    """Executed by our dense program."""
    net = dense(read_tflite(data_folder() / "mlperf_tiny" / FILES[network]))
    log = compile_integers(net, core).check()
    if not log.equal:
        raise SystemExit(f"the program of {network} differs from the reference: no figures")
    return log.count


def published_cycles(submission: dict[str, Any]) -> dict[str, float]:
    """Cycles of one inference, by network."""
    rates = submission["inferences_per_second"]
    return {name: submission["mhz"] * 1e6 / rates[name] for name in NETWORKS}


def mean(values: Iterable[float]) -> float:
    """Geometric."""
    return float(np.exp(np.mean(np.log(list(values)))))


def of(figures: Figures, networks: Iterable[str]) -> list[float]:
    """The figures of some networks, of all submissions."""
    return [row[name] for name in networks for row in figures]


def fit(*parts: Figures) -> dict[str, Any]:
    """The product of geometric means, and how far it is off where a network was left out."""
    misses = {}
    for name in NETWORKS:
        rest = [other for other in NETWORKS if other != name]
        predicted = np.prod([mean(of(part, rest)) for part in parts])
        found = [np.prod(combined) for combined in product(*(of(part, [name]) for part in parts))]
        misses[name] = [float(min(found) / predicted), float(max(found) / predicted)]
    factor = float(np.prod([mean(of(part, NETWORKS)) for part in parts]))
    low, high = min(m[0] for m in misses.values()), max(m[1] for m in misses.values())
    return {"factor": factor, "low": factor * low, "high": factor * high, "left_out": misses}


def main() -> None:
    """Fit and write both cores."""
    submissions = json.loads(PUBLISHED.read_text())["submissions"]
    counts = {name: instructions(name, "cortex-m4") for name in NETWORKS}
    stand_ins = [s for s in submissions if s["kernels"] == STAND_IN]
    per_instruction = [
        {name: cycles / counts[name] for name, cycles in published_cycles(s).items()}
        for s in stand_ins
    ]
    others = [s for s in submissions if s["kernels"] != STAND_IN]
    by_core = {(s["runtime"], s["core"]): s for s in others}
    pairs = [
        (by_core[run, "cortex-m4"], fast)
        for (run, core), fast in by_core.items()
        if core == "cortex-m7"
    ]
    ratios = [
        {name: b / a for (name, a), b in zip(
            published_cycles(slow).items(), published_cycles(fast).values(), strict=True)}
        for slow, fast in pairs
    ]  # fmt: skip
    record = Record(
        "cycles", "How many cycles does an executed instruction take?", "python bench/cycles.py"
    )
    for core in ("cortex-m4", "cortex-m7"):
        record.drop(core=core)
    for stand_in, ratio in zip(stand_ins, per_instruction, strict=True):
        record.add({"core": "cortex-m4", "kind": "submission", **described(stand_in),
                    "instructions": counts, "per_instruction": ratio})  # fmt: skip
    for (_, fast), ratio in zip(pairs, ratios, strict=True):
        record.add({"core": "cortex-m7", "kind": "pair", **described(fast), "of_m4": ratio})
    record.add({"core": "cortex-m4", "kind": "fit", **fit(per_instruction)})
    record.add({"core": "cortex-m7", "kind": "fit", **fit(per_instruction, ratios)})


def described(submission: dict[str, Any]) -> dict[str, Any]:
    """Who ran what where."""
    keys = ("runtime", "kernels", "round", "board", "mhz", "source")
    return {key: submission[key] for key in keys} | {"cycles": published_cycles(submission)}


if __name__ == "__main__":
    main()

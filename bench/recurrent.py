"""What does a GRU in integers lose, and what does it save, on spoken digits?

    python bench/recurrent.py --seed 0
    python bench/recurrent.py --all            every missing row, one after the other

One row is one calibration seed. The network hears a speaker of whom it has learnt nothing; it runs
in floats, as the ONNX file (matrices in int8, everything else of the GRU in floats, on ONNX
Runtime) and as compiled C that has no floats at all. Both programs in C are timed clip by clip in
turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import penjing as pj
from penjing.codegen.int8 import IntegerProgram
from quantization import Real
from record import Record, paired_interval
from workloads import workload

SEEDS = (0, 1, 2)
SAMPLES = 500
TIMED = 100


class Compiled:
    """An integer program in C, called like a network: integers in, integers out, floats around."""

    def __init__(self, program: IntegerProgram) -> None:
        self.program, tensors = program, program.net.tensors
        self.input, self.output = tensors[program.net.inputs[0]], tensors[program.net.outputs[0]]

    def integers(self, x: Tensor) -> np.ndarray:
        """Inputs on their grid."""
        return self.input.arrange(self.input.quantize(x.numpy()))

    def __call__(self, x: Tensor) -> Tensor:
        """Its only output."""
        (found,) = self.program.run(self.integers(x))
        return torch.from_numpy(self.output.dequantize(self.output.restore(found)))


def in_turn(
    integers: Compiled, floats: Callable[[np.ndarray], object], clips: Tensor
) -> tuple[float, float]:
    """Median milliseconds of both programs, clip by clip in turn."""
    spent: tuple[list[float], list[float]] = ([], [])
    for clip in clips.split(1):
        runs = (integers.program.run, integers.integers(clip)), (floats, clip.numpy())
        for (program, values), times in zip(runs, spent, strict=True):
            started = time.perf_counter()
            program(values)
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(spent[0]), statistics.median(spent[1])


def row(seed: int) -> dict:
    """Quantize, write both programs, look at the test set once."""
    job = workload("digits")
    x = job.calibration(seed, SAMPLES)
    done = pj.quantize(job.model, x[:1], calibration=[x], seed=seed)
    floats, program = pj.compile(job.model, x[:1]), pj.compile(done.model, x[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        pj.export(done.model, x[:1], path)
        mixed, onnx_bytes = job.correct(Real(path)), path.stat().st_size
    integers = Compiled(program)
    before, after = job.dense(), job.correct(integers)
    with torch.no_grad():
        same = (done.model(job.test).argmax(1) == integers(job.test).argmax(1)).float().mean()
    ms, floats_ms = in_turn(integers, floats, job.test[:TIMED])
    return {
        "network": "digits",
        "seed": seed,
        "samples": SAMPLES,
        "floats": 100 * job.quality(before),
        "matrices": 100 * job.quality(mixed),
        "integers": 100 * job.quality(after),
        "difference_points": paired_interval(after, before),
        "same_top1_as_simulation": float(same),
        "float_ops": dict(done.model.network.fallbacks),
        "original_bytes": 4 * sum(p.numel() for p in job.model.parameters()),
        "stored_bytes": done.model.network.size_bytes(),
        "onnx_bytes": onnx_bytes,
        "flash_bytes": program.flash_bytes,
        "arena_bytes": program.arena_bytes,
        "floats_flash_bytes": floats.flash_bytes,
        "floats_arena_bytes": floats.arena_bytes,
        "integers_ms": ms,
        "floats_ms": floats_ms,
        "timed": TIMED,
        "test_samples": len(job.labels),
        "split": job.split,
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("recurrent", __doc__.splitlines()[0], "python bench/recurrent.py --all")
    for seed in SEEDS if given.seed is None else (given.seed,):
        if not record.has(seed=seed):
            record.add(row(seed))


if __name__ == "__main__":
    main()

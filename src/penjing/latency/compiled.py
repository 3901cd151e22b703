"""Latency of a compiled program on this machine, called through its C entry point."""

from __future__ import annotations

import statistics
import time

import numpy as np

from penjing.codegen.program import Program
from penjing.codegen.runtime import KINDS
from penjing.figures import LatencyFigures
from penjing.latency.onnxruntime import Timing


def time_program(program: Program, timing: Timing) -> LatencyFigures:
    """Time calls of a program on its test vector's shapes.

    Args:
        program: For this machine.
        timing: How often; its batch and threads are those that the program was compiled for.

    Returns:
        Median, minimum and 95th percentile; the call from Python, some 10 microseconds, is in them.
    """
    loaded = program.loaded
    random = np.random.default_rng(0)
    inputs = [
        random.standard_normal(t.shape, dtype=np.float32)
        if t.dtype == "f32"
        else np.zeros(t.shape, KINDS[t.dtype])
        for t in loaded.inputs
    ]
    for _ in range(timing.warmup):
        loaded.run(inputs)
    spent = []
    for _ in range(timing.n):
        start = time.perf_counter()
        loaded.run(inputs)
        spent.append(1e3 * (time.perf_counter() - start))
    return LatencyFigures(
        runtime="penjing's C",
        threads=timing.threads,
        batch=timing.batch,
        n=timing.n,
        median_ms=statistics.median(spent),
        min_ms=min(spent),
        p95_ms=float(np.percentile(spent, 95)),
    )

"""Latency of a compiled program on this machine, called through its C entry point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penjing.codegen.int8 import IntegerProgram
from penjing.codegen.program import Program
from penjing.codegen.runtime import KINDS
from penjing.figures import LatencyFigures
from penjing.latency.onnxruntime import Timing, latency_figures, pair_figures, rounds_of

RUNTIME = "penjing's C"


def time_program(program: Program | IntegerProgram, timing: Timing) -> LatencyFigures:
    """Time calls of a program on its test vector's shapes.

    Args:
        program: For this machine.
        timing: How often; its batch and threads are those that the program was compiled for. An
            integer program takes the samples of a batch one after the other, or each thread some.

    Returns:
        Median, minimum and 95th percentile; the call from Python, some 10 microseconds, is in them.
    """
    rounds = rounds_of([_warm(program, timing)], timing)
    return latency_figures(rounds[:, 0], timing, RUNTIME)


def time_programs(
    program: Program, original: Program, timing: Timing
) -> tuple[LatencyFigures, LatencyFigures]:
    """Time two programs call by call, each first in every other round.

    Args:
        program: The one that is of interest.
        original: The one it is compared with.
        timing: As for `time_program`.

    Returns:
        Figures of the program, whose `ratio` is original / program, and of the original in the same
        rounds.
    """
    rounds = rounds_of([_warm(program, timing), _warm(original, timing)], timing)
    return pair_figures(rounds, timing, RUNTIME)


def _warm(program: Program | IntegerProgram, timing: Timing) -> Callable[[], object]:
    """A call on random inputs that has been made a few times."""
    call = _call_of(program, timing.batch)
    for _ in range(timing.warmup):
        call()
    return call


def _call_of(program: Program | IntegerProgram, batch: int) -> Callable[[], object]:
    """A call on random inputs, as the C function takes them."""
    random = np.random.default_rng(0)
    if isinstance(program, IntegerProgram):
        shapes = [program.net.tensors[name].shape for name in program.net.inputs]
        integers = [random.integers(-128, 128, (batch, *s)).astype(np.int8) for s in shapes]
        return lambda: program.run(*integers)
    loaded = program.loaded
    inputs = [
        random.standard_normal(t.shape, dtype=np.float32)
        if t.dtype == "f32"
        else np.zeros(t.shape, KINDS[t.dtype])
        for t in loaded.inputs
    ]
    return lambda: loaded.run(inputs)

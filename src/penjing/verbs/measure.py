"""`penjing.measure`: what a network costs, each figure with how it was had."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from penjing.errors import ExportError, UnavailableError
from penjing.exporters import onnx_feeds, write_program
from penjing.figures import Figures, LatencyFigures
from penjing.graph.capture import Example, Program, capture
from penjing.graph.form import identity
from penjing.latency.onnxruntime import Timing, time_onnx, time_pair
from penjing.verbs.preparation import program_figures


def measure(  # noqa: PLR0913 - a public verb, its options are keywords
    model: nn.Module,
    example_inputs: Example,
    *,
    device: str | None = None,
    latency: bool = True,
    threads: int = 1,
    batch: int = 1,
    n: int = 50,
    against: nn.Module | None = None,
) -> Figures:
    """Measure size and cost of a network.

    Args:
        model: Network to measure; only read.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        device: Name of a device profile; not in this version.
        latency: Export to ONNX and time it; otherwise only what the graph tells is had, at once.
        threads: Threads of the runtime.
        batch: Samples per timed call; all other figures are at batch one.
        n: Timed calls, after five that are not.
        against: Network to compare with, timed call by call in turn; `latency.ratio` then says how
            many times faster `model` is.

    Returns:
        Figures, with one sentence in `how` for each. A network that ONNX cannot express has no
        latency, and `how` says why.

    Raises:
        UnavailableError: `device` was given.
        InputError: The network does not run on `example_inputs`, or `batch` is not what it takes.
        CaptureError: The network does not export.
        VerificationError: The exported file computes something else.

    Example:
        >>> import torch
        >>> figures = measure(nn.Linear(2, 3), torch.ones(1, 2), latency=False)
        >>> figures.params, figures.macs
        (9, 6)
    """
    if device is not None:
        raise UnavailableError(
            f"device={device!r}: device profiles are not in this version; without it the latency "
            "is that of ONNX Runtime on this machine"
        )
    timing = Timing(threads=threads, batch=batch, n=n)
    program = capture(model, example_inputs)
    figures = program_figures(program)
    if not latency:
        return _with_stored_size(figures, program, "the file itself was not written")
    other = None if against is None else capture(against, example_inputs)
    try:
        size, timed = _timed(program, other, timing)
    except ExportError as error:
        figures = _with_stored_size(figures, program, "the network has no ONNX file")
        return replace(figures, how={**figures.how, "latency_ms": f"not measured: {error}"})
    return replace(
        figures,
        size_bytes=size,
        latency_ms=timed.median_ms,
        latency=timed,
        how={
            **figures.how,
            "size_bytes": "bytes of the ONNX file with all weights inside",
            "latency_ms": _sentence(timed, timing.warmup),
        },
    )


def _timed(program: Program, other: Program | None, timing: Timing) -> tuple[int, LatencyFigures]:
    """Bytes of the exported file and its latency."""
    with tempfile.TemporaryDirectory() as folder:
        mine = write_program(program, Path(folder) / "network.onnx")
        feeds = onnx_feeds(program, timing.batch)
        if other is None:
            return mine.size_bytes, time_onnx(mine.path, timing, feeds)
        theirs = write_program(other, Path(folder) / "original.onnx")
        pair = time_pair(mine.path, theirs.path, timing, feeds, onnx_feeds(other, timing.batch))
        return mine.size_bytes, pair[0]


def _with_stored_size(figures: Figures, program: Program, why: str) -> Figures:
    kept = program.parameters | program.buffers
    tensors: dict[Any, Tensor] = {identity(t): t for k, t in program.tensors.items() if k in kept}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    how = f"bytes of all parameters and buffers, tied ones once; {why}"
    return replace(figures, size_bytes=size, how={**figures.how, "size_bytes": how})


def _sentence(timed: LatencyFigures, warmup: int) -> str:
    threads = "1 thread" if timed.threads == 1 else f"{timed.threads} threads"
    turns = "" if timed.ratio is None else ", in turn with the original"
    return (
        f"median of {timed.n} calls after {warmup} to warm up, {timed.runtime} on this machine, "
        f"{threads}, batch {timed.batch}{turns}"
    )

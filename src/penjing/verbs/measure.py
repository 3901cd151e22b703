"""`penjing.measure`: what a network costs, each figure with how it was had."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from penjing.codegen.int8 import IntegerProgram
from penjing.codegen.pipeline import Settings
from penjing.codegen.program import Program
from penjing.counts.figures import program_figures
from penjing.errors import ExportError, InputError, StrategyError, UnavailableError
from penjing.exporters import (
    Exported,
    compile_checked,
    compile_quantized,
    onnx_feeds,
    write_integers,
    write_program,
)
from penjing.figures import Figures, LatencyFigures
from penjing.graph.capture import Example, capture
from penjing.graph.capture import Program as Captured
from penjing.graph.form import identity
from penjing.latency.compiled import time_program
from penjing.latency.onnxruntime import Timing, time_onnx, time_pair
from penjing.quantization.module import QuantizedModule
from penjing.quantization.network import QuantizedNetwork
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.quantize import quantized_figures
from penjing.verbs.soundness import check_finite


@arguments_checked
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
    runtime: Literal["onnxruntime", "c"] = "onnxruntime",
) -> Figures:
    """Measure size and cost of a network.

    Args:
        model: Network to measure, in floats or quantized; only read.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        device: Name of a device profile; not in this version.
        latency: Export to ONNX and time it; otherwise only what the graph tells is had, at once.
        threads: Threads of the runtime.
        batch: Samples per timed call; all other figures are at batch one.
        n: Timed calls, after five that are not.
        against: Network to compare with, timed call by call in turn; `latency.ratio` then says how
            many times faster `model` is.
        runtime: "onnxruntime", or "c" for the program that `compile` makes: its flash as
            `size_bytes`, its arena, inputs and outputs as `ram_bytes`, and its latency.

    Returns:
        Figures, with one sentence in `how` for each. A network that ONNX cannot express has no
        latency, and `how` says why.

    Raises:
        UnavailableError: `device` was given.
        StrategyError: An unknown runtime, or one that does not time against another network.
        InputError: The network does not run on `example_inputs`, or `batch` is not what it takes;
            with `runtime="c"` also weights that are NaN or infinite.
        CaptureError: The network does not export.
        ExportError: With `runtime="c"`, an op that cannot be compiled.
        MissingDependencyError: With `runtime="c"`, no C compiler.
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
    if hasattr(model, "arena_bytes"):
        raise InputError(
            "this is a compiled program, which has .arena_bytes and .flash_bytes; to time it give "
            'the network that it was made from, with runtime="c"'
        )
    timing = Timing(threads=threads, batch=batch, n=n)
    if runtime != "onnxruntime":
        if runtime != "c" or against is not None:
            raise StrategyError(
                f"runtime is {runtime!r}; known are 'onnxruntime' and, without `against`, 'c'"
            )
        return _compiled(model, example_inputs, timing, latency)
    mine = _Measured.of(model, example_inputs)
    figures = mine.figures
    if not latency:
        return mine.without_file("the file itself was not written")
    other = None if against is None else _Measured.of(against, example_inputs)
    try:
        size, timed = _timed(mine, other, timing)
    except ExportError as error:
        figures = mine.without_file("the network has no ONNX file")
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


@dataclass(frozen=True, slots=True)
class _Measured:
    """A network in floats, or in integers.

    Args:
        program: Its graph.
        figures: What the graph tells.
        network: The integer network; None in floats.
    """

    program: Captured
    figures: Figures
    network: QuantizedNetwork | None = None

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Example) -> _Measured:
        """What the graph of a network tells."""
        if isinstance(model, QuantizedModule):
            program = model.network.program
            figures = quantized_figures(model.network, program_figures(program))
            return cls(program, figures, model.network)
        program = capture(model, example_inputs)
        return cls(program, program_figures(program))

    def write(self, path: Path) -> Exported:
        """The ONNX file."""
        if self.network is not None:
            return write_integers(self.network, path)
        return write_program(self.program, path)

    def without_file(self, why: str) -> Figures:
        """Figures where no file was written."""
        if self.network is not None:
            return self.figures
        program = self.program
        kept = program.parameters | program.buffers
        tensors: dict[Any, Tensor] = {
            identity(t): t for k, t in program.tensors.items() if k in kept
        }
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        how = f"bytes of all parameters and buffers, tied ones once; {why}"
        figures = self.figures
        return replace(figures, size_bytes=size, how={**figures.how, "size_bytes": how})


def _timed(
    network: _Measured, other: _Measured | None, timing: Timing
) -> tuple[int, LatencyFigures]:
    """Bytes of the exported file and its latency."""
    with tempfile.TemporaryDirectory() as folder:
        mine = network.write(Path(folder) / "network.onnx")
        feeds = onnx_feeds(network.program, timing.batch)
        if other is None:
            return mine.size_bytes, time_onnx(mine.path, timing, feeds)
        theirs = other.write(Path(folder) / "original.onnx")
        against = onnx_feeds(other.program, timing.batch)
        pair = time_pair(mine.path, theirs.path, timing, feeds, against)
        return mine.size_bytes, pair[0]


def _sentence(timed: LatencyFigures, warmup: int) -> str:
    threads = "1 thread" if timed.threads == 1 else f"{timed.threads} threads"
    turns = "" if timed.ratio is None else ", in turn with the original"
    return (
        f"median of {timed.n} calls after {warmup} to warm up, {timed.runtime} on this machine, "
        f"{threads}, batch {timed.batch}{turns}"
    )


def _compiled(model: nn.Module, example_inputs: Example, timing: Timing, latency: bool) -> Figures:
    """Figures of the C program."""
    program: Program | IntegerProgram
    if isinstance(model, QuantizedModule):
        program = compile_quantized(model.network, Settings(threads=timing.threads))
        memory = "arena of the C program, inputs and outputs in it, one sample after the other"
    else:
        check_finite(model)
        settings = Settings(threads=timing.threads)
        program = compile_checked(model, example_inputs, settings, timing.batch)
        memory = f"arena, inputs and outputs of the C program, batch {timing.batch}"
    figures = _Measured.of(model, example_inputs).figures
    how = {
        **figures.how,
        "size_bytes": "flash of the C program: instructions and constants",
        "ram_bytes": memory,
    }
    figures = replace(figures, size_bytes=program.flash_bytes, ram_bytes=program.ram_bytes, how=how)
    if not latency:
        return figures
    timed = time_program(program, timing)
    how = {**how, "latency_ms": _sentence(timed, timing.warmup)}
    return replace(figures, latency_ms=timed.median_ms, latency=timed, how=how)

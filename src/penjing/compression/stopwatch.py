"""Bytes and latency of candidates: exported, then timed in turns with the original."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from penjing.errors import ExportError
from penjing.exporters import onnx_feeds, write_program
from penjing.figures import Figures
from penjing.graph.capture import Example, Program, capture
from penjing.latency.onnxruntime import Timing, time_pair

CALLS = 2000
SECONDS = 3.0  # of timing one candidate: what ends it, but for the fastest networks


@dataclass(eq=False, slots=True)
class Stopwatch:
    """Times networks against one original.

    Args:
        original: The original's program.
        example: Example inputs on the CPU.
        threads: Of the runtime.
        needed: Whether a bound needs bytes or latency, so that a network without them is an error.
        path: Where the original's file is, or will be written.
        missing: Why there is no such file; empty otherwise.
    """

    original: Program
    example: Example
    threads: int
    needed: bool
    path: Path
    missing: str = ""

    def add(self, model: nn.Module, figures: Figures, path: Path) -> Figures:
        """The figures with bytes of the exported file and latency.

        Args:
            model: The network, on the CPU.
            figures: What was counted on its graph.
            path: ONNX file to write.

        Returns:
            Figures with bytes and latency; without them, and the reason, where ONNX cannot express
            the network and no bound needs them.

        Raises:
            ExportError: A bound needs the file, and it cannot be made.
            VerificationError: The file computes something else.
        """
        if self.missing:
            return _unmeasured(figures, self.missing)
        timing = Timing(threads=self.threads, n=CALLS, seconds=SECONDS)
        try:
            theirs = self._original()
            program = capture(model, self.example)
            mine = theirs if path == theirs else write_program(program, path).path
            timed, _ = time_pair(mine, theirs, timing, onnx_feeds(program, timing.batch))
        except ExportError as error:
            if self.needed:
                raise
            self.missing = str(error)
            return _unmeasured(figures, self.missing)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        how = {
            "size_bytes": "bytes of the ONNX file with all weights inside",
            "latency_ms": f"median of {timed.n} calls after {timing.warmup} to warm up, "
            f"{timed.runtime} on this machine, {threads}, batch 1, in turn with the original",
        }
        return replace(
            figures,
            size_bytes=mine.stat().st_size,
            latency_ms=timed.median_ms,
            latency=timed,
            how={**figures.how, **how},
        )

    def _original(self) -> Path:
        if not self.path.is_file():
            write_program(self.original, self.path)
        return self.path


def _unmeasured(figures: Figures, why: str) -> Figures:
    return replace(figures, how={**figures.how, "latency_ms": f"not measured: {why}"})

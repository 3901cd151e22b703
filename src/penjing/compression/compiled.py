"""Bytes and latency of candidates as programs of penjing's C, timed in turns with the original."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from penjing.codegen.pipeline import Settings
from penjing.codegen.program import Program
from penjing.compression.stopwatch import CALLS, SECONDS
from penjing.exporters import compile_checked
from penjing.figures import Figures
from penjing.graph.capture import Example
from penjing.latency.compiled import time_programs
from penjing.latency.onnxruntime import Timing


@dataclass(eq=False, slots=True)
class CompiledStopwatch:
    """Times compiled networks against one original, on this machine.

    Args:
        original: The original, on the CPU; only read.
        example: Example inputs on the CPU.
        threads: Of the programs.
        program: The original's, once it was needed.
    """

    original: nn.Module
    example: Example
    threads: int
    program: Program | None = None

    def add(self, model: nn.Module, figures: Figures, path: Path) -> Figures:  # noqa: ARG002 - as its sibling
        """The figures with flash and latency of the compiled program.

        Args:
            model: The network, on the CPU.
            figures: What was counted on its graph.
            path: Not used: a program is built again from the network wherever it is wanted.

        Returns:
            Figures with bytes and latency.

        Raises:
            ExportError: The network cannot be compiled.
            VerificationError: The program computes something else.
            MissingDependencyError: There is no C compiler.
        """
        timing = Timing(threads=self.threads, n=CALLS, seconds=SECONDS)
        if self.program is None:
            self.program = self._compiled(self.original)
        program = self._compiled(model)
        timed, _ = time_programs(program, self.program, timing)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        how = {
            "size_bytes": "flash of the C program: instructions and constants",
            "latency_ms": f"median of {timed.n} calls after {timing.warmup} to warm up, "
            f"{timed.runtime} on this machine, {threads}, batch 1, in turn with the original",
        }
        return replace(
            figures,
            size_bytes=program.flash_bytes,
            latency_ms=timed.median_ms,
            latency=timed,
            how={**figures.how, **how},
        )

    def _compiled(self, model: nn.Module) -> Program:
        return compile_checked(model, self.example, Settings(threads=self.threads), 1)

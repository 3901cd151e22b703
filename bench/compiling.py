"""What does compiling cost, and how large is what comes out?

    python bench/compiling.py --part growth                every missing row of the first table
    python bench/compiling.py --part growth --kind plain --layers 10 --form fp32       one row
    python bench/compiling.py --part size --network ic                 rows of the second table

`growth`: CPU-seconds of writing the C text and of the C compiler, for networks of more and more
layers of one width, 16 channels on 8 x 8 pixels; single precision for the host, int8 for a
Cortex-M4, capture and quantization apart.
`size`: instructions, weights with other constants, arena and stack of one network against the
share of zeros: single precision on the host, int8 on a Cortex-M4. The smallest magnitudes of each
layer become zero; accuracy is no question here.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import torch

from growth import make
from penjing.codegen import emulator
from penjing.codegen.build import object_sizes, run_compiler, write_folder
from penjing.codegen.emit.files import FLAGS
from penjing.codegen.int8 import compile_integers
from penjing.codegen.kernels import host_kernels
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.targets import CORTEX_M4, HOST, Target
from penjing.graph.capture import Program, capture
from penjing.quantization.lowering import integers
from penjing.quantization.ptq import quantize_program
from penjing.task import Calibration
from record import Record
from workloads import workload
from zeros import sparsify

LAYERS = (10, 30, 100)
KINDS = ("plain", "residual", "attention")
FORMS = ("fp32", "int8")
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
AIMS = ("latency", "flash")
CALIBRATION = 64


def cpu() -> float:
    """Seconds of this process and of the compilers that it ran."""
    return sum(os.times()[:4])


def seconds(act: Callable[[], Any]) -> tuple[float, Any]:
    """How long a processor worked, and what came of it."""
    start = cpu()
    found = act()
    return cpu() - start, found


def build(files: dict[str, Any], sources: Sequence[str], target: Target) -> None:
    """Compile the C files as the program's own build does."""
    with TemporaryDirectory() as folder:
        write_folder(files, folder)
        command = [emulator.compiler(target), *target.flags, *FLAGS, "-DNDEBUG", "-c", *sources]
        run_compiler(command, folder)


def growth_row(kind: str, layers: int, form: str) -> dict[str, Any]:
    """Seconds of one network; the medians of a few runs where it is small."""
    capture(*make(kind, min(LAYERS)))  # what is done once per process is no growth
    model, x = make(kind, layers)
    capturing, captured = seconds(lambda: capture(model, x))
    preparing = 0.0
    if form == "int8":
        preparing, net = seconds(lambda: integers(quantized(captured, x)))
    writing, building = [], []
    for _ in range(3 if layers < 100 else 1):
        if form == "int8":
            took, program = seconds(lambda: compile_integers(net, CORTEX_M4))
            files, sources, target = program.files, ["net.c"], CORTEX_M4
        else:
            took, program = seconds(lambda: compile_captured(captured, [x], host()))
            files, sources, target = program.content, program.sources, HOST
        writing.append(took)
        building.append(seconds(lambda f=files, s=sources, t=target: build(f, s, t))[0])
    return {
        "nodes": len(captured.nodes),
        "capture_seconds": capturing,
        "quantize_seconds": preparing,
        "write_seconds": statistics.median(writing),
        "build_seconds": statistics.median(building),
        "n": len(writing),
        "source_bytes": len(files["net.c"]),
    }


def quantized(captured: Program, x: torch.Tensor) -> Any:
    """Post-training int8 on a few samples."""
    torch.manual_seed(0)
    samples = torch.randn(CALIBRATION, *x.shape[1:])
    return quantize_program(captured, Calibration.of(samples))


def host() -> Settings:
    """How programs for this machine are made here."""
    return Settings(kernels=host_kernels())


def size_rows(network: str, sparsity: float, record: Record) -> None:
    """Sizes of one network with one share of zeros, on both targets and for both aims."""
    job = workload(network)
    sparsify(job.model, sparsity)
    x = job.calibration(0, CALIBRATION)
    for aim in AIMS:
        key = {"part": "size", "network": network, "sparsity": sparsity, "aim": aim}
        if not record.has(**key, target="host"):
            files = compile_captured(capture(job.model, x[:1]), [x[:1]],
                                     Settings(kernels=host_kernels(), optimize=aim))  # fmt: skip
            sizes = object_sizes(files.content, f"{files.name}.c", HOST)
            record.add({**key, "target": "host", "form": "fp32", "code_bytes": sizes.code_bytes,
                        "constant_bytes": sum(b.values.nbytes for b in files.text.blobs),
                        "arena_bytes": files.arena.size_bytes, "stack_bytes": None})  # fmt: skip
        if not record.has(**key, target="cortex-m4"):
            net = integers(quantize_program(capture(job.model, x[:2]), Calibration.of(x)))
            program = compile_integers(net, CORTEX_M4, aim)
            record.add({**key, "target": "cortex-m4", "form": "int8",
                        "code_bytes": program.code_bytes,
                        "constant_bytes": program.constant_bytes,
                        "arena_bytes": program.arena_bytes,
                        "stack_bytes": program.stack_bytes()})  # fmt: skip


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["growth", "size"], required=True)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--layers", type=int, choices=LAYERS)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--network", choices=["ic", "kws"], default="ic")
    parser.add_argument("--sparsity", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("compiling", "What does compiling cost, and how large is what comes out?",
                    "python bench/compiling.py --part growth|size --network ic|kws")  # fmt: skip
    if options.part == "size":
        shares = SPARSITIES if options.sparsity is None else (options.sparsity,)
        for sparsity in shares:
            size_rows(options.network, sparsity, record)
        return
    for kind, layers, form in product(KINDS, LAYERS, FORMS):
        wanted = {"kind": options.kind, "layers": options.layers, "form": options.form}
        key = {"part": "growth", "kind": kind, "layers": layers, "form": form}
        asked = all(value in (None, key[name]) for name, value in wanted.items())
        if asked and not record.has(**key):
            record.add({**key, **growth_row(kind, layers, form)})


if __name__ == "__main__":
    main()

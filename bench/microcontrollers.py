"""What do networks cost on microcontrollers: flash, RAM, executed instructions?

    python bench/microcontrollers.py --network ic --form tflite

One invocation adds one row per core. `tflite` compiles MLPerf Tiny's own int8 network, the very
integers of the .tflite file; `dense` and `sparse` are penjing's from the float network, `dense16`
with 16-bit activations on the same weights; `pruned` is
the network `ic` cut under bounds on MACs and RAM and distilled (see small_resnet8.py; about 15
CPU-minutes, goes on where it was stopped).
Instructions are counted in an emulator and are no cycles. Every program is first checked bit for
bit against the Python reference; accuracy is that of the same program on this machine.

TFLite Micro's arena comes from its own interpreter: set PENJING_TFLM to a Python that has the
package `tflite-micro` (an environment of its own; nothing else here needs it).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penjing.codegen.int8 import IntegerProgram, compile_integers
from penjing.codegen.int8.steps import SPARSE
from penjing.graph.capture import capture
from penjing.quantization.integers import IntegerNet
from penjing.quantization.lowering import integers
from penjing.quantization.ptq import Settings, quantize_program
from penjing.quantization.scheme import resolve
from penjing.quantization.tflite import read_tflite
from penjing.task import Calibration
from penjing.verbs.sparsify import sparsify
from record import Record, data_folder
from small_resnet8 import Choices, small
from workloads import BATCH, Workload, auc, raw_training_images, workload

CORES = ("cortex-m4", "cortex-m7", "cortex-m55")
FILES = {
    "ic": "pretrainedResnet_quant.tflite",
    "vww": "vww_96_int8.tflite",
    "kws": "kws_ref_model.tflite",
    "ad": "ad01_int8.tflite",
}
SAMPLES = 500
WORKDIR = Path.home() / ".cache" / "penjing" / "small_resnet8"
TIMEOUT_S = 60
ASK_TFLM = """
import sys
from tflite_micro import runtime
net = runtime.Interpreter.from_file(sys.argv[1], arena_size=4_000_000)
net.print_allocations()
"""


def tflm_arena(path: Path) -> int | None:
    """Bytes of TFLite Micro's arena that do not persist; None when it is not there to be asked."""
    python = os.environ.get("PENJING_TFLM")
    if not python:
        return None
    command = [python, "-c", ASK_TFLM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    found = re.search(r"Arena allocation head (\d+) bytes", done.stdout + done.stderr)
    return int(found[1]) if found else None


def network(form: str, job: Workload, sparsity: float) -> tuple[IntegerNet, dict[str, Any]]:
    """The integers to be compiled, and what is to be said about how they were made."""
    if form == "tflite":
        return read_tflite(data_folder() / "mlperf_tiny" / FILES[job.name]), {}
    samples = job.calibration(0, SAMPLES)
    model, told = job.model, {}
    if form == "sparse":
        model = sparsify(model, samples[:2], sparsity=sparsity, calibration=samples, seed=0).model
    if form == "pruned":
        model, told = small(job, *raw_training_images(), Choices(), WORKDIR)
        told["float_quality"] = job.quality(job.correct(model))
    how = Settings(scheme=resolve("int8x16" if form == "dense16" else "int8"))
    net = integers(quantize_program(capture(model, samples[:2]), Calibration.of(samples), how))
    return net, told


def quality(program: IntegerProgram, job: Workload) -> float:
    """Top-1 share or AUC of the integer program on the test samples."""
    net = program.net
    source = net.tensors[net.inputs[0]]

    def answers(x: np.ndarray) -> np.ndarray:
        if not source.channels_first and x.ndim == 4:  # a file's network takes channels last
            x = np.moveaxis(x, 1, -1)
        return np.asarray(program(x)).reshape(len(x), -1)

    if job.metric == "AUC":
        scores = [((answers(w.numpy()) - w.numpy()) ** 2).mean() for w in job.test]
        return auc(np.array(scores), job.labels)
    hits = [answers(b.numpy()).argmax(1) for b in job.test.split(BATCH)]
    return float((np.concatenate(hits) == job.labels).mean())


def nonzero(net: IntegerNet) -> float:
    """Share of weights that are not zero."""
    weights = [la.weights["weight"] for la in net.layers if "weight" in la.weights]
    return float(sum((w != 0).sum() for w in weights) / sum(w.size for w in weights))


def row(net: IntegerNet, core: str, optimize: str) -> dict[str, Any]:
    """Figures of one program on one core."""
    program = compile_integers(net, core, optimize)
    log, size = program.check(), program.flash()
    if not log.equal:
        raise SystemExit(f"the program for {core} differs from the reference: no figures")
    return {
        "core": core,
        "optimize": optimize,
        "code_bytes": size.code_bytes,
        "constant_bytes": size.constant_bytes,
        "flash_bytes": size.flash_bytes,
        "arena_bytes": program.arena_bytes,
        "instructions": log.count,
        "macs": net.macs(),
        "instructions_per_mac": log.count / net.macs(),
        "sparse_layers": sum(s.kernel in SPARSE for s in program.steps),
        "layers": dict(log.layers),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=sorted(FILES), required=True)
    forms = ["tflite", "dense", "dense16", "sparse", "pruned"]
    parser.add_argument("--form", choices=forms, default="tflite")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--optimize", choices=["latency", "flash"], default="latency")
    parser.add_argument("--again", action="store_true", help="replace the rows that are there")
    options = parser.parse_args()
    record = Record(
        "microcontrollers",
        "What do int8 networks cost on microcontrollers: flash, RAM, executed instructions?",
        "python bench/microcontrollers.py --network ic|vww|kws|ad "
        "--form tflite|dense|dense16|sparse|pruned",
    )
    if options.form == "pruned" and options.network != "ic":
        raise SystemExit("only ic has training images: --network ic --form pruned")
    torch.set_num_threads(1)
    key = {"network": options.network, "form": options.form, "optimize": options.optimize}
    key["sparsity"] = options.sparsity if options.form == "sparse" else 0.0
    if options.again:
        record.drop(**key)
    if all(record.has(**key, core=core) for core in CORES):
        return
    job = workload(options.network)
    net, told = network(options.form, job, options.sparsity)
    path = data_folder() / "mlperf_tiny" / FILES[options.network]
    shared = {
        **key,
        **told,
        "metric": job.metric,
        "quality": quality(compile_integers(net, "host", options.optimize), job),
        "samples": len(job.test),
        "split": job.split,
        "nonzero": nonzero(net),
        "tflite_bytes": path.stat().st_size,
        "tflm_arena_bytes": None if options.form == "dense16" else tflm_arena(path),
    }
    for core in CORES:
        if not record.has(**key, core=core):
            record.add({**shared, **row(net, core, options.optimize)})


if __name__ == "__main__":
    main()

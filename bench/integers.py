"""How fast are int8 programs on this machine, beside ONNX Runtime's int8 and single precision?

    python bench/integers.py --network resnet20 --sparsity 0.9    one row
    python bench/integers.py --all                                every row

Latency end to end at batch 1 on one thread, call by call in turn in one process: the compiled
integer program (its input quantized before), ONNX Runtime with 8-bit integers and in single
precision. Zeros are the smallest magnitudes, layer by layer, as in zeros.py. The program is first
compared bit for bit with the Python reference.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge import make
from penjing.codegen.int8 import IntegerProgram, compile_integers
from penjing.graph.capture import capture
from penjing.quantization.lowering import integers
from penjing.quantization.ptq import quantize_program
from penjing.quantization.reference import execute
from penjing.task import Calibration
from record import Record, pin
from zeros import quantized, session, sparsify, timed, write_onnx

NETWORKS = ("resnet20", "resnet56", "ds_cnn", "mobilenet_v1-0.25")
SPARSITIES = (0.0, 0.8, 0.9)
SAMPLES = 16


def caller(program: IntegerProgram) -> Callable[[], Any]:
    """A call without copies; the arena stays as long as the call can be made."""
    arena = np.zeros(program.arena_bytes + 64, np.int8)
    arena = arena[-arena.ctypes.data % 64 :]
    run, pointer = program._entry, ctypes.c_void_p(arena.ctypes.data)

    def call() -> object:
        run(pointer)
        return arena

    return call


def row(network: str, sparsity: float) -> dict[str, Any]:
    """Quantize, compile, compare, time."""
    model, x = make(network, 1)
    sparsify(model, sparsity)
    samples = torch.randn(SAMPLES, *x.shape[1:])
    net = integers(quantize_program(capture(model, samples[:2]), Calibration.of(samples)))
    program = compile_integers(net)
    source = net.tensors[net.inputs[0]]
    given = source.arrange(source.quantize(samples.numpy()))
    want = execute(net, given)[net.outputs[0]]
    assert np.array_equal(program.run(given)[0], want), f"{network} differs from the reference"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(model, x, path)
        calls = [caller(program)]
        calls += [session(p, 1, x.numpy())[0] for p in (quantized(path, x.numpy()), path)]
    rounds = 1e3 * timed(calls)
    found = {
        "network": network,
        "sparsity": sparsity,
        "kernels": sorted({s.kernel for s in program.steps}),
        "arena_bytes": program.arena_bytes,
        "n": len(rounds),
        "times_faster_than_int8": statistics.median(rounds[:, 1] / rounds[:, 0]),
        "times_faster_than_fp32": statistics.median(rounds[:, 2] / rounds[:, 0]),
    }
    for i, name in enumerate(("penjing_int8", "onnxruntime_int8", "onnxruntime")):
        found[f"{name}_median_ms"] = float(np.median(rounds[:, i]))
        found[f"{name}_min_ms"] = float(rounds[:, i].min())
    return found


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print the row, do not keep it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pin()
    rows = Record("integers", __doc__.splitlines()[0], "python bench/integers.py --all")
    networks = [given.network] if given.network else NETWORKS
    sparsities = SPARSITIES if given.sparsity is None else [given.sparsity]
    for network, sparsity in product(networks, sparsities):
        if given.dry:
            print(row(network, sparsity))
        elif not rows.has(network=network, sparsity=sparsity):
            rows.add(row(network, sparsity))


if __name__ == "__main__":
    main()

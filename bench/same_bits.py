"""Do the Python reference, compiled C and TensorFlow Lite Micro give the same bits?

    PENJING_DATA=... PENJING_TFLM=... python bench/same_bits.py --all [--bits 16]

Each reads the .tflite network of MLPerf Tiny itself and runs it on the same random inputs; with 16
bits it is first rewritten for 16-bit activations (`networks/widen_tflite.py`).
`PENJING_TFLM` is a Python that has the package `tflite-micro`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microcontrollers import FILES
from penjing.codegen.int8 import compile_integers
from penjing.codegen.targets import HOST
from penjing.quantization.integers import BYTE
from penjing.quantization.reference import execute
from penjing.quantization.tflite import read_tflite
from record import Record, data_folder

SAMPLES = 20
TIMEOUT_S = 300
WIDEN = Path(__file__).parent / "networks" / "widen_tflite.py"

RUN = """
import sys
import numpy as np
from tflite_micro import runtime
net = runtime.Interpreter.from_file(sys.argv[1])
shape = net.get_input_details(0)["shape"]
found = []
for sample in np.load(sys.argv[2]):
    net.set_input(sample.reshape(shape), 0)
    net.invoke()
    found.append(np.array(net.get_output(0)))
np.save(sys.argv[3], np.array(found))
"""


def tflm() -> str:
    """The Python that has TensorFlow Lite Micro."""
    python = os.environ.get("PENJING_TFLM")
    if not python:
        raise SystemExit("set PENJING_TFLM to a Python that has the package tflite-micro")
    return python


def by_tflm(path: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """What TensorFlow Lite Micro gives; in a process of its own, which it may take down."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npy", Path(folder) / "found.npy"
        np.save(given, inputs)
        command = [tflm(), "-c", RUN, str(path), str(given), str(found)]
        subprocess.run(command, timeout=TIMEOUT_S, check=True, capture_output=True)
        outputs: NDArray[Any] = np.load(found)
        return outputs


def row(name: str, seed: int, bits: int) -> dict:
    """Run one network three times and count the integers that differ."""
    path = data_folder() / "mlperf_tiny" / FILES[name]
    with tempfile.TemporaryDirectory() as folder:
        if bits > BYTE:
            given, path = path, Path(folder) / path.name
            subprocess.run([tflm(), str(WIDEN), str(given), str(path)], check=True)
        return compared(path, {"network": name, "seed": seed, "bits": bits})


def compared(path: Path, key: dict[str, Any]) -> dict:
    """The figures of one file."""
    net = read_tflite(path)
    inputs = net.tensors[net.inputs[0]].random(np.random.default_rng(key["seed"]), SAMPLES)
    wanted = by_tflm(path, inputs).reshape(SAMPLES, -1)
    reference = execute(net, inputs)[net.outputs[0]].reshape(SAMPLES, -1)
    (compiled,) = compile_integers(net, HOST, "latency").run(inputs)
    return {
        **key,
        "samples": SAMPLES,
        "outputs": int(wanted.size),
        "distinct_outputs": int(np.unique(wanted).size),
        "reference_differs": int((reference != wanted).sum()),
        "compiled_differs": int((compiled.reshape(SAMPLES, -1) != wanted).sum()),
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(FILES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    command = "python bench/same_bits.py --all"
    record = Record("same_bits", __doc__.splitlines()[0], command)
    for name in [given.network] if given.network else sorted(FILES):
        if not record.has(network=name, seed=given.seed, bits=given.bits):
            record.add(row(name, given.seed, given.bits))


if __name__ == "__main__":
    main()

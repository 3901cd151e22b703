"""How far is every layer of a compiled network from what the machine can do, and why?

    python bench/peak.py --network resnet20 --sparsity 0.9    one network
    python bench/peak.py --all                                every row (minutes)

The program is built with a time stamp between its layers and called many times on one thread; a
layer's time is the median of its own. `gflops` counts two operations per nonzero weight and
output pixel; `share` is of the peak of one core, which is measured in the same run: multiply-adds
in registers, and with every operand loaded, aligned and across two cache lines. The bound is what
the layer's own multiply-adds and loads need at least at those rates; what is above it is lists,
staging, finishing and short loops.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge import NETWORKS, make
from penjing.codegen.emit import Files
from penjing.codegen.emit.source import Step
from penjing.codegen.kernels import host_kernels
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded, aligned
from penjing.graph.capture import capture
from record import Record, pin
from zeros import sparsify

ROWS = [(n, s) for n in NETWORKS for s in (0.0, 0.9)]
CALLS = 400
NEAR = 0.7  # share of the peak above which nothing holds a layer back that is worth a word
SUMS = 12  # independent multiply-adds, beyond latency times width

STAMP = """
#include <x86intrin.h>
static unsigned long long pj_stamps[{count}];
void pj_read(unsigned long long *to) {{
    for (int i = 0; i < {count}; i++) to[i] = pj_stamps[i];
}}
unsigned long long pj_now(void);
unsigned long long pj_now(void) {{ return __rdtsc(); }}
"""


def machine_rates() -> dict[str, float]:
    """Billions of 32-bit operations per second of one core, at the widest vectors it has."""
    wide = "avx512f" in Path("/proc/cpuinfo").read_text()
    register, lanes = ("zmm", 16) if wide else ("ymm", 8)

    def body(loaded: bool, offset: int) -> str:
        rows = []
        for i in range(SUMS):
            a = f"{offset + 4 * lanes * i}(%0)" if loaded else f"%%{register}13"
            rows.append(f'"vfmadd231ps {a}, %%{register}14, %%{register}{i}\\n"')
        used = ", ".join(f'"xmm{i}"' for i in range(16))
        return f'__asm__ volatile({" ".join(rows)} : : "r"(m) : {used});'

    cases = {"registers": body(False, 0), "loads": body(True, 0), "straddling": body(True, 4)}
    functions = "".join(
        f"double {name}(const float *m, long n) {{ double t = now(); while (n--) {text} "
        "return now() - t; }\n"
        for name, text in cases.items()
    )
    source = (
        "#include <time.h>\nstatic double now(void) { struct timespec t; "
        "clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }"
        f"\n{functions}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rates.c"
        path.write_text(source)
        built = path.with_suffix(".so")
        command = ["gcc", "-O2", "-march=native", "-shared", "-fPIC", str(path), "-o", str(built)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(built))
    memory = aligned(1 << 14)
    memory[:] = 0
    found = {}
    for name in cases:
        entry = getattr(library, name)
        entry.restype = ctypes.c_double
        entry.argtypes = [ctypes.c_void_p, ctypes.c_long]
        best = min(entry(memory.ctypes.data, 20000) for _ in range(50))
        found[name] = 2 * lanes * SUMS * 20000 / best / 1e9
    return found


def stamped(files: Files) -> Files:
    """The same program with a time stamp before every layer and after the last."""
    count = len(files.text.steps)
    source = files.text.source
    number = iter(range(count))
    head, entry = source.split(f"void {files.name}_run(", 1)
    entry = re.sub(
        r"^  /\* .* \*/\n  \{$", lambda _: f"  pj_stamps[{next(number)}] = __rdtsc();\n  {{", entry,
        flags=re.MULTILINE,
    )  # fmt: skip
    assert next(number, None) is None, "a layer has no mark"
    last = entry.rindex("}")
    entry = f"{entry[:last]}  pj_stamps[{count}] = __rdtsc();\n}}\n"
    text = f"{head}{STAMP.format(count=count + 1)}\nvoid {files.name}_run({entry}"
    return replace(files, content={**files.content, f"{files.name}.c": text})


def layer_times(files: Files, x: np.ndarray) -> np.ndarray:
    """Microseconds of every layer, the median of many calls."""
    program = Loaded(stamped(files))
    count = len(files.text.steps) + 1
    library = program._library
    library.pj_now.restype = ctypes.c_ulonglong
    stamps = (ctypes.c_ulonglong * count)()
    found = []
    for _ in range(CALLS):
        program.run([x])
        library.pj_read(stamps)
        found.append(list(stamps))
    ticks = np.median(np.diff(np.array(found, np.int64), axis=1), axis=0)
    return np.asarray(ticks / ticks_per_microsecond(library))


def ticks_per_microsecond(library: ctypes.CDLL) -> float:
    """Of the time stamp counter."""
    import time

    ticks, start = library.pj_now(), time.perf_counter()
    time.sleep(0.05)
    return float(library.pj_now() - ticks) / (1e6 * (time.perf_counter() - start))


def operations(files: Files, step: Step) -> int:
    """Two per nonzero weight and output it is used for; 0 for layers without weights."""
    weight = step.layer.weights.get("weight")
    if weight is None or step.layer.kind not in {"conv", "linear", "gru", "lstm"}:
        return 0
    shape = files.arena.laid.net.tensors[step.layer.outputs[0]].shape
    uses = np.prod(shape) // shape[1 if step.layer.kind == "conv" else -1]
    return int(2 * np.count_nonzero(weight) * uses)


def reason(step: Step, share: float) -> str:
    """What keeps a layer below the peak, from what its kernel does."""
    note, kernel = step.code.note, step.kernel
    if share > NEAR:
        return "near the peak"
    if "window" in kernel or "run" in kernel:
        return "one use per weight: bound by reading weights, lookups and idle lanes"
    if kernel in {"dense_linear", "block_linear", "recurrent_dense_linear"}:
        return "one use per weight: bound by reading weights"
    if kernel.startswith("depthwise"):
        return "few multiply-adds per loaded and stored vector"
    if kernel in {"sparse_conv", "column_linear"}:
        where = "staging and " if "staged" in note else "loads across cache lines and "
        return f"a load per multiply-add, {where}short lists"
    return "partial vectors, few channels"


def rows_of(network: str, sparsity: float, rates: dict[str, float]) -> dict[str, Any]:
    """Every layer of a network."""
    model, x = make(network, 1)
    sparsify(model, sparsity)
    settings = Settings(kernels=host_kernels(), tune=True)
    files = compile_captured(capture(model, x), [x], settings)
    layers = []
    for step, us in zip(files.text.steps, layer_times(files, x.numpy()), strict=True):
        count = operations(files, step)
        gflops = float(count / us / 1e3)
        row = {"layer": step.layer.source, "kernel": step.kernel, "microseconds": float(us)}
        if count:
            share = gflops / rates["registers"]
            row |= {"operations": count, "gflops": gflops, "share": share}
            row["reason"] = reason(step, share)
        layers.append(row)
    total = sum(row["microseconds"] for row in layers)
    counted = sum(row.get("operations", 0) for row in layers)
    return {
        "network": network,
        "sparsity": sparsity,
        "microseconds": total,
        "gflops": counted / total / 1e3,
        "share": counted / total / 1e3 / rates["registers"],
        "gflops_of_machine": rates,
        "layers": layers,
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS))
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print the row, do not keep it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pin()
    record = Record("peak", __doc__.splitlines()[0], "python bench/peak.py --all")
    rates = machine_rates()
    for network, sparsity in ROWS:
        if given.network not in (None, network) or given.sparsity not in (None, sparsity):
            continue
        if given.dry:
            found = rows_of(network, sparsity, rates)
            for row in found.pop("layers"):
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
            print(found)
        elif not record.has(network=network, sparsity=sparsity):
            record.add(rows_of(network, sparsity, rates))


if __name__ == "__main__":
    main()

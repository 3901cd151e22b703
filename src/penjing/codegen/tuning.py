"""Measuring kernels on this machine: every candidate of a layer alone, kept on disk.

Layers that differ in their weights' values only share a measurement, and so do those whose lists
of nonzeros are equally long within a few percent. The key of a stored time holds the layer's sizes,
the kernel's text, compiler, flags, processor and clock, so that a stale one is never found.

One thread is timed by what it computes, so that waiting for a busy processor counts for nobody.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penjing import files
from penjing.codegen.build import (
    cache_folder,
    compiler_version,
    cpu_name,
    find_compiler,
    shared_library,
)
from penjing.codegen.ir import Layer, Net, Tensor
from penjing.codegen.kernel import Blob, Kernel
from penjing.codegen.kernels.standalone import Alone, alone
from penjing.codegen.runtime import aligned
from penjing.codegen.targets import Target

CANDIDATES, FARTHEST = 8, 4.0
"""Measured per layer: the most promising, as far as their estimates are within this factor."""
STEP = 1.06
"""Lists whose lengths differ by less are taken as equal."""
BURST_SECONDS, BURSTS = 3e-4, 9
"""One timed burst of calls, and how many; the fastest counts."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel for a layer, as a program."""

    kernel: Kernel
    program: Alone
    key: str


def measured(
    net: Net, layer: Layer, kernels: Sequence[Kernel], target: Target
) -> Mapping[str, tuple[Kernel, float]]:
    """Nanoseconds of the promising kernels of a layer.

    Args:
        net: That the layer is part of.
        layer: In single precision, not recurrent.
        kernels: That take it.
        target: This machine.

    Returns:
        By key of the measurement, the kernel and its time; what is on disk is not measured again.

    Raises:
        MissingDependencyError: No compiler.
        ExportError: The compiler refused a kernel.
    """
    costs = {id(k): k.cost(net, layer, target) for k in kernels}
    least = min(costs.values())
    able = sorted(
        (k for k in kernels if costs[id(k)] <= FARTHEST * least), key=lambda k: costs[id(k)]
    )
    found: dict[str, tuple[Kernel, float]] = {}
    missing: list[Candidate] = []
    for i, kernel in enumerate(able[:CANDIDATES]):
        name = f"candidate_{i}"
        program = alone(kernel, net, replace(layer, name=name), target, f"run_{name}", apart=True)
        key = _key(net, layer, program, target)
        if key in found or any(key == m.key for m in missing):
            continue
        path = cache_folder() / "timings" / f"{key}.json"
        if path.is_file():
            found[key] = (kernel, float(json.loads(path.read_text())["nanoseconds"]))
        else:
            missing.append(Candidate(kernel, program, key))
    for candidate, nanoseconds in zip(missing, _times(net, layer, missing, target), strict=True):
        found[candidate.key] = (candidate.kernel, nanoseconds)
        stored = {"nanoseconds": nanoseconds, "kernel": repr(candidate.kernel)}
        files.write_json(cache_folder() / "timings" / f"{candidate.key}.json", stored)
    return found


def _key(net: Net, layer: Layer, program: Alone, target: Target) -> str:
    compiler = find_compiler(target)
    own = program.name.removeprefix("run_")
    call = program.code.call.replace(own, "")
    constants = [(b.name.replace(own, ""), b.values.dtype, _step(b)) for b in program.code.blobs]
    parts = [
        layer.kind, str([net.tensors[n].shape for n in (*layer.inputs, *layer.outputs)]),
        str(sorted(layer.attributes.items(), key=lambda item: item[0])),
        str(constants), str(sorted(program.code.functions)),
        "".join(program.code.functions.values()), call,
        compiler_version(compiler), " ".join(target.flags), cpu_name(), str(target.threads),
        _clock(target).__name__,
        f"{net.tensors[layer.inputs[0]].zeros:.1f}" if "x[k] != 0.0f" in call else "",
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _step(blob: Blob) -> int:
    """Its length, to a few percent."""
    return round(math.log(blob.values.size) / math.log(STEP))


def _times(net: Net, layer: Layer, candidates: Sequence[Candidate], target: Target) -> list[float]:
    """Nanoseconds of each, in turn so that what else the machine does meets all."""
    if not candidates:
        return []
    flags = ("-fopenmp",) if target.threads > 1 else ()
    texts = {f"{c.program.name}.c": _repeated(c.program) for c in candidates}
    library = ctypes.CDLL(str(shared_library(texts, list(texts), target, flags)))
    random = np.random.RandomState(0)
    values = tuple(_example(net.tensors[n], random) for n in layer.inputs)
    calls = []
    for c in candidates:
        held = [_hold(library, blob) for blob in c.program.code.blobs]
        buffers = [*c.program.buffers(values), *held]
        pointers = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
        calls.append((getattr(library, f"{c.program.name}_times"), pointers, buffers))
    clock = _clock(target)
    counts = [_count(entry, pointers, clock) for entry, pointers, _ in calls]
    best = [math.inf] * len(calls)
    for _ in range(BURSTS):
        for i, (entry, pointers, _) in enumerate(calls):
            best[i] = min(best[i], _seconds(entry, pointers, counts[i], clock) / counts[i])
    return [1e9 * b for b in best]


def _example(tensor: Tensor, random: np.random.RandomState) -> np.ndarray:
    """Random values, as many of them zero as in the example."""
    values = random.randn(*tensor.shape).astype(np.float32)
    values[random.rand(*tensor.shape) < tensor.zeros] = 0.0
    return values


def _repeated(program: Alone) -> str:
    name = program.name
    return (
        f"{program.source}\nvoid {name}_times(void *const *memory, int count);\n"
        f"void {name}_times(void *const *memory, int count) {{\n"
        f"    for (int i = 0; i < count; i++) {name}(memory);\n}}\n"
    )


def _hold(library: ctypes.CDLL, blob: Blob) -> np.ndarray:
    """Set the pointer of a constant; the memory lives as long as what is returned."""
    raw = aligned(blob.values.nbytes)
    raw[:] = np.frombuffer(np.ascontiguousarray(blob.values).tobytes(), np.uint8)
    ctypes.c_void_p.in_dll(library, blob.name).value = raw.ctypes.data
    return raw


def _clock(target: Target) -> Callable[[], float]:
    """Seconds of this thread's own work, where it does all of it."""
    return time.thread_time if target.threads == 1 else time.perf_counter


def _seconds(
    entry: ctypes._NamedFuncPointer, pointers: object, count: int, clock: Callable[[], float]
) -> float:
    start = clock()
    entry(pointers, count)
    return clock() - start


def _count(entry: ctypes._NamedFuncPointer, pointers: object, clock: Callable[[], float]) -> int:
    """Calls that fill a burst."""
    _seconds(entry, pointers, 1, clock)
    return max(1, round(BURST_SECONDS / max(1e-7, _seconds(entry, pointers, 3, clock) / 3)))

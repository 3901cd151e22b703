"""Do zeros pay? A compiled sparse network against ONNX Runtime's dense code.

    python bench/zeros.py --network resnet20 --sparsity 0.9 --batch 1 --threads 1    one row
    python bench/zeros.py --network resnet20                                         its rows
    python bench/zeros.py --short                                                    the main rows
    python bench/zeros.py --all                                                      every row

A row is one network with that share of zeros in every weight but the first, the last and the
depthwise ones (smallest magnitudes, layer by layer); latency end to end, from a plain array to a
plain array, call by call in turn in one process: compiled with its zeros, ONNX Runtime in single
precision, ONNX Runtime with 8-bit integers (weights per channel, activations per tensor). ONNX
Runtime gets the same zeros, which it multiplies. The results are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge import NETWORKS, make
from penjing.codegen.kernel import Kernel
from penjing.codegen.kernels import host_kernels
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded, aligned
from penjing.graph.capture import capture
from record import Record, pin

SPARSITIES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BATCHES = (1, 16)
THREADS = (1, 2)
SECONDS, FEWEST, MOST = 2.0, 15, 600
"""Timed calls of each: as many rounds as fit."""
TOLERANCE = 1e-4  # of the largest output
SETTLE_SECONDS = 0.05  # until the threads of whoever ran before have stopped to spin
INT8_AT = 0.9  # the row in which ONNX Runtime's integers are timed too
SHORT = (0.0, 0.5, 0.8, 0.9, 0.95)
LARGE = "mobilenet_v2-224"  # two of its rows are enough for --short


def sparsify(model: nn.Module, sparsity: float) -> None:
    """Zero the smallest weights of every layer but the first, the last and the depthwise ones."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.GRU))]
    first_kept = isinstance(layers[0], nn.Conv2d)
    with torch.no_grad():
        for layer in layers[int(first_kept) : -1]:
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                continue
            for name, weight in layer.named_parameters():
                if name.startswith("weight"):
                    count = round(sparsity * weight.numel())
                    weight.view(-1)[weight.abs().view(-1).argsort()[:count]] = 0.0


def write_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    """Export for ONNX Runtime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, external_data=False)


def session(path: Path, threads: int, x: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A call without copies, and its result."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = opened.io_binding()
    binding.bind_cpu_input(opened.get_inputs()[0].name, x)
    binding.bind_output(opened.get_outputs()[0].name, "cpu")
    return (
        lambda: opened.run_with_iobinding(binding),
        lambda: binding.copy_outputs_to_cpu()[0],
    )


def quantized(path: Path, x: np.ndarray) -> Path:
    """The network with 8-bit integers, by ONNX Runtime's own tool."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Samples(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            generator = np.random.RandomState(0)
            self.values = iter(
                [{name: generator.randn(*x.shape).astype(np.float32)} for _ in range(4)]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.values, None)

    import onnx

    ready, made = path.with_suffix(".ready.onnx"), path.with_suffix(".int8.onnx")
    logging.disable(logging.WARNING)
    shape_inference.quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    name = onnx.load(str(ready), load_external_data=False).graph.input[0].name
    quantization.quantize_static(
        str(ready), str(made), Samples(name), quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        extra_options={"CalibTensorRangeSymmetric": False},
    )  # fmt: skip
    return made


def compiled(
    model: nn.Module, x: Tensor, threads: int, kernels: Sequence[Kernel] | None = None
) -> tuple[Callable[[], Any], np.ndarray, dict[str, Any]]:
    """A call without copies, where its result lies, and figures; all kernels unless told."""
    begin = time.perf_counter()
    captured = capture(model, x)
    captured_at = time.perf_counter()
    chosen = host_kernels() if kernels is None else tuple(kernels)
    settings = Settings(kernels=chosen, tune=True, threads=threads)
    files = compile_captured(captured, [x], settings)
    compiled_at = time.perf_counter()
    program = Loaded(files, threads=threads)
    built_at = time.perf_counter()
    entry = getattr(program._library, f"{files.name}_run")
    source = np.ascontiguousarray(x.numpy())
    out = np.empty(program.outputs[0].shape, np.float32)
    arena = aligned(files.arena.size_bytes)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (source, out, arena)]
    call = functools.partial(entry, *pointers)
    call.memory = (source, out, arena, program)  # as long as the call can be made

    figures = {
        "capture_seconds": captured_at - begin,
        "compile_seconds": compiled_at - captured_at,
        "build_seconds": built_at - compiled_at,
        "arena_bytes": files.arena.size_bytes,
    }
    return call, out, figures


def timed(calls: list[Callable[[], Any]], threads: int = 1) -> np.ndarray:
    """Seconds of (round, call), in turn; several threads are awake, and those of others asleep."""
    for call in calls:
        for _ in range(5):
            call()
    rounds: list[list[float]] = []
    stop = time.perf_counter() + SECONDS * len(calls)
    while len(rounds) < FEWEST or (time.perf_counter() < stop and len(rounds) < MOST):
        row = []
        for call in calls:
            if threads > 1:
                time.sleep(SETTLE_SECONDS)
                call()
            start = time.perf_counter()
            call()
            row.append(time.perf_counter() - start)
        rounds.append(row)
    return np.array(rounds)


def row(network: str, sparsity: float, batch: int, threads: int) -> dict[str, Any]:
    """Build, compare, time."""
    pin(threads)
    model, x = make(network, batch)
    sparsify(model, sparsity)
    weights = [p for n, p in model.named_parameters() if "weight" in n and p.dim() > 1]
    ours, out, figures = compiled(model, x, threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        write_onnx(model, x, path)
        dense, result = session(path, threads, x.numpy())
        calls = [ours, dense]
        if sparsity == INT8_AT:
            calls.append(session(quantized(path, x.numpy()), threads, x.numpy())[0])
    ours()
    dense()
    want = result()
    error = float(np.abs(out - want).max() / np.abs(want).max())
    assert error < TOLERANCE, f"{network}: results differ by {error}"
    rounds = 1e3 * timed(calls, threads)
    found = {
        "network": network,
        "batch": batch,
        "threads": threads,
        "sparsity": sparsity,
        "nonzero": sum(int(p.count_nonzero()) for p in weights),
        "weights": sum(p.numel() for p in weights),
        "error": error,
        "n": len(rounds),
        "times_faster": statistics.median(rounds[:, 1] / rounds[:, 0]),
        "times_faster_by_min": float(rounds[:, 1].min() / rounds[:, 0].min()),
        **figures,
    }
    for i, name in enumerate(("penjing", "onnxruntime", "onnxruntime_int8")[: len(calls)]):
        found[f"{name}_median_ms"] = float(np.median(rounds[:, i]))
        found[f"{name}_min_ms"] = float(rounds[:, i].min())
    return found


def is_main(network: str, sparsity: float, batch: int, threads: int) -> bool:
    """Whether a row belongs to the short run: one thread and image, the rest at 90 % zeros."""
    if (batch, threads) != (1, 1):
        return sparsity == INT8_AT and (batch, threads) != (16, 2) and network != LARGE
    return sparsity in ((0.0, INT8_AT) if network == LARGE else SHORT)


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS))
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--short", action="store_true", help="the main rows: see `is_main`")
    parser.add_argument("--dry", action="store_true", help="print the row, do not keep it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Record("zeros", __doc__.splitlines()[0], "python bench/zeros.py --all")
    for key in product(
        [given.network] if given.network else NETWORKS,
        SPARSITIES if given.sparsity is None else [given.sparsity],
        BATCHES if given.batch is None else [given.batch],
        THREADS if given.threads is None else [given.threads],
    ):
        if given.short and not is_main(*key):
            continue
        names = dict(zip(("network", "sparsity", "batch", "threads"), key, strict=True))
        if given.dry:
            print(row(*key))
        elif not rows.has(**names):
            rows.add(row(*key))


if __name__ == "__main__":
    main()

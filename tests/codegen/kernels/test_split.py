"""Linear and recurrent layers on several threads compute what they do on one, without races."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.kernels import (
    BlockLinear,
    DenseLinear,
    Recurrent,
    RunLinear,
    SparseConv,
    Split,
    Style,
    WindowLinear,
)
from penjing.codegen.pipeline import Settings, compile_captured
from penjing.codegen.runtime import Loaded
from penjing.codegen.targets import HOST
from penjing.graph.capture import capture

PRODUCTS = {
    "window": WindowLinear(),
    "dense": DenseLinear(vectors=2),
    "run": RunLinear(),
    "block": BlockLinear(lanes=8),
}
THREADS = 3
# gcc's own threads are unknown to the sanitizer: these take their place
SHIM = """
#include <pthread.h>
static __thread int own, many = 1;
struct job { void (*f)(void *); void *data; int id, n; };
static void *work(void *p) {
    struct job *j = p;
    own = j->id, many = j->n;
    j->f(j->data);
    return 0;
}
void GOMP_parallel(void (*f)(void *), void *data, unsigned n, unsigned flags) {
    pthread_t threads[64];
    struct job jobs[64];
    (void)flags;
    n = n ? n : 2;
    for (unsigned i = 0; i < n; i++) {
        jobs[i] = (struct job){f, data, (int)i, (int)n};
        pthread_create(&threads[i], 0, work, &jobs[i]);
    }
    for (unsigned i = 0; i < n; i++) pthread_join(threads[i], 0);
}
int omp_get_thread_num(void) { return own; }
int omp_get_num_threads(void) { return many; }
"""


class Last(nn.Module):
    """A recurrent layer's sequence."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, N, inputs)."""
        return self.layer(x)[0]


def _sparse(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter[torch.rand(parameter.shape) < 0.7] = 0.0
    return model.eval()


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_linear_layer_is_shared(product: str, rows: int) -> None:
    model, x = _sparse(nn.Sequential(nn.Linear(50, 72), nn.ReLU())), torch.randn(rows, 50)
    settings = Settings(kernels=(Split(product=PRODUCTS[product]),), threads=THREADS)
    files = compile_captured(capture(model, x), [x], settings)
    program = Loaded(files, threads=THREADS, flags=("-O1",))
    assert f"PJ_THREADS({min(rows, THREADS) if rows > 1 else THREADS})" in files.text.source
    assert np.abs(program.run([x.numpy()])[0] - model(x).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_the_steps_of_a_recurrent_layer_are_shared(kind: type[nn.RNNBase]) -> None:
    model, x = _sparse(Last(kind(9, 40, bidirectional=True))), torch.randn(6, 2, 9)
    settings = Settings(kernels=(Recurrent(product=Split(start_ns=0)),), threads=THREADS)
    files = compile_captured(capture(model, x), [x], settings)
    program = Loaded(files, threads=THREADS, flags=("-O1",))
    want = model.double()(x.double()).detach().numpy()
    assert "recurrent_split" in files.text.source
    assert np.abs(program.run([x.numpy()])[0] - want).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 6])
def test_the_bytes_of_a_shared_layer_are_those_it_writes(rows: int) -> None:
    model, x = _sparse(nn.Linear(50, 72, bias=False)), torch.randn(rows, 50)
    kernel = Split(product=RunLinear(), start_ns=0)
    files = compile_captured(capture(model, x), [x], Settings(kernels=(kernel,), threads=THREADS))
    written = sum(b.values.nbytes for b in files.text.blobs if b.role != "bias")
    net, target = files.arena.laid.net, replace(HOST, threads=THREADS)
    layer = next(layer for layer in net.layers if layer.kind == "linear")
    assert kernel.constant_bytes(net, layer, target) == written


def test_a_small_layer_stays_on_one_thread() -> None:
    model, x = nn.Linear(16, 16).eval(), torch.randn(1, 16)
    files = compile_captured(capture(model, x), [x], Settings(threads=2))
    assert "PJ_THREADS(2)" not in files.text.source.split("#endif")[-1]


NETWORKS = {
    "linear": (nn.Linear(50, 72), torch.randn(1, 50), Split()),
    "gru": (Last(nn.GRU(9, 40)), torch.randn(3, 2, 9), Recurrent(product=Split(start_ns=0))),
    "tiles": (
        nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 9, 32),
        SparseConv(style=Style(vectors=2, staged=True, cache_bytes=800)),
    ),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_thread_sanitizer_finds_no_race(name: str, tmp_path: Path) -> None:
    model, x, kernel = NETWORKS[name]
    model = _sparse(model)
    settings = Settings(kernels=(kernel,), threads=THREADS)
    files = compile_captured(capture(model, x), [x], settings)
    for file, text in files.content.items():
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "shim.c").write_text(SHIM)
    flags = ["-O1", "-march=native", "-std=gnu99", "-fsanitize=thread"]
    for command in (
        ["gcc", *flags, "-fopenmp", "-c", "net.c"],
        ["gcc", *flags, "net.o", "main.c", "shim.c", "-o", "run", "-lm"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    told = subprocess.run(["./run"], cwd=tmp_path, capture_output=True, text=True)
    assert "equal yes" in told.stdout
    assert "data race" not in told.stderr
    assert told.returncode == 0

"""Programs for several threads compute what those for one do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from penjing.codegen.build import warnings_of
from penjing.codegen.kernels import DenseConv, Depthwise, SparseConv, Style
from penjing.codegen.pipeline import Settings, compile_captured, program_of
from penjing.codegen.runtime import Loaded
from penjing.graph.capture import capture

KERNELS = {
    "direct": SparseConv(style=Style(vectors=2)),
    "staged": SparseConv(style=Style(vectors=2, staged=True, cache_bytes=3000)),
    "flat": SparseConv(style=Style(vectors=2, flat=True, cache_bytes=3000)),
    "dense": DenseConv(filters=2, style=Style(vectors=2, staged=True)),
    "depthwise": Depthwise(vectors=2, flat=True),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_threads_share_tiles_and_images(kernel: str) -> None:
    torch.manual_seed(0)
    groups = 6 if kernel == "depthwise" else 1
    model = nn.Conv2d(6, 6, 3, padding=1, groups=groups).eval()
    x = torch.randn(2, 6, 16, 16)
    settings = Settings(kernels=(KERNELS[kernel],), threads=2)
    files = compile_captured(capture(model, x), [x], settings)
    want = model(x).detach().numpy()
    program = Loaded(files, threads=2, flags=("-O1",))
    worst = max(np.abs(program.run([x.numpy()])[0] - want).max() for _ in range(5))
    assert "PJ_THREADS(2)" in files.text.source
    assert worst < 1e-5


@pytest.mark.parametrize(("threads", "said"), [(1, False), (2, True)])
def test_a_layer_that_two_threads_do_not_share_says_so(threads: int, said: bool) -> None:
    model, x = nn.Linear(8, 4).eval(), torch.randn(2, 8)
    program = program_of(capture(model, x), [x], Settings(threads=threads))
    assert ("on one thread" in program.table) == said


def test_a_threaded_program_compiles_without_warnings_where_there_is_no_openmp() -> None:
    model, x = nn.Conv2d(3, 4, 3, padding=1).eval(), torch.randn(2, 3, 16, 16)
    settings = Settings(kernels=(KERNELS["flat"],), threads=2)
    files = compile_captured(capture(model, x), [x], settings)
    assert warnings_of(files.content, "net.c", "gcc") == ""

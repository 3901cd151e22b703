"""No kernel reads or writes beyond its tensors, whatever the sizes; more with `fuzz` itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.codegen.kernels.fuzz import SANITIZED, Case, cases, failures

from penjing.codegen.ir import RELU, Layer, Net, Tensor
from penjing.codegen.kernels import DenseLinear

FLAGS = (*SANITIZED, "-march=native", "-ffp-contract=fast")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(autouse=True)
def _no_leak_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # it needs ptrace


@needs_gcc
def test_random_layers_stay_in_their_memory_and_equal_the_reference(tmp_path: Path) -> None:
    assert failures(cases(seed=1, layers=6), tmp_path, "gcc", FLAGS) == []


@needs_gcc
def test_what_a_dense_product_adds_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    x, z, weight = (random.randn(*s).astype(np.float32) for s in ((2, 5), (2, 73), (73, 5)))
    layer = Layer("linear", "added", ("x", "z"), ("y",), {"activation": RELU}, {"weight": weight})
    tensors = {"x": Tensor("x", (2, 5)), "z": Tensor("z", (2, 73)), "y": Tensor("y", (2, 73))}
    net = Net(("x", "z"), ("y",), (layer,), tensors)
    want = torch.relu(torch.from_numpy(x @ weight.T + z)).numpy()
    case = Case("added", DenseLinear(), net, (x, z), (want,))
    assert failures([case], tmp_path, "gcc", FLAGS) == []

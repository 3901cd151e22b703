"""Which kernel is chosen, and what for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penjing.codegen.choice import choose
from penjing.codegen.ir import Layer, Net, Tensor
from penjing.codegen.kernels import DenseLinear, WindowLinear, board_kernels, host_kernels
from penjing.codegen.targets import CORTEX_M4, CORTEX_M55, HOST, TARGETS, Target
from penjing.errors import ExportError

KERNELS = (DenseLinear(vectors=2), WindowLinear())


RANDOM = np.random.RandomState(0)
ROW, COLUMN = np.ogrid[:32, :64]


def linear(kept: float | np.ndarray) -> Net:
    """One linear layer of 64 inputs and 32 outputs, some or those weights kept."""
    random = np.random.RandomState(0)
    mask = kept if isinstance(kept, np.ndarray) else random.rand(32, 64) < kept
    weight = random.randn(32, 64).astype(np.float32) * mask
    layer = Layer("linear", "one", ("x",), ("y",), {"activation": None}, {"weight": weight})
    return Net(("x",), ("y",), (layer,), {"x": Tensor("x", (1, 64)), "y": Tensor("y", (1, 32))})


PATTERNS = {
    "dense": (np.ones((32, 64)), "dense_linear"),
    "element": ((COLUMN // 16 == ROW % 4) & (COLUMN % 16 < 12), "window_linear"),
    "2:4": (np.tile([1, 0, 0, 1], (32, 16)), "run_linear"),
    "block": (np.repeat(RANDOM.rand(2, 64) < 0.2, 16, axis=0), "block_linear"),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_zeros_change_the_kernel_of_a_layer(pattern: str) -> None:
    kept, wanted = PATTERNS[pattern]
    chosen = choose(linear(kept), host_kernels(), HOST, "latency")["one"]
    assert chosen.name == wanted


def test_flash_goes_by_bytes_of_constants() -> None:
    names = [choose(linear(s), KERNELS, HOST, "flash")["one"].name for s in (0.7, 0.2)]
    assert names == ["dense_linear", "window_linear"]


@pytest.mark.parametrize(
    ("target", "wanted"), [(CORTEX_M4, "window_linear"), (CORTEX_M55, "dense_linear")]
)
def test_zeros_of_a_small_layer_pay_where_dense_code_has_no_vectors(
    target: Target, wanted: str
) -> None:
    kept = np.random.RandomState(0).rand(32, 64) < 0.07
    assert choose(linear(kept), board_kernels(), target, "latency")["one"].name == wanted


def test_a_layer_without_a_kernel_is_named() -> None:
    with pytest.raises(ExportError, match=r"computes linear .*'one'"):
        choose(linear(0.5), (), HOST, "latency")


def test_measured_times_are_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose(linear(0.5), (*KERNELS, DenseLinear(vectors=1)), HOST, "latency", tune=True)
    kept = sorted((tmp_path / "penjing" / "programs" / "timings").iterdir())
    for path in kept:
        slow = 1.0 if "WindowLinear" in path.read_text() else 9.0
        path.write_text(json.dumps({"nanoseconds": slow}))
    again = choose(linear(0.5), (*KERNELS, DenseLinear(vectors=1)), HOST, "latency", tune=True)
    assert (len(kept), again["one"].name) == (3, "window_linear")


def test_times_that_hardly_differ_leave_the_choice_to_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, kernels = linear(0.1), (*KERNELS, DenseLinear(vectors=1))
    likely = min(kernels, key=lambda kernel: kernel.cost(net, net.layers[0], HOST))
    chosen = []
    for slower in (1.01, 1.1):
        times = {str(i): (k, slower if k is likely else 1.0) for i, k in enumerate(kernels)}
        monkeypatch.setattr("penjing.codegen.choice.measured", lambda *_, times=times: times)
        chosen.append(choose(net, kernels, HOST, "latency", tune=True)["one"])
    assert chosen[0] is likely
    assert chosen[1] is not likely


@pytest.mark.parametrize(
    ("core", "kept", "kernel"),
    [
        ("cortex-m4", 0.6, "dense_linear"),
        ("cortex-m4", 0.25, "window_linear"),
        ("cortex-m55", 0.25, "dense_linear"),
        ("cortex-m55", 0.08, "column_linear"),
    ],
)
def test_a_board_leaves_out_zeros_where_its_own_counts_say_so(core, kept, kernel):
    """Counted on 256 inputs and 64 outputs: even at 59 % zeros on an M4, at 87 % on an M55."""
    random = np.random.RandomState(0)
    weight = random.randn(64, 256).astype(np.float32) * (random.rand(64, 256) < kept)
    layer = Layer("linear", "one", ("x",), ("y",), {"activation": None}, {"weight": weight})
    tensors = {"x": Tensor("x", (1, 256)), "y": Tensor("y", (1, 64))}
    net = Net(("x",), ("y",), (layer,), tensors)
    assert choose(net, board_kernels(), TARGETS[core], "latency")["one"].name == kernel

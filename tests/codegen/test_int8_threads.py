"""Integer programs for several threads: the bits of one thread, without races."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.codegen.integer_nets import Builder, everything
from tests.codegen.kernels.test_split import SHIM
from torch import nn

import penjing as pj
from penjing.codegen.build import warnings_of
from penjing.codegen.int8 import compile_integers, parts
from penjing.codegen.targets import CORTEX_M4, HOST
from penjing.quantization.lowering import integers
from penjing.quantization.reference import execute

QUICK = replace(HOST, flags=("-O1", "-march=native"))
ONE = ((1, 1), (1, 1), ((0, 0), (0, 0)))


@pytest.fixture
def share_all(monkeypatch):
    """Threads share layers however small."""
    monkeypatch.setattr(parts, "START_NS", 0.0)


class Heard(nn.Module):
    """A convolution over time, a GRU, and a classifier of what it keeps."""

    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(5, 8, 3)
        self.inside = nn.GRU(8, 40, batch_first=True)
        self.head = nn.Linear(40, 33)

    def forward(self, x):
        return self.head(self.inside(self.front(x).transpose(1, 2))[0])


def perceptron():
    b = Builder(0, (1, 1, 70))
    b.conv(100, *ONE)
    b.conv(70, *ONE, zeros=0.95)
    b.conv(33, *ONE, zeros=0.5)
    return b.net(show_all=True)


def recurrent():
    torch.manual_seed(0)
    x = torch.randn(8, 5, 12)
    return integers(pj.quantize(Heard().eval(), x[:1], calibration=[x]).model.network)


def tokens():
    """Pixels that are their own columns, in one row, and a residual addition."""
    b = Builder(0, (1, 37, 12))
    before = b.x
    b.conv(20, *ONE)
    b.conv(12, *ONE)
    b.add(b.x, before)
    b.conv(9, (1, 3), (1, 2), ((0, 0), (1, 1)))
    return b.net()


NETWORKS = {
    "convolutions": everything,
    "16 bits": lambda: everything(bits=16),
    "perceptron": perceptron,
    "recurrent": recurrent,
    "tokens": tokens,
}


def inputs_of(net, count):
    generator = np.random.default_rng(1)
    return [net.tensors[name].random(generator, count) for name in net.inputs]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("share_all")
def test_threads_give_the_bits_of_the_reference(name, threads):
    net = NETWORKS[name]()
    program = compile_integers(net, replace(QUICK, threads=threads))
    x = inputs_of(net, 1)
    want = execute(net, *x)
    assert any(step.parts for step in program.steps) == (threads > 1)
    for output, found in zip(net.outputs, program.run(*x), strict=True):
        np.testing.assert_array_equal(found, want[output])


@pytest.mark.usefixtures("share_all")
def test_weights_written_small_give_the_bits_of_the_reference():
    net = everything()
    program = compile_integers(net, replace(QUICK, threads=2), "flash")
    x = inputs_of(net, 3)
    one, some = program.run(*(v[:1] for v in x))[0], program.run(*x)[0]
    want = execute(net, *x)[net.outputs[0]]
    assert any(s.kernel == "listed" and s.parts for s in program.steps)
    np.testing.assert_array_equal(np.concatenate([one, some]), np.concatenate([want[:1], want]))


@pytest.mark.usefixtures("share_all")
def test_a_recurrent_layer_stays_on_one_thread():
    program = compile_integers(recurrent(), replace(QUICK, threads=2))
    assert "gru" in {s.kernel for s in program.steps if not s.parts}


@pytest.mark.usefixtures("share_all")
def test_parts_of_one_image_share_their_weights():
    b = Builder(0, (8, 8, 4))
    b.conv(16)
    one, three = (compile_integers(b.net(), replace(QUICK, threads=n)) for n in (1, 3))
    assert one.layer_bytes == three.layer_bytes


def test_only_layers_in_which_that_pays_are_shared():
    b = Builder(0, (24, 24, 16))
    b.conv(32)
    b.pool("average", (24, 24), (1, 1))
    b.conv(10, *ONE)
    program = compile_integers(b.net(), replace(QUICK, threads=2))
    assert [bool(step.parts) for step in program.steps] == [True, False, False]
    assert program.table.count("on one thread") == 2


@pytest.mark.usefixtures("share_all")
def test_the_program_of_a_board_is_the_same_for_any_threads():
    one, two = (compile_integers(everything(), replace(CORTEX_M4, threads=n)) for n in (1, 2))
    assert (one.source, one.header) == (two.source, two.header)


@pytest.mark.parametrize(
    ("compiler", "flags"), [("gcc", ()), ("gcc", ("-fopenmp",)), ("clang", ())]
)
@pytest.mark.usefixtures("share_all")
def test_it_compiles_without_warnings(compiler, flags):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = compile_integers(everything(), replace(QUICK, threads=2))
    assert warnings_of(program.files, "net.c", compiler, (*flags, "-march=native")) == ""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("name", ["convolutions", "perceptron"])
@pytest.mark.usefixtures("share_all")
def test_the_thread_sanitizer_finds_no_race(name, tmp_path):
    compile_integers(NETWORKS[name](), replace(QUICK, threads=3)).save(tmp_path)
    (tmp_path / "shim.c").write_text(SHIM)
    flags = ["-O1", "-march=native", "-std=gnu99", "-fsanitize=thread"]
    for command in (
        ["gcc", *flags, "-fopenmp", "-c", "net.c"],
        ["gcc", *flags, "net.o", "main.c", "shim.c", "-o", "run"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    told = subprocess.run(["./run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "equal yes" in told.stdout
    assert (told.stderr, told.returncode) == ("", 0)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.usefixtures("share_all")
def test_its_makefile_builds_it_with_threads(tmp_path):
    compile_integers(perceptron(), replace(QUICK, threads=2)).save(tmp_path)
    done = subprocess.run(
        ["make", "check", "THREADS=1"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "-fopenmp" in done.stdout
    assert "penjing: equal yes" in done.stdout


def test_it_is_measured_on_two_threads():
    torch.manual_seed(0)
    x = torch.randn(8, 9)
    model = pj.quantize(nn.Linear(9, 4).eval(), x[:1], calibration=[x]).model
    assert pj.measure(model, x[:1], runtime="c", threads=2, n=1).latency.threads == 2

"""Compiled networks: they compute what the network does, in C that no compiler complains of."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codegen.networks import Calls, networks
from torch import nn

import penjing as pj
from penjing.codegen import emulator
from penjing.codegen.build import run_compiler, warnings_of, write_folder
from penjing.codegen.emit.files import FLAGS
from penjing.codegen.ir import Net, Tensor
from penjing.codegen.layout import copy_layer, lay_out
from penjing.codegen.log import read_log
from penjing.codegen.pipeline import Settings, compile_captured, example_of, program_of
from penjing.codegen.reference import reference_kernels
from penjing.codegen.runtime import Loaded
from penjing.codegen.targets import target_of
from penjing.errors import (
    BudgetError,
    ExportError,
    InfeasibleError,
    InputError,
    MissingDependencyError,
    StrategyError,
)
from penjing.graph.capture import capture
from penjing.testing import tiny

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

QUICK = ("-O1", "-DNDEBUG")
NETWORKS = {
    **networks(),
    **{name: (tiny.make(name), (tiny.example(name),)) for name in tiny.NETWORKS},
}
SANITIZED = ("plain", "concat", "depthwise", "moves", "pools", "gru", "attention")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def compiled(network: nn.Module, inputs: tuple[torch.Tensor, ...], **choices):
    captured = capture(network, inputs)
    values = example_of(captured, len(inputs[0]))
    return captured, values, compile_captured(captured, values, Settings(**choices))


def plain(value: torch.Tensor) -> np.ndarray:
    kinds = {torch.int64: torch.int32, torch.bool: torch.uint8}
    return np.ascontiguousarray(value.to(kinds.get(value.dtype, value.dtype)).numpy())


def differences(network, inputs, **choices) -> list[float]:
    """Largest difference of every output from float64, relative to its largest value."""
    captured, values, files = compiled(network, inputs, **choices)
    got = Loaded(files, flags=QUICK).run([plain(v) for v in values])
    recurrent = any(isinstance(m, nn.RNNBase) for m in network.modules())  # float32 first states
    kind = torch.float32 if recurrent else torch.float64
    wide = [v.to(kind) if v.is_floating_point() else v for v in values]
    tensors = {k: v.to(kind) for k, v in captured.tensors.items() if v.is_floating_point()}
    with torch.no_grad():
        want = [v for v in captured.run(wide, tensors) if isinstance(v, torch.Tensor)]
    pairs = zip(got, want, strict=True)
    return [
        float(np.abs(a.astype("f8") - b.numpy()).max() / max(np.abs(b.numpy()).max(), 1e-30))
        for a, b in pairs
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_computes_what_the_network_does(name):
    assert max(differences(*NETWORKS[name])) < 3e-6  # some ulp per layer, and of exp and erf


@pytest.mark.parametrize("name", ["residual", "depthwise", "gru"])
def test_plain_kernels_alone_compute_what_the_network_does(name):
    assert max(differences(*NETWORKS[name], kernels=())) < 3e-6


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 1.0])
def test_a_sparse_network_computes_the_same(sparsity):
    network = tiny.make("residual")
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(torch.rand(weight.shape) >= sparsity)
    assert max(differences(network, (tiny.example("residual"),))) < 3e-6


@st.composite
def convolutions(draw) -> nn.Conv2d:
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    layer = nn.Conv2d(
        4,
        groups * draw(st.integers(1, 5)),
        kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
        bias=draw(st.booleans()),
    )
    keep = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    with torch.no_grad():
        layer.weight.mul_(torch.rand(layer.weight.shape) < keep)
        if draw(st.booleans()):
            layer.weight[0] = 0
    return layer


@given(
    layers=st.lists(convolutions(), min_size=6, max_size=6),
    size=st.tuples(st.integers(7, 13), st.integers(7, 13)),
    fast=st.booleans(),
)
@settings(max_examples=5, deadline=None, derandomize=True)
def test_convolutions_of_any_shape_equal_float64(layers, size, fast):
    network = Calls(lambda *given: tuple(layer(given[-1]) for layer in given[:-1]), *layers)
    choices = {} if fast else {"kernels": ()}
    assert max(differences(network.eval(), (torch.randn(2, 4, *size),), **choices)) < 3e-6


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["residual_a", "moves", "activations", "lstm"])
def test_no_compiler_warns(name, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    _, _, files = compiled(*NETWORKS[name])
    assert warnings_of(files.content, "net.c", compiler) == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiled for x86 only")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512"])
def test_no_compiler_warns_of_code_for_newer_processors(processor, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Flatten(), nn.Linear(24 * 49, 64),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (network[2], network[6]):
            layer.weight[torch.rand_like(layer.weight) < 0.9] = 0.0
    flags = (f"-march={processor}",)
    target = replace(target_of("host"), flags=("-O3", *flags))
    _, _, files = compiled(network.eval(), (torch.randn(1, 3, 14, 14),), target=target)
    assert "sparse_conv" in {step.kernel for step in files.text.steps}
    assert warnings_of(files.content, "net.c", compiler, flags) == ""


def test_flash_is_not_bounded_without_the_tool_that_reads_it(monkeypatch):
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "size" else found(name))
    network, x = nn.Linear(3, 2).eval(), torch.randn(1, 3)
    with pytest.raises(MissingDependencyError, match=r"size not found.*apt-get .* binutils"):
        pj.compile(network, x, constraints={"flash_kb": 100})


def test_sanitizers_find_nothing(tmp_path):
    sources, calls = [], []
    for i, name in enumerate(SANITIZED):
        _, _, files = compiled(*NETWORKS[name], name=f"n{i}")
        content = dict(files.content)
        content[f"main{i}.c"] = str(content.pop("main.c")).replace(
            "int main(void)", f"int m{i}(void);int m{i}(void)"
        )
        write_folder(content, tmp_path)
        sources += [f"n{i}.c", f"main{i}.c"]
        calls.append(f"m{i}()")
    declared = "".join(f"int m{i}(void);" for i in range(len(calls)))
    (tmp_path / "all.c").write_text(f"{declared} int main(void) {{ return {' | '.join(calls)}; }}")
    checks = "-fsanitize=address,undefined"
    run_compiler(
        [
            "cc",
            "-O1",
            checks,
            "-fno-sanitize-recover=all",
            *FLAGS,
            "all.c",
            *sources,
            "-o",
            "all",
            "-lm",
        ],
        tmp_path,
    )
    done = subprocess.run([tmp_path / "all"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout.count("equal yes")) == (0, "", len(calls))


def test_a_program_is_called_like_the_network():
    network = tiny.make("plain")
    program = pj.compile(network, tiny.example("plain"))
    x = tiny.example("plain", batch=3, seed=5)
    torch.testing.assert_close(program(x), network(x).detach(), rtol=1e-5, atol=1e-5)


def test_arrays_give_arrays():
    program = pj.compile(tiny.make("mlp"), tiny.example("mlp"))
    assert isinstance(program(tiny.example("mlp").numpy()), np.ndarray)


def test_an_input_of_another_shape_is_refused():
    program = pj.compile(tiny.make("mlp"), tiny.example("mlp"))
    with pytest.raises(InputError, match=r"\(1, 7\).*takes \(1, 6\)"):
        program(torch.ones(1, 7))


def test_an_input_of_another_dtype_is_refused():
    program = pj.compile(tiny.make("mlp"), tiny.example("mlp"))
    with pytest.raises(InputError, match="float64"):
        program(torch.ones(1, 6, dtype=torch.float64))


def test_threads_give_the_same():
    network = tiny.make("residual")
    program = pj.compile(network, tiny.example("residual"), threads=2)
    assert program.difference is not None
    assert program.difference < 1e-5


def test_denormal_weights_and_inputs_are_computed_with():
    network = nn.Linear(4, 2)
    with torch.no_grad():
        network.weight.fill_(1e-40)
        network.bias.zero_()
    program = pj.compile(network, torch.ones(1, 4))
    assert float(program(torch.full((1, 4), 2.0))[0, 0]) == pytest.approx(8e-40, rel=1e-3)


def test_the_header_says_what_happens_to_denormals():
    assert "Denormal" in pj.compile(nn.Linear(2, 2).eval(), torch.ones(1, 2)).files.text.header


def test_a_tensor_beyond_32_bit_positions_is_refused():
    wide = Tensor("y", (1, 2**16, 2**15))
    net = Net(("x",), ("y",), (copy_layer(replace(wide, name="x"), wide),), {"x": wide, "y": wide})
    copier = next(k for k in reference_kernels() if k.kind == "copy")
    with pytest.raises(ExportError, match=r"\(1, 65536, 32768\).*smaller batch"):
        lay_out(net, {net.layers[0].name: copier}, copier, target_of("host"))


def test_an_op_that_cannot_be_compiled_is_named_with_its_line():
    network = Calls(lambda x: torch.fft.rfft(x).abs())
    with pytest.raises(ExportError, match=r"fft_rfft.*networks.py:\d+"):
        pj.compile(network.eval(), torch.randn(1, 8))


def test_nan_weights_are_refused():
    network = nn.Linear(2, 2)
    network.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="weight"):
        pj.compile(network, torch.ones(1, 2))


def test_a_double_network_is_refused():
    with pytest.raises(InputError, match=r"model\.float\(\)"):
        pj.compile(nn.Linear(2, 2).double(), torch.ones(1, 2).double())


def test_an_unknown_target_is_refused():
    with pytest.raises(StrategyError, match="host"):
        pj.compile(nn.Linear(2, 2), torch.ones(1, 2), target="z80")


def test_a_program_too_large_for_its_target_names_the_layers():
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9_000))
    with pytest.raises(InfeasibleError, match=r"largest layers \(bytes\): 1 2,3"):
        pj.compile(network, torch.ones(1, 64), target="cortex-m55")


@pytest.mark.parametrize(
    ("bound", "said"),
    [({"ram_kb": 1}, r"9,\d+ bytes of RAM.*has 1,024.*in layer"), ({"flash_kb": 0.5}, "largest")],
)
def test_a_program_too_large_for_your_device_names_the_layers(bound, said):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    with pytest.raises(InfeasibleError, match=said):
        pj.compile(network, torch.ones(1, 3, 8, 8), constraints=bound)


def test_instructions_count_beside_the_constants():
    with pytest.raises(InfeasibleError, match=r"of them instructions and 0 constants; 10 "):
        pj.compile(nn.ReLU(), torch.ones(1, 4), constraints={"flash_kb": 0.01})


@pytest.mark.parametrize("bound", [{"rom_kb": 4}, {"ram_kb": 0}, {"ram_kb": True}, {"ram_kb": inf}])
def test_a_constraint_that_says_nothing_is_refused(bound):
    with pytest.raises(BudgetError, match="ram_kb"):
        pj.compile(nn.Linear(4, 2), torch.ones(1, 4), constraints=bound)


@pytest.mark.parametrize("name", ["main", "Check", "test", "2nd", "n\u00e9"])
def test_a_name_that_files_or_symbols_cannot_have_is_refused(name):
    with pytest.raises(InputError, match="name"):
        pj.compile(nn.Linear(4, 2), torch.ones(1, 4), name=name)


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="apt-get install"):
        pj.compile(nn.Linear(2, 3), torch.ones(1, 2))


def test_the_folder_builds_and_checks_itself(tmp_path):
    pj.compile(tiny.make("conv1d"), tiny.example("conv1d"), out=tmp_path, name="kws")
    done = subprocess.run(
        ["make", "check", "CFLAGS=-O1 -std=c99"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "penjing: equal yes" in done.stdout


def test_a_misaligned_arena_is_caught_in_debug_builds(tmp_path):
    pj.compile(tiny.make("mlp"), tiny.example("mlp"), out=tmp_path)
    text = (tmp_path / "main.c").read_text()
    (tmp_path / "main.c").write_text(text.replace("output0, arena)", "output0, arena + 4)"))
    run_compiler(["cc", "-O1", "-std=c99", "main.c", "net.c", "-o", "bad", "-lm"], tmp_path)
    done = subprocess.run([tmp_path / "bad"], capture_output=True, text=True, check=False)
    assert "Assertion" in done.stderr


def test_export_to_c_writes_the_source_and_its_header(tmp_path):
    done = pj.export(tiny.make("mlp"), tiny.example("mlp"), tmp_path / "kws.c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kws.c", "kws.h"]
    assert done.difference < 1e-5


def test_large_weights_lie_in_a_file_of_their_own(tmp_path):
    network = nn.Linear(1024, 600)
    program = pj.compile(network, torch.randn(1, 1024), out=tmp_path)
    assert (tmp_path / "net_weights.bin").stat().st_size >= 1024 * 600 * 4
    assert len(program.source) < 100_000


def test_measure_reports_the_memory_that_the_program_has():
    network, x = tiny.make("plain"), tiny.example("plain")
    program = pj.compile(network, x)
    figures = pj.measure(network, x, runtime="c", n=1)
    assert (figures.ram_bytes, figures.size_bytes) == (program.ram_bytes, program.flash_bytes)


def test_the_plan_says_the_largest_sum_of_living_buffers_at_least():
    _, _, files = compiled(*NETWORKS["residual"])
    assert sum(files.arena.peak.values()) <= files.arena.size_bytes


def test_a_program_made_small_is_not_larger():
    network, x = tiny.make("residual"), tiny.example("residual")
    fast, flash, ram = (pj.compile(network, x, optimize=aim) for aim in ("latency", "flash", "ram"))
    assert flash.flash_bytes <= fast.flash_bytes
    assert ram.arena_bytes <= fast.arena_bytes


def test_a_recurrent_matrix_with_zeros_is_small_where_programs_shall_be():
    torch.manual_seed(0)
    network = nn.GRU(4, 32, batch_first=True)
    with torch.no_grad():
        network.weight_hh_l0.mul_(torch.rand(96, 32) < 0.1)
    program = pj.compile(network, torch.randn(1, 2, 4), optimize="flash")
    assert program.constant_bytes < network.weight_hh_l0.numel() * 4 / 2


def test_tuning_is_refused_for_another_processor():
    with pytest.raises(StrategyError, match="on this machine"):
        pj.compile(nn.Linear(4, 2), torch.ones(1, 4), target="cortex-m4", tune=True)


def test_a_dimension_that_only_the_data_decides_is_named():
    network = Calls(lambda x: x[x > 0].sum())
    with pytest.raises(ExportError, match=r"whose dimension 0 only the data gives a size.*mask"):
        pj.compile(network.eval(), torch.randn(2, 5))


@pytest.mark.parametrize(
    "select",
    [lambda x, m: x[:, m], lambda x, m: x[:, m.nonzero().squeeze(1)]],
    ids=["mask", "places"],
)
def test_what_is_stored_may_select(select):
    mask = torch.tensor([True, False, True, True])
    network = Calls(lambda x: select(x, mask) * 2)
    assert max(differences(network.eval(), (torch.randn(2, 4),))) < 1e-6


def test_numbers_become_truth_values_by_comparison_with_zero():
    network = Calls(lambda x: (x.bool(), torch.bitwise_xor(x > 0, x > 1)))
    x = torch.tensor([[-2.5, 0.0, 0.25, 300.0]])
    assert max(differences(network.eval(), (x,))) == 0


def test_bytes_become_truth_values_by_comparison_with_zero():
    network = Calls(lambda i: i.bool().float())
    x = torch.tensor([[0, 1, 2, 200]], dtype=torch.uint8)
    assert max(differences(network.eval(), (x,))) == 0


def test_weights_that_are_not_finite_are_not_measured_in_c():
    network = nn.Linear(4, 2)
    torch.nn.init.constant_(network.weight, float("nan"))
    with pytest.raises(InputError, match="'weight' holds 8 of 8"):
        pj.measure(network, torch.ones(1, 4), runtime="c", n=1)


def test_bits_of_whole_numbers_are_refused():
    network = Calls(lambda i: i & 3)
    with pytest.raises(ExportError, match="__and__ of whole numbers"):
        pj.compile(network.eval(), torch.randint(0, 9, (2, 3)))


@pytest.mark.skipif(emulator.missing(target_of("cortex-m4")) != "", reason="no emulator")
def test_a_microcontroller_leaves_out_the_zeros_of_floats():
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
    x, counts = torch.randn(1, 8, 9, 7), []
    for kept in (1.0, 0.1):
        with torch.no_grad():
            for layer in (network[0], network[2]):
                layer.weight.mul_(torch.rand(layer.weight.shape) < kept)
        captured = capture(network.eval(), x)
        settings = Settings(target=target_of("cortex-m4"))
        counts.append(read_log(program_of(captured, [x], settings).check()).count)
    assert counts[1] < 0.5 * counts[0]

"""int8 programs: the same bits as the reference, on every target, in little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penjing.codegen import emulator
from penjing.codegen.int8 import compile_integers
from penjing.codegen.int8.schedule import schedule
from penjing.codegen.int8.steps import SPARSE
from penjing.codegen.targets import CORTEX_M4, HOST, TARGETS
from penjing.errors import ExportError, InfeasibleError, InputError
from penjing.quantization.integers import IntegerNet, scale_of
from penjing.quantization.reference import execute

from .integer_nets import Builder, attention, everything, further, piece, random_convolutions

EVERYWHERE = [
    t if t.board else replace(t, flags=tuple(f.replace("-O3", "-O1") for f in t.flags))
    for t in TARGETS.values()
]
"""Boards as they are; big processors compiled quickly."""
HALF = ((1, 1), (1, 1))
NEWLIB = Path("/usr/include/newlib")
STRICT = ("-Werror", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-std=c99")


def need(target):
    if emulator.missing(target):
        pytest.skip(emulator.missing(target))


def samples(net, count=3):
    random = np.random.default_rng(1)
    shape = net.tensors[net.inputs[0]].shape
    return random.integers(-128, 128, (count, *shape)).astype(np.int8)


@pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
def test_every_layer_gives_the_bits_of_the_reference(target):
    need(target)
    assert compile_integers(everything(show_all=True), target).check().equal


@pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
def test_products_norms_and_movement_give_the_bits_of_the_reference(target):
    need(target)
    assert compile_integers(attention(show_all=True), target).check().equal


@pytest.mark.parametrize("target", EVERYWHERE, ids=lambda t: t.name)
def test_volumes_tables_and_wider_norms_give_the_bits_of_the_reference(target):
    need(target)
    assert compile_integers(further(show_all=True), target).check().equal


@pytest.mark.parametrize("name", ["host", "cortex-m4", "cortex-m55"])
def test_the_bits_stay_when_tensors_share_memory(name):
    """One target of each family of kernels."""
    target = next(t for t in EVERYWHERE if t.name == name)
    need(target)
    assert compile_integers(everything(), target).check().equal


FAR = scale_of(2.0**24)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("rescale", {"result": FAR}),
        ("mean", {"result": FAR}),
        ("mul", {"result": FAR}),
        ("concat", {"parts": (FAR, None), "runs": 1}),
        ("prelu", {"positive": FAR}),
    ],
)
def test_a_scale_that_moves_values_out_of_32_bits_is_refused(kind, attributes):
    b = Builder(0, (1, 1, 3))
    inputs = (b.x, b.x) if kind in {"mul", "concat"} else (b.x,)
    slopes = {"multiplier": np.full(3, 2**30, np.int32), "shift": np.zeros(3, np.int32)}
    shape = (1, 1, 6 if kind == "concat" else 3)
    b.layer(kind, inputs, b.tensor(shape), attributes, slopes if kind == "prelu" else None)
    with pytest.raises(ExportError, match=r"moved up by 25 bits.*calibration data"):
        compile_integers(b.net(), HOST)


def test_sums_that_32_bits_do_not_hold_are_refused():
    b = Builder(0, (3000, 3000, 1))
    b.layer("mean", (b.x,), b.tensor((1, 1, 1)), {"result": scale_of(1e-6)})
    with pytest.raises(ExportError, match="its sums may reach 2295000000, and 32 bits do not"):
        compile_integers(b.net(), HOST)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["host", "cortex-m4"])
def test_random_convolutions_give_the_bits_of_the_reference(seed, name):
    """The program of a board runs here too, with plain C in place of its instructions."""
    need(HOST)
    net = random_convolutions(seed)
    x = samples(net)
    found = compile_integers(net, name).run(x)[0]
    np.testing.assert_array_equal(found, execute(net, x)[net.outputs[0]])


@pytest.mark.parametrize(
    ("compiler", "name", "make"),
    [
        ("gcc", "host", everything),
        ("gcc", "host", attention),
        ("gcc", "host", further),
        ("gcc", "host", piece),
        ("gcc", "cortex-m4", everything),
        ("clang", "host", everything),
        ("clang", "cortex-m4", everything),
    ],
)
def test_the_program_has_no_warning_and_no_undefined_behaviour(tmp_path, compiler, name, make):
    target = replace(HOST, compilers=(compiler,))
    need(target)
    compile_integers(make(), name).save(tmp_path)
    flags = (*STRICT, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    built = emulator.build(target, tmp_path, ["main.c", "net.c"], flags)
    assert "equal yes" in emulator.run(target, built)


@pytest.mark.parametrize("name", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("make", [everything, lambda: one_convolution((4, 4, 8), 4, (3, 3), HALF)])
def test_clang_for_a_core_has_no_warning(tmp_path, name, make):
    if shutil.which("clang") is None or not NEWLIB.exists():
        pytest.skip("no clang, or no newlib for Cortex-M")
    compile_integers(make(), name).save(tmp_path)
    command = ["clang", "--target=arm-none-eabi", f"-mcpu={name}", "-mthumb", "-mfloat-abi=hard"]
    command += ["-isystem", str(NEWLIB), *STRICT, "-fsyntax-only", "net.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_with_scales_that_are_whole_numbers(tmp_path, language):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    net = random_convolutions(0)
    whole = {name: replace(t, scale=1.0) for name, t in net.tensors.items()}
    compile_integers(replace(net, tensors=whole), "cortex-m4").save(tmp_path)
    (tmp_path / "use.c").write_text(
        '#include "net.h"\nfloat scales(void);\n'
        "float scales(void) { return NET_INPUT_0_SCALE + NET_OUTPUT_0_SCALE; }\n"
    )
    command = ["g++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", language, "use.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def one_convolution(shape, outputs, kernel, padding, zeros=0.0):
    b = Builder(0, shape)
    b.conv(outputs, kernel, (1, 1), padding, zeros=zeros)
    return b.net()


@pytest.mark.parametrize(
    ("net", "optimize"),
    [
        (one_convolution((1, 7, 300), 500, (1, 1), ((0, 0), (0, 0))), "latency"),
        (one_convolution((4, 5, 8), 4, (1, 2), ((3, 3), (3, 4))), "ram"),
    ],
    ids=["pixels beyond the last of a row", "windows beside the image"],
)
def test_a_convolution_stays_inside_the_arena(tmp_path, net, optimize):
    target = replace(HOST, compilers=("gcc",))
    need(target)
    compile_integers(net, "host", optimize).save(tmp_path)
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    built = emulator.build(target, tmp_path, ["main.c", "net.c"], flags)
    assert "equal yes" in emulator.run(target, built)


def shifted_to_the_left(net):
    """The same layers with small weights, whose sums are multiplied by more than one."""
    layers = []
    for layer in net.layers:
        weights = dict(layer.weights)
        weights |= {"weight": np.sign(weights["weight"]), "bias": weights["bias"] // 100}
        weights["shift"] = weights["shift"] + 10
        assert (weights["shift"] > 0).any()
        layers.append(replace(layer, weights=weights))
    return replace(net, layers=tuple(layers))


@pytest.mark.parametrize("target", EVERYWHERE[:2], ids=lambda t: t.name)
def test_sums_that_are_scaled_up_give_the_bits_of_the_reference(target):
    need(target)
    b = Builder(0, (6, 5, 21))
    b.depthwise()
    b.conv(19)
    b.depthwise(kernel=(5, 5), padding=((2, 2), (2, 2)))
    assert compile_integers(shifted_to_the_left(b.net()), target).check().equal


def test_an_output_of_thousands_of_weights_gives_the_bits_of_the_reference():
    """Its count of sixteens does not fit a byte."""
    need(HOST)
    net = one_convolution((1, 4, 9000), 24, (1, 1), ((0, 0), (0, 0)), zeros=0.5)
    program, x = compile_integers(net, "cortex-m55"), samples(net)
    assert [s["encoding"] for s in json.loads(program.files["net.json"])["steps"]] == [
        "delta in sixteens"
    ]
    np.testing.assert_array_equal(program.run(x)[0], execute(net, x)[net.outputs[0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_single_output_gives_the_bits_of_the_reference_from_pairs(bits):
    """Its weights have no partner to alternate with."""
    need(HOST)
    b = Builder(0, (1, 1, 12), bits)
    b.conv(1, (1, 1), (1, 1), ((0, 0), (0, 0)))
    net, x = b.net(), b.tensors[b.input].random(np.random.default_rng(1), 3)
    program = compile_integers(net, "cortex-m4")
    assert program.steps[0].kernel.startswith("pairs")
    np.testing.assert_array_equal(program.run(x)[0], execute(net, x)[net.outputs[0]])


def test_an_output_of_more_weights_than_two_bytes_count_has_a_dense_kernel():
    net = one_convolution((1, 1, 70000), 1, (1, 1), ((0, 0), (0, 0)), zeros=0.9)
    kernels = {s.kernel for t in TARGETS.values() for s in schedule(net, t, "flash")}
    assert not kernels & SPARSE


@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_a_processor_without_newer_instructions_gives_the_same_bits(march):
    target = replace(HOST, flags=("-O2", f"-march={march}"))
    need(target)
    for make in (everything, attention):
        assert compile_integers(make(show_all=True), target).check().equal


@pytest.mark.parametrize("optimize", ["latency", "flash"])
def test_zeros_make_the_program_smaller_and_shorter(optimize):
    need(CORTEX_M4)
    programs = []
    for zeros in (0.0, 0.9):
        b = Builder(0, (16, 16, 16))
        b.conv(16, zeros=zeros)
        programs.append(compile_integers(b.net(), "cortex-m4", optimize))
    dense, sparse = programs
    assert sparse.flash_bytes < dense.flash_bytes
    assert sparse.check().count < dense.check().count / 2


@pytest.mark.parametrize(("core", "most"), [("cortex-m4", 0.6), ("cortex-m55", 0.3)])
def test_a_layer_of_nine_tenths_zeros_takes_few_instructions_per_dense_product(core, most):
    """CMSIS-NN's dense kernel takes 2.33 and 0.39 on the same layer, in the same emulator."""
    need(TARGETS[core])
    b = Builder(0, (32, 32, 16))
    b.conv(16, zeros=0.9)
    net = b.net()
    log = compile_integers(net, core).check()
    assert log.equal
    assert log.count / net.macs() < most


@pytest.mark.parametrize("name", ["host", "cortex-m55"])
@pytest.mark.parametrize("seed", range(2))
def test_sparse_convolutions_of_any_form_give_the_bits_of_the_reference(seed, name):
    """Strides, dilations, windows beyond the image, far apart and absent weights."""
    need(HOST)
    random = np.random.default_rng(seed)
    b = Builder(seed, (9, 11, 40))
    for size in ((3, 3), (1, 5), (5, 2)):
        pads = ((size[0] // 2, size[0]), (size[1] - 1, size[1] // 2))
        wide = tuple(map(int, random.integers(1, 3, 2)))
        b.conv(20, size, wide, pads, zeros=0.95, dilation=(2, int(random.integers(1, 3))))
    net = b.net()
    x = samples(net)
    for optimize in ("latency", "flash"):
        found = compile_integers(net, name, optimize).run(x)[0]
        np.testing.assert_array_equal(found, execute(net, x)[net.outputs[0]])


def test_a_dense_layer_takes_no_more_than_half_as_many_instructions_again_as_cmsis_nn():
    """CMSIS-NN: 2.33 instructions per product on the same layer, in the same emulator."""
    need(CORTEX_M4)
    b = Builder(0, (32, 32, 16))
    b.conv(16)
    net = b.net()
    assert compile_integers(net, "cortex-m4").check().count / net.macs() < 1.5 * 2.33


def test_a_residual_addition_is_written_over_the_tensor_that_it_adds():
    b = Builder(0, (16, 16, 8))
    first = b.conv(8)
    b.conv(8)
    b.add(b.x, first)
    assert compile_integers(b.net(), "host", "ram").arena_bytes < 2 * 16 * 16 * 8 + 1000


def test_a_convolution_is_written_over_its_input_as_it_is_read():
    b = Builder(0, (32, 32, 8))
    b.conv(8)
    assert compile_integers(b.net(), "host", "ram").arena_bytes < 1.2 * 32 * 32 * 8


def test_the_log_holds_every_step_and_their_sum():
    need(CORTEX_M4)
    net = everything()
    log = compile_integers(net, "cortex-m4").check()
    assert len(log.layers) == len(schedule(net, CORTEX_M4, "latency"))
    assert 0 <= log.count - sum(log.layers.values()) < 0.02 * log.count


def test_sums_of_almost_32_bits_are_rescaled_exactly():
    """The short way to multiply on a core with DSP instructions holds below 2^30."""
    need(CORTEX_M4)
    b = Builder(0, (4, 4, 4))
    b.conv(6, zeros=0.5)
    layer = b.layers[0]
    bias = np.array([2**30, -(2**30), 2**31 - 2**22, 5, -7, 2**29], np.int32)
    weights = {**layer.weights, "bias": bias, "shift": np.full(6, -22, np.int32)}
    net = IntegerNet((b.input,), (b.x,), (replace(layer, weights=weights),), b.tensors)
    for optimize in ("latency", "flash"):
        assert compile_integers(net, "cortex-m4", optimize).check().equal


@pytest.mark.parametrize("weight", [1, 0], ids=["the sum", "its zero point"])
def test_a_sum_beyond_32_bits_is_refused_with_the_layer(weight):
    b = Builder(0, (4, 4, 4))
    b.conv(4)
    layer = b.layers[0]
    weights = {**layer.weights, "weight": layer.weights["weight"] * np.int8(weight)}
    whole = {"bias": 2**31 - 2, "multiplier": 2**31 - 1, "shift": 0}
    weights |= {key: np.full(4, value, np.int32) for key, value in whole.items()}
    net = IntegerNet((b.input,), (b.x,), (replace(layer, weights=weights),), b.tensors)
    with pytest.raises(ExportError, match=r"conv_0.*32 bits"):
        compile_integers(net, "host")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"ram_bytes": 1000}, r"arena takes .* has 1,000\. .*conv_0 16,384"),
        ({"flash_bytes": 500}, r"flash, 'cortex-m4' has 500\. .*conv_0 6.*optimize='flash'"),
    ],
    ids=["arena", "flash"],
)
def test_what_is_larger_than_the_board_is_refused_with_the_layers(limit, message):
    b = Builder(0, (32, 32, 8))
    b.conv(8)
    with pytest.raises(InfeasibleError, match=message):
        compile_integers(b.net(), replace(CORTEX_M4, **limit))


def test_a_misaligned_arena_is_caught_in_debug_builds(tmp_path):
    need(HOST)
    b = Builder(0, (4, 4, 4))
    b.conv(4)
    compile_integers(b.net(), "host").save(tmp_path)
    text = (tmp_path / "main.c").read_text()
    (tmp_path / "main.c").write_text(
        text.replace("net_run(arena.bytes)", "net_run(arena.bytes + 1)")
    )
    built = emulator.build(HOST, tmp_path, ["main.c", "net.c"])
    with pytest.raises(ExportError, match="NET_ARENA_ALIGN"):
        emulator.run(HOST, built)


def test_inputs_of_different_batches_are_refused():
    b = Builder(0, (4, 4, 4))
    other = b.tensor((4, 4, 4))
    b.add(b.input, other)
    program = compile_integers(replace(b.net(), inputs=(b.input, other)))
    x = np.zeros((3, 4, 4, 4), np.float32)
    with pytest.raises(InputError, match=r"batches of \[2, 3\]"):
        program(x[:2], x)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), "shape"),
        (np.full((1, 4, 4, 4), np.nan, np.float32), "not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(values, message):
    b = Builder(0, (4, 4, 4))
    b.conv(4)
    with pytest.raises(InputError, match=message):
        compile_integers(b.net(), "host")(values)

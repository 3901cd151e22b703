"""Programs of 16-bit activations: the same bits as the reference, on every family of kernels."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from penjing.codegen import emulator
from penjing.codegen.int8 import compile_integers
from penjing.codegen.targets import CORTEX_M4, CORTEX_M55, HOST
from penjing.errors import ExportError
from penjing.quantization.integers import IntegerLayer, IntegerNet, layer_scales
from penjing.quantization.reference import execute

from .integer_nets import Builder, attention, everything, random_convolutions

STRICT = ("-Werror", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-std=c99")
UNDEFINED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")


def need(target):
    if emulator.missing(target):
        pytest.skip(emulator.missing(target))


def samples(net, count=3):
    return net.tensors[net.inputs[0]].random(np.random.default_rng(1), count)


@pytest.mark.parametrize("target", [CORTEX_M4, CORTEX_M55], ids=lambda t: t.name)
@pytest.mark.parametrize("make", [everything, attention])
def test_every_layer_of_16_bits_gives_the_bits_of_the_reference(target, make):
    need(target)
    assert compile_integers(make(show_all=True, bits=16), target).check().equal


def test_random_convolutions_of_16_bits_give_the_bits_of_the_reference():
    """The program of a board runs here too, with plain C in place of its instructions."""
    need(HOST)
    net = random_convolutions(4, bits=16)
    x = samples(net)
    (found,) = compile_integers(net, "cortex-m4").run(x)
    np.testing.assert_array_equal(found, execute(net, x)[net.outputs[0]])


def one_layer(depth, weight, bias, result):
    """A linear layer of one weight value everywhere, whose sums are as large as they get."""
    b = Builder(0, (1, 2, depth), 16)
    made = b.tensor((1, 2, 5))
    attributes = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    weights = {
        "weight": np.full((5, 1, 1, depth), weight, np.int8),
        "bias": np.full(5, bias, np.int32),
        **layer_scales(1.0, np.array([result]), 1.0, 5),
    }
    b.layer("conv", (b.x,), made, attributes, weights)
    return b.net()


@pytest.mark.parametrize("name", ["host", "cortex-m4"])
def test_sums_far_beyond_32_bits_are_exact(name):
    need(HOST)
    net = one_layer(2012, -127, 2**31 - 1, 2.0**-20)
    x = np.full((1, 1, 2, 2012), -32768, np.int16)
    (found,) = compile_integers(net, name).run(x)
    exact = (2012 * 127 * 32768 + 2**31 - 1) / 2**20
    assert abs(int(found[0, 0, 0, 0]) - exact) <= 1
    np.testing.assert_array_equal(found, execute(net, x)[net.outputs[0]])


@pytest.mark.parametrize(
    ("name", "make"), [("cortex-m4", everything), ("host", everything), ("host", attention)]
)
def test_the_program_of_16_bits_has_no_warning_and_no_undefined_behaviour(tmp_path, name, make):
    """In plain C, with the layers in the arena as they share it."""
    folder = compile_integers(make(bits=16), name).save(tmp_path)
    files = [str(folder / f) for f in ("net.c", "main.c")]
    command = [shutil.which("gcc"), *STRICT, *UNDEFINED, "-DPENJING_PLAIN", *files]
    subprocess.run([*command, "-o", str(folder / "main")], check=True)
    ran = subprocess.run([str(folder / "main")], capture_output=True, text=True, check=True)
    assert "equal yes" in ran.stdout


def test_biases_beyond_32_bits_are_refused_with_the_layer():
    net = one_layer(4, 1, 0, 1.0)
    (layer,) = net.layers
    weights = {**layer.weights, "bias": np.full(5, 2**40, np.int64)}
    wide = IntegerLayer("conv", "wide", layer.inputs, layer.output, layer.attributes, weights)
    with pytest.raises(ExportError, match=r"'wide'.* biases have 32 bits"):
        compile_integers(IntegerNet(net.inputs, net.outputs, (wide,), net.tensors))

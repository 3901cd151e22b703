"""Small forms of integer weights: lossless, the same bits in C, the smallest chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.codegen import int8_fuzz
from tests.codegen.integer_nets import Builder

from penjing.codegen import emulator
from penjing.codegen.int8 import choice, compile_integers
from penjing.codegen.int8.choice import small_forms
from penjing.codegen.int8.encodings import FARTHEST
from penjing.codegen.kernels.vectors import AVX512
from penjing.codegen.targets import HOST, TARGETS


def codes(packed, bits, count):
    """The first so many numbers of so many bits, the first in the lowest of a byte."""
    every = np.unpackbits(packed.view(np.uint8), bitorder="little").reshape(-1, bits)
    return (every << np.arange(bits)).sum(1)[:count].tolist()


def entries(listed):
    """Per output the places of its values, from the bytes alone."""
    form, grid, data = listed.form, listed.grid, listed.places.tolist()
    bundles = len(listed.weight) // form.bundle
    every = [i * grid.pitch + j for i in range(grid.rows) for j in range(grid.run)]
    if listed.shape_bits:
        rows, each, apart = grid.rows, grid.run // (form.cell or grid.run), form.cell
        if form.index == "kernels":
            rows, each, apart = 1, listed.channels, 1
        shapes = listed.offsets.tolist()
        told = codes(listed.places, listed.shape_bits, bundles * rows * each)
        for _ in range(bundles):
            found = []
            for cell in range(rows * each):
                code = told.pop(0)
                start = cell // each * grid.pitch + cell % each * apart
                found += [start + o for o in shapes[shapes[code] : shapes[code + 1]]]
            yield from [found] * form.bundle
        return
    for _ in range(bundles):
        found = every
        if form.index == "bitmap":
            size = -(-grid.run // 8)
            rows, data = data[: grid.rows * size], data[grid.rows * size :]
            found = [
                i * grid.pitch + j
                for i in range(grid.rows)
                for j in range(grid.run)
                if rows[i * size + j // 8] >> j % 8 & 1
            ]
        elif form.index in {"delta", "csr"}:
            count, data = data[0] + 256 * data[1], data[2:]
            size = 1 if form.index == "delta" else 2
            part, data = data[: size * count], data[size * count :]
            found = np.cumsum(part).tolist()
            if size == 2:
                found = [low + 256 * high for low, high in zip(part[::2], part[1::2], strict=True)]
        yield from [found] * form.bundle


@pytest.mark.parametrize("pattern", int8_fuzz.PATTERNS)
def test_every_form_of_a_weight_reads_back_as_the_weight(pattern):
    random = np.random.default_rng(0)
    b = Builder(0, (3, 100, 8))
    b.conv(8, (3, 3), zeros=0.5, dilation=(1, 2))
    net = b.net()
    for bits in (8, 2):
        weight = net.layers[0].weights["weight"]
        weight = int8_fuzz.patterned(random, weight, pattern, bits)
        layer = replace(net.layers[0], weights={**net.layers[0].weights, "weight": weight})
        forms = small_forms(replace(net, layers=(layer,)), layer)
        assert len(forms) > 5
        for listed in forms:
            there = list(entries(listed))
            values = listed.packed.astype(np.int64).tolist()
            if listed.book is not None:
                told = codes(listed.packed, listed.form.bits, sum(map(len, there)))
                values = [int(listed.book[c]) for c in told]
            found = np.zeros((len(weight), int(listed.grid.places[-1]) + 1), np.int64)
            for row, places in zip(found, there, strict=True):
                for place in places:
                    row[place] += values.pop(0)
            np.testing.assert_array_equal(found[:, listed.grid.places], listed.weight)


def test_a_gap_longer_than_a_byte_says_is_bridged():
    b = Builder(0, (1, 1, 1000))
    b.conv(2, (1, 1), (1, 1), ((0, 0), (0, 0)))
    weight = np.zeros((2, 1, 1, 1000), np.int8)
    weight[0, 0, 0, [0, FARTHEST, 2 * FARTHEST + 1, 999]] = [1, 2, 3, 4]
    layer = replace(b.layers[0], weights={**b.layers[0].weights, "weight": weight})
    forms = small_forms(replace(b.net(), layers=(layer,)), layer)
    delta = next(f for f in forms if f.form.index == "delta")
    assert delta.places.tolist() == [6, 0, 0, 255, 255, 1, 255, 233, 0, 0]


@pytest.mark.parametrize(("seed", "compiler"), [(4, "clang"), (9, "gcc")])
def test_random_forms_give_the_bits_of_the_reference_under_sanitizers(seed, compiler):
    target = replace(HOST, compilers=(compiler,))
    if emulator.missing(target):
        pytest.skip(emulator.missing(target))
    assert len(int8_fuzz.check(seed, compiler)) == 7


@pytest.mark.parametrize("flags", [("-march=native",), ("-march=haswell",)])
def test_picks_give_the_bits_of_the_reference_under_sanitizers(flags):
    """With the instructions for them where the machine has those, and without."""
    if emulator.missing(HOST):
        pytest.skip(emulator.missing(HOST))
    assert "picks" in int8_fuzz.check(2, "gcc", flags, "picks")


@pytest.mark.parametrize("kernel", ["words", "twos"])
def test_blocks_give_the_bits_of_the_reference_under_sanitizers(kernel):
    if emulator.missing(HOST):
        pytest.skip(emulator.missing(HOST))
    assert len(int8_fuzz.check(1, "gcc", ("-O1",), kernel)) > 3


@pytest.mark.parametrize(("pattern", "kernel"), [("runs", "words"), ("outputs", "twos")])
def test_blocks_take_fewer_instructions_than_the_list_of_as_many_weights(pattern, kernel):
    core = TARGETS["cortex-m4"]
    if emulator.missing(core):
        pytest.skip(emulator.missing(core))
    blocks = layer_of(pattern, shape=(8, 8, 16), outputs=16)
    weight = blocks.layers[0].weights["weight"].copy()
    np.random.default_rng(0).shuffle(weight.reshape(-1))
    layer = replace(blocks.layers[0], weights={**blocks.layers[0].weights, "weight": weight})
    programs = [compile_integers(n, core) for n in (blocks, replace(blocks, layers=(layer,)))]
    assert [p.steps[0].kernel for p in programs] == [kernel, "sparse"]
    counts = [p.check() for p in programs]
    assert all(c.equal for c in counts)
    assert counts[0].count < 0.8 * counts[1].count


@pytest.mark.parametrize(("pattern", "kernel"), [("runs", "words"), ("outputs", "twos")])
def test_the_description_names_the_encoding_of_blocks(pattern, kernel):
    step = described(compile_integers(layer_of(pattern, outputs=16), "cortex-m4"))
    assert (step["kernel"], step["encoding"]) == (kernel, f"delta in {kernel}")


@pytest.mark.parametrize(("bits", "channels"), [(16, 16), (8, 4096)], ids=["16-bit", "too wide"])
def test_forms_that_a_layer_cannot_have_are_not_described(bits, channels):
    b = Builder(0, (8, 8, channels), bits)
    b.conv(1)
    assert "encoding_bytes" not in described(compile_integers(b.net(), "cortex-m4"))


@pytest.mark.parametrize(("zeros", "dense"), [(0.6, True), (0.9, False)])
def test_a_vector_times_a_matrix_leaves_out_zeros_only_where_that_is_shorter(zeros, dense):
    b = Builder(0, (1, 1, 256))
    b.conv(64, (1, 1), (1, 1), ((0, 0), (0, 0)), zeros=zeros)
    assert (described(compile_integers(b.net(), "cortex-m4"))["kernel"] == "pairs") == dense


@pytest.mark.parametrize(("zeros", "kernel"), [(0.0, "wide"), (0.5, "picks"), (0.95, "picks")])
def test_a_machine_that_picks_bytes_leaves_out_zeros(monkeypatch, zeros, kernel):
    monkeypatch.setattr(choice, "machine", lambda _: replace(AVX512, picks=True))
    b = Builder(0, (16, 16, 64))
    b.conv(64, zeros=zeros)
    assert described(compile_integers(b.net(), "host"))["kernel"] == kernel


def layer_of(pattern, bits=8, shape=(8, 8, 16), outputs=32):
    """A convolution with zeros in a pattern."""
    random = np.random.default_rng(3)
    b = Builder(0, shape)
    b.conv(outputs)
    layer = b.layers[0]
    weight = int8_fuzz.patterned(random, layer.weights["weight"], pattern, bits)
    return replace(b.net(), layers=(replace(layer, weights={**layer.weights, "weight": weight}),))


def described(program, step=0):
    return json.loads(program.files["net.json"])["steps"][step]


@pytest.mark.parametrize(
    ("pattern", "bits", "name"),
    [
        ("element", 8, "bitmap"),
        ("outputs", 8, "block 4x1, bitmap"),
        ("runs", 8, "block 1x4"),
        ("kernels", 8, "kernel"),
        ("shapes", 8, "pattern"),
        ("all", 4, "dense + 4-bit codebook"),
        ("all", 2, "dense + 1-bit codebook"),
        ("element", 2, "bitmap + 1-bit codebook"),
    ],
)
def test_flash_takes_the_form_of_the_pattern(pattern, bits, name):
    net = layer_of(pattern, bits)
    program = compile_integers(net, "cortex-m4", "flash")
    step = described(program)
    weight = net.layers[0].weights["weight"]
    assert step["encoding"] == name
    assert name in program.table
    assert step["weight_bytes"] < min(weight.size, 2 * np.count_nonzero(weight))


def test_weights_of_four_bits_take_half_the_flash():
    sizes = [
        compile_integers(layer_of("all", bits, outputs=64), "cortex-m4", "flash").flash_bytes
        for bits in (8, 4)
    ]
    assert sizes[0] - sizes[1] > 0.48 * 64 * 9 * 16


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m55"])
def test_a_core_gives_the_bits_of_the_reference_from_small_forms(core):
    if emulator.missing(TARGETS[core]):
        pytest.skip(emulator.missing(TARGETS[core]))
    assert compile_integers(int8_fuzz.network(1), core, "flash").check().equal


def test_a_form_that_one_small_layer_wants_is_given_up_for_one_that_is_there():
    """Its function would take more than it saves."""
    b = Builder(0, (8, 8, 16))
    for _ in range(2):
        b.conv(32, zeros=0.6)
    b.conv(4, (1, 1), padding=((0, 0), (0, 0)))
    *large, small = b.layers
    blocks = int8_fuzz.patterned(b.random, small.weights["weight"], "runs")
    layers = (*large, replace(small, weights={**small.weights, "weight": blocks}))
    program = compile_integers(replace(b.net(), layers=layers), "cortex-m4", "flash")
    assert {s.listed.name for s in program.steps} == {"bitmap"}
    assert min(described(program, 2)["encoding_bytes"].items(), key=lambda i: i[1])[0] != "bitmap"

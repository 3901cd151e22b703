"""Random integer convolutions, their weights in every form, under sanitizers.

    python -m tests.codegen.int8_fuzz --seeds 0:40 --compiler clang

Sizes, strides, dilations, paddings, patterns of zeros and bits of weights are drawn; every layer of
a network takes another form than it would choose. The program must give the bits of the reference.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.codegen.integer_nets import Builder

from penjing.codegen import emulator
from penjing.codegen.int8 import choice, compile_integers, schedule
from penjing.codegen.targets import HOST

SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
STRICT = ("-Werror", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-std=c99")
PATTERNS = ("element", "outputs", "runs", "n:m", "kernels", "shapes", "rows", "none", "all")


def patterned(random, weight, pattern, bits=8):
    """A weight (outputs, rows, columns, channels) with zeros in a pattern, of few bits."""
    outs, rows, columns, ins = weight.shape
    kept = random.random(weight.shape) >= random.choice([0.3, 0.7, 0.95])
    if pattern == "outputs":  # neighbouring outputs share their zeros
        kept = np.repeat(kept[: -(-outs // 4)], 4, 0)[:outs]
    if pattern == "runs":  # neighbouring inputs
        kept = np.repeat(kept[..., : -(-ins // 4)], 4, 3)[..., :ins]
    if pattern == "n:m":
        order = random.random((outs, rows, columns, -(-ins // 4), 4)).argsort(4)
        kept = (order < 2).reshape(outs, rows, columns, -1)[..., :ins]
    if pattern == "kernels":
        kept = np.broadcast_to(kept[:, :1, :1], weight.shape)
    if pattern == "shapes":
        shapes = random.random((4, rows, columns)) < 0.5
        kept = np.moveaxis(shapes[random.integers(4, size=(outs, ins))], 1, 3)
    if pattern == "rows":
        kept = np.broadcast_to(kept[:, :1, :1, :1], weight.shape)
    if pattern in {"none", "all"}:
        kept = np.full(weight.shape, pattern == "all")
    few = {8: weight, 4: weight // 18, 2: np.sign(weight), 1: np.abs(np.sign(weight))}[bits]
    return (np.where(few == 0, 1, few) * kept).astype(np.int8)


def network(seed):
    """A chain of random convolutions, with residual additions, features and a linear layer."""
    random = np.random.default_rng(seed)
    b = Builder(seed, (*map(int, random.integers(3, 12, 2)), int(random.integers(1, 12))))
    for _ in range(6):
        kernel = tuple(map(int, random.integers(1, 4, 2)))
        dilation = tuple(map(int, random.choice([1, 1, 2], 2)))
        pads = tuple((int(k), int(random.integers(0, 3))) for k in kernel)
        stride = tuple(map(int, random.choice([1, 1, 2], 2)))
        before = b.x
        outputs = int(random.choice([4, 8, 7, 16]))
        b.conv(outputs, kernel, stride, pads, zeros=0.5, dilation=dilation)
        if b.tensors[b.x].shape == b.tensors[before].shape:
            b.add(b.x, before)
    b.features()
    b.conv(int(random.integers(1, 40)), (1, 1), (1, 1), ((0, 0), (0, 0)), zeros=0.7)
    layers = []
    for layer in b.net().layers:
        if layer.kind == "conv":
            bits, pattern = int(random.choice([8, 4, 2, 1])), str(random.choice(PATTERNS))
            weight = patterned(random, layer.weights["weight"], pattern, bits)
            layer = replace(layer, weights={**layer.weights, "weight": weight})
        layers.append(layer)
    return replace(b.net(), layers=tuple(layers))


def any_form(random):
    """A choice of one of all forms of every layer, at random."""

    def choose(net, target, optimize):
        found = dict(choice.choose(net, target, optimize))
        for layer in net.layers:
            if layer.name in found:
                forms = choice.small_forms(net, layer)
                form = forms[int(random.integers(len(forms)))]
                found[layer.name] = choice.Choice("listed", form.size_bytes, form)
        return found

    return choose


def only(kernel):
    """A choice of one kernel for every layer that it can compute."""

    def takes(layer):
        if kernel == "picks":
            return layer.attributes["dilation"][1] == 1
        return kernel != "words" or layer.weights["weight"].shape[3] % 4 == 0

    def choose(net, target, optimize):
        found = dict(choice.choose(net, target, optimize))
        able = [la.name for la in net.layers if la.name in found and takes(la)]
        return found | dict.fromkeys(able, choice.Choice(kernel, 0))

    return choose


def check(seed, compiler="gcc", flags=(), kernel="listed"):
    """Build the network of a seed under sanitizers and compare; how its weights are written."""
    build_for = replace(HOST, compilers=(compiler,), flags=tuple(flags) or HOST.flags)
    listed = kernel == "listed"
    forms = any_form(np.random.default_rng(seed)) if listed else only(kernel)
    target = "host" if kernel == "picks" else "cortex-m4"
    old, schedule.choose = schedule.choose, forms
    try:
        program = compile_integers(network(seed), target, "flash" if listed else "latency")
    finally:
        schedule.choose = old
    with tempfile.TemporaryDirectory() as folder:
        program.save(folder)
        built = emulator.build(build_for, Path(folder), ["main.c", "net.c"], (*STRICT, *SANITIZED))
        assert "equal yes" in emulator.run(build_for, built), f"seed {seed} differs"
    steps = [s for s in program.steps if s.kernel == kernel]
    return [s.kernel if s.listed is None else s.listed.name for s in steps]


def main():
    """Check a range of seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--compiler", default="gcc")
    parser.add_argument("--flags", nargs="*", default=[])
    parser.add_argument("--kernel", default="listed", help="or picks, words, twos")
    given = parser.parse_args()
    first, last = map(int, given.seeds.split(":"))
    for seed in range(first, last):
        print(seed, check(seed, given.compiler, given.flags, given.kernel), flush=True)


if __name__ == "__main__":
    main()

"""Random layers, every kernel that takes them, each tensor in memory of its own that is watched.

    python -m tests.codegen.kernels.fuzz --seeds 0:40 --compiler clang

Sizes, strides, dilations, paddings, groups, zeros and borders are drawn; the program of a seed is
built with the address and undefined-behaviour sanitizers, every tensor ends where its memory ends,
and what a kernel must not write is compared afterwards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from tests.codegen.kernels.layers import activated, body_of
from torch.nn import functional as F

from penjing.codegen.ir import RELU, RELU6, Activation, Layer, Net, Tensor
from penjing.codegen.kernel import Kernel, Room
from penjing.codegen.kernels import compact_kernels, host_kernels
from penjing.codegen.kernels.standalone import HEADER, Alone, alone, view
from penjing.codegen.targets import HOST, Target

SANITIZED = ("-O1", "-g0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TOLERANCE = 4e-6  # of the largest value: single precision sums of a few hundred terms
ACTIVATIONS = (None, RELU, RELU6, Activation("leaky_relu", (0.1,)), Activation("silu"))
SPARSITIES = (0.0, 0.5, 0.9, 1.0)
KERNELS_OF_A_LAYER = 3


@dataclass(frozen=True)
class Case:
    """A kernel, a layer, and what each of its outputs should be."""

    name: str
    kernel: Kernel
    net: Net
    inputs: tuple[np.ndarray, ...]
    want: tuple[np.ndarray, ...]
    target: Target = HOST

    @property
    def layer(self) -> Layer:
        """The only one."""
        return self.net.layers[0]


Made = tuple[Net, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
"""A net of one layer, its inputs and outputs."""


def cases(seed: int, layers: int) -> list[Case]:
    """Random layers with a few of the kernels that take them, for one thread or more."""
    random = np.random.RandomState(seed)
    found = []
    kernels = (*host_kernels(), *compact_kernels())
    for i in range(layers):
        make = (_conv, _conv, _conv, _linear, _mean, _recurrent)[random.randint(6)]
        net, inputs, want = make(random, f"layer_{seed}_{i}")
        target = replace(HOST, threads=int(random.choice([1, 1, 2, 3])))
        able = [k for k in kernels if k.takes(net, net.layers[0], target)]
        for j, k in enumerate(random.permutation(len(able))[:KERNELS_OF_A_LAYER]):
            layer = replace(net.layers[0], name=f"{net.layers[0].name}_{j}")
            one = replace(net, layers=(layer,))
            found.append(Case(layer.name, able[k], one, inputs, want, target))
    return found


def _weight(random: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers, some of them zero: anywhere, whole rows, or in a few places."""
    weight = random.randn(*shape).astype(np.float32)
    weight *= random.rand(*shape) >= random.choice(SPARSITIES)
    if random.rand() < 0.3:
        weight[random.rand(len(weight)) < 0.5] = 0.0
    if random.rand() < 0.2:
        weight = np.round(2 * weight).clip(-3, 3)
    return weight.astype(np.float32)


def _conv(random: np.random.RandomState, name: str) -> Made:
    rank = random.randint(1, 3)
    groups = int(random.choice([1, 1, 1, 2, 3]))
    channels, each = groups * random.randint(1, 9), random.randint(1, 7)
    if random.rand() < 0.25:
        groups, each = channels, random.randint(1, 3)
    draw = {
        "kernel": random.choice([1, 2, 3, 3, 5], rank), "stride": random.choice([1, 1, 2, 3], rank),
        "dilation": random.choice([1, 1, 2, 3], rank), "size": random.randint(1, 41, rank),
    }  # fmt: skip
    kernel, stride, dilation, size = ([int(v) for v in d] for d in draw.values())
    pads = [(int(a), int(b)) for a, b in random.randint(0, 4, (rank, 2))]
    if random.rand() < 0.5:  # the plainest
        dilation, pads = [1] * rank, [(k // 2, k // 2) for k in kernel]
    for d in range(rank):
        size[d] = max(size[d], dilation[d] * (kernel[d] - 1) + 1 - sum(pads[d]))
    x = random.randn(random.choice([1, 1, 2, 3]), channels, *size).astype(np.float32)
    weight = _weight(random, (groups * each, channels // groups, *kernel))
    bias = random.randn(groups * each).astype(np.float32) if random.rand() < 0.8 else None
    wide = F.pad(torch.from_numpy(x).double(), [v for pair in pads[::-1] for v in pair])
    op = (F.conv1d, F.conv2d)[rank - 1]
    held = None if bias is None else torch.from_numpy(bias).double()
    want = op(wide, torch.from_numpy(weight).double(), held, stride, 0, dilation, groups)
    attributes = {
        "stride": tuple(stride), "padding": tuple(pads), "dilation": tuple(dilation),
        "groups": groups,
    }  # fmt: skip
    return _net(random, name, "conv", (x, weight, bias, want), attributes)


def _linear(random: np.random.RandomState, name: str) -> Made:
    rows, ins, outs = random.randint(1, 20), random.randint(1, 300), random.randint(1, 80)
    rows = 1 if random.rand() < 0.4 else rows
    x = random.randn(rows, ins).astype(np.float32)
    x *= random.rand(rows, ins) >= random.choice(SPARSITIES)
    weight = _weight(random, (outs, ins))
    bias = random.randn(outs).astype(np.float32) if random.rand() < 0.8 else None
    want = torch.from_numpy(x).double() @ torch.from_numpy(weight).double().T
    if bias is not None:
        want = want + torch.from_numpy(bias).double()
    return _net(random, name, "linear", (x, weight, bias, want), {})


def _mean(random: np.random.RandomState, name: str) -> Made:
    shape = tuple(int(v) for v in random.randint(1, 30, random.choice([3, 4])))
    x, mode = random.randn(*shape).astype(np.float32), str(random.choice(["sum", "mean"]))
    dims = tuple(range(2, len(shape)))
    want = torch.from_numpy(x).double().sum(dims, keepdim=True)
    want = want / prod(shape[2:]) if mode == "mean" else want
    layer = Layer("reduce", name, ("x",), ("y",), {"mode": mode, "dims": dims})
    tensors = {"x": Tensor("x", shape), "y": Tensor("y", tuple(want.shape))}
    return Net(("x",), ("y",), (layer,), tensors), (x,), (want.numpy(),)


def _recurrent(random: np.random.RandomState, name: str) -> Made:
    kind, gates = (("gru", 3), ("lstm", 4))[random.randint(2)]
    length, batch, hidden = random.randint(1, 5), random.randint(1, 20), random.randint(1, 40)
    p = random.randn(length, batch, gates * hidden).astype(np.float32)
    states = random.uniform(-1, 1, (gates - 2, batch, hidden)).astype(np.float32)
    weight = _weight(random, (gates * hidden, hidden)) / np.float32(np.sqrt(hidden))
    bias = random.randn(gates * hidden).astype(np.float32) if kind == "gru" else None
    reverse = bool(random.randint(2))
    steps, last = _stepped(p, states, (weight, bias), reverse=reverse)
    ins, outs = ("p", "h", "c")[: gates - 1], ("y", "h_end", "c_end")[: gates - 1]
    weights = {"weight": weight, "bias": bias}
    layer = Layer(kind, name, ins, outs, {"reverse": reverse}, weights)
    inputs, want = (p, *states), (steps, *last)
    shapes = zip((*ins, *outs), (*inputs, *want), strict=True)
    tensors = {n: Tensor(n, value.shape) for n, value in shapes}
    return Net(ins, outs, (layer,), tensors), inputs, want


def _stepped(
    p: np.ndarray,
    states: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray | None],
    *,
    reverse: bool,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All steps of a GRU (one state) or an LSTM (two), and the last states."""
    weight, bias = (None if w is None else w.astype(np.float64) for w in weights)
    h, *cell = states.astype(np.float64)
    steps = np.empty((*p.shape[:2], h.shape[-1]))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    for t in range(len(p))[:: -1 if reverse else 1]:
        given = np.split(p[t].astype(np.float64), len(weight) // h.shape[-1], axis=1)
        made = np.split(h @ weight.T + (0 if bias is None else bias), len(given), axis=1)
        if cell:
            i, f, n, o = (a + b for a, b in zip(given, made, strict=True))
            cell = [sigmoid(f) * cell[0] + sigmoid(i) * np.tanh(n)]
            h = sigmoid(o) * np.tanh(cell[0])
        else:
            r, q = (sigmoid(a + b) for a, b in zip(given[:2], made[:2], strict=True))
            h = (1 - q) * np.tanh(given[2] + r * made[2]) + q * h
        steps[t] = h
    return steps, [h, *cell]


def _net(
    random: np.random.RandomState,
    name: str,
    kind: str,
    made: tuple[np.ndarray, np.ndarray, np.ndarray | None, torch.Tensor],
    attributes: dict[str, object],
) -> Made:
    """The layer, perhaps with a residual and an activation."""
    x, weight, bias, want = made
    act = ACTIVATIONS[random.randint(len(ACTIVATIONS))]
    inputs = [x]
    if random.rand() < 0.4:
        inputs.append(random.randn(*want.shape).astype(np.float32))
        want = want + torch.from_numpy(inputs[1]).double()
    names = tuple("xz"[: len(inputs)])
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    layer = Layer(kind, name, names, ("y",), {**attributes, "activation": act}, weights)
    shapes = [*(v.shape for v in inputs), tuple(want.shape)]
    tensors = {n: Tensor(n, s) for n, s in zip((*names, "y"), shapes, strict=True)}
    tensors["x"] = replace(tensors["x"], zeros=float((x == 0).mean()))
    return Net(names, ("y",), (layer,), tensors), tuple(inputs), (activated(want, act).numpy(),)


@dataclass(frozen=True)
class Roomy:
    """A kernel whose tensors get more border than it asks for, as where several share one."""

    kernel: Kernel
    more: int

    def needs(self, net: Net, layer: Layer, target: Target, /) -> object:
        """What the kernel needs, and more."""
        found = self.kernel.needs(net, layer, target)
        inputs, outputs = (tuple(map(self._wider, r)) for r in (found.inputs, found.outputs))
        return replace(found, inputs=inputs, outputs=outputs)

    def _wider(self, room: Room) -> Room:
        if not room.loose or room.touching or room.order is None:
            return room
        rank = len(room.order) - 2
        border = ((0, 0),) * (rank - len(room.border)) + room.border
        return replace(room, border=tuple((a + self.more, b + self.more) for a, b in border))

    def emit(self, site: object, /) -> object:
        """As the kernel."""
        return self.kernel.emit(site)  # type: ignore[arg-type] # passed on


MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
static void *held(FILE *file, size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes) || fread(memory, 1, bytes, file) != bytes) exit(3);
    return memory;
}
static void run(FILE *in, FILE *out, void (*layer)(void *const *), const size_t *bytes, int n,
                int first) {
    void *memory[8];
    for (int i = 0; i < n; i++) memory[i] = held(in, bytes[i]);
    layer(memory);
    for (int i = first; i < n - 1; i++) fwrite(memory[i], 1, bytes[i], out);
    for (int i = 0; i < n; i++) free(memory[i]);
}
"""


def failures(found: Sequence[Case], folder: Path, compiler: str, flags: Sequence[str]) -> list[str]:
    """Run the cases in one program; what differs, or what the sanitizers say."""
    programs = [
        alone(Roomy(c.kernel, i % 3), c.net, c.layer, c.target, c.name)  # type: ignore[arg-type]
        for i, c in enumerate(found)
    ]
    functions = {k: v for p in programs for k, v in p.code.functions.items()}
    memory = [p.buffers(c.inputs) for p, c in zip(programs, found, strict=True)]
    for case, buffers in zip(found, memory, strict=True):
        for output in buffers[len(case.inputs) : -1]:
            output[...] = np.nan  # what is not written stays so
    calls = ""
    for case, buffers in zip(found, memory, strict=True):
        sizes = ", ".join(str(b.nbytes) for b in buffers)
        calls += (
            f"    {{ const size_t bytes[] = {{{sizes}}}; "
            f'fprintf(stderr, "{case.name}\\n"); '
            f"run(in, out, {case.name}, bytes, {len(buffers)}, {len(case.inputs)}); }}\n"
        )
    text = HEADER + "".join(functions.values()) + "".join(map(body_of, programs)) + MAIN
    text += (
        'int main(void) {\n    FILE *in = fopen("in", "rb"), *out = fopen("out", "wb");\n'
        f"    if (!in || !out) return 3;\n{calls}    fclose(in), fclose(out);\n    return 0;\n}}\n"
    )
    (folder / "fuzz.c").write_text("#define _POSIX_C_SOURCE 200112L\n" + text)
    (folder / "in").write_bytes(b"".join(b.tobytes() for buffers in memory for b in buffers))
    command = [compiler, *flags, "-std=gnu11", "fuzz.c", "-o", "fuzz", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    told = subprocess.run(["./fuzz"], cwd=folder, capture_output=True, text=True)
    if told.returncode:
        return [told.stderr[-4000:]]
    return _differences(found, programs, memory, (folder / "out").read_bytes())


def _differences(
    found: Sequence[Case], programs: Sequence[Alone], memory: list[list[np.ndarray]], raw: bytes
) -> list[str]:
    told, at = [], 0
    for case, program, buffers in zip(found, programs, memory, strict=True):
        for place, buffer, want in zip(
            program.places[len(case.inputs) :], buffers[len(case.inputs) : -1], case.want,
            strict=True,
        ):  # fmt: skip
            got = np.frombuffer(raw, np.float32, buffer.size, at).copy()
            at += got.nbytes
            worst = float(np.abs(view(got, place) - want).max() / max(1.0, np.abs(want).max()))
            if not worst < TOLERANCE:
                told.append(f"{case.name}: {case.kernel} differs by {worst}: {_said(case)}")
            view(got, place)[...] = np.nan
            if not np.isnan(got).all():
                told.append(f"{case.name}: {case.kernel} writes where it must not: {_said(case)}")
    return told


def _said(case: Case) -> str:
    shapes = {n: t.shape for n, t in case.net.tensors.items()}
    weight = case.layer.weights.get("weight")
    return f"{shapes}, {None if weight is None else weight.shape}, {case.layer.attributes}"


def main() -> None:
    """Run the seeds and print what fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:20")
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--compiler", default="gcc")
    parser.add_argument("--flags", default="-march=native -ffp-contract=fast")
    given = parser.parse_args()
    os.environ["ASAN_OPTIONS"] = "detect_leaks=0"
    first, last = map(int, given.seeds.split(":"))
    for seed in range(first, last):
        found = cases(seed, given.layers)
        with tempfile.TemporaryDirectory() as folder:
            flags = [*SANITIZED, *given.flags.split()]
            told = failures(found, Path(folder), given.compiler, flags)
        print(f"seed {seed}: {len(found)} kernels, {len(told)} failures", flush=True)
        for line in told:
            print(line, flush=True)


if __name__ == "__main__":
    main()

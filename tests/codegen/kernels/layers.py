"""Single layers, their reference in double precision, and programs of many of them."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from penjing.codegen.ir import RELU, RELU6, Activation, Layer, Net, Tensor
from penjing.codegen.kernel import Kernel
from penjing.codegen.kernels import PlaneMean
from penjing.codegen.kernels.standalone import HEADER, Alone, alone, view
from penjing.codegen.targets import HOST

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-std=c99")


@dataclass(frozen=True)
class Case:
    """A kernel, a layer, its inputs and what it should give."""

    name: str
    kernel: Kernel
    net: Net
    layer: Layer
    inputs: tuple[np.ndarray, ...]
    want: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Conv:
    """Sizes of a convolution; defaults are the plainest."""

    batch: int = 1
    channels: int = 5
    filters: int = 7
    size: tuple[int, ...] = (9, 9)
    kernel: tuple[int, ...] = (3, 3)
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    sparsity: float = 0.8
    pattern: str = "element"
    values: int | None = None
    empty_rows: bool = False
    bias: bool = True
    residual: bool = False
    activation: Activation | None = RELU6


def mask(
    random: np.random.RandomState, shape: tuple[int, ...], sparsity: float, pattern: str
) -> np.ndarray:
    """What stays: "element", "RxC" (outputs by inputs), "kernel", "n:m", or "shapes" (of four)."""
    if pattern == "element":
        return random.rand(*shape) >= sparsity
    if pattern == "shapes":
        shapes = random.rand(4, *shape[2:]) >= 0.5
        return shapes[random.randint(4, size=shape[:2])]
    if pattern == "kernel":
        return np.broadcast_to((random.rand(*shape[:2]) >= sparsity)[..., None, None], shape)
    if ":" in pattern:
        keep, of = map(int, pattern.split(":"))
        runs = random.rand(shape[0], -(-shape[1] // of), of, *shape[2:])
        best = runs.argsort(2).argsort(2) < keep
        return best.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]
    rows, columns = map(int, pattern.split("x"))
    blocks = random.rand(-(-shape[0] // rows), -(-shape[1] // columns), *shape[2:]) >= sparsity
    return blocks.repeat(rows, 0).repeat(columns, 1)[: shape[0], : shape[1]]


def conv_case(name: str, kernel: Kernel, conv: Conv, seed: int = 0) -> Case:
    """A case with random weights and inputs."""
    random, rank = np.random.RandomState(seed), len(conv.size)
    shape = (conv.filters, conv.channels // conv.groups, *conv.kernel)
    weight = random.randn(*shape).astype(np.float32)
    if conv.values is not None:
        weight = random.randint(1, conv.values, shape).astype(np.float32) / 4
    weight *= mask(random, shape, conv.sparsity, conv.pattern)
    if conv.empty_rows:
        weight[::2] = 0.0
    bias = random.randn(conv.filters).astype(np.float32) if conv.bias else None
    x = random.randn(conv.batch, conv.channels, *conv.size).astype(np.float32)
    op = (F.conv1d, F.conv2d)[rank - 1]
    want = op(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        conv.stride, conv.padding, conv.dilation, conv.groups,
    )  # fmt: skip
    inputs = [x]
    if conv.residual:
        inputs.append(random.randn(*want.shape).astype(np.float32))
        want = want + torch.from_numpy(inputs[1]).double()
    attributes = {
        "stride": (conv.stride,) * rank, "padding": ((conv.padding, conv.padding),) * rank,
        "dilation": (conv.dilation,) * rank, "groups": conv.groups, "activation": conv.activation,
    }  # fmt: skip
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    layer = Layer("conv", name, tuple("xz"[: len(inputs)]), ("y",), attributes, weights)
    return _case(kernel, layer, inputs, activated(want, conv.activation))


def linear_case(
    name: str,
    kernel: Kernel,
    sizes: tuple[int, int, int],
    sparsity: float,
    *,
    residual: bool = False,
    pattern: str = "element",
) -> Case:
    """A linear layer of (rows, inputs, outputs) with ReLU."""
    random = np.random.RandomState(0)
    rows, ins, outs = sizes
    weight = random.randn(outs, ins).astype(np.float32)
    weight *= mask(random, (outs, ins), sparsity, pattern)
    bias = random.randn(outs).astype(np.float32)
    inputs = [random.randn(rows, ins).astype(np.float32)]
    want = torch.from_numpy(inputs[0]).double() @ torch.from_numpy(weight).double().T
    want = want + torch.from_numpy(bias).double()
    if residual:
        inputs.append(random.randn(rows, outs).astype(np.float32))
        want = want + torch.from_numpy(inputs[1]).double()
    weights = {"weight": weight, "bias": bias}
    layer = Layer("linear", name, tuple("xz"[: len(inputs)]), ("y",), {"activation": RELU}, weights)
    return _case(kernel, layer, inputs, activated(want, RELU))


def mean_case(name: str, shape: tuple[int, ...], mode: str) -> Case:
    """The mean or sum of every plane."""
    x = np.random.RandomState(0).randn(*shape).astype(np.float32)
    dims = tuple(range(2, len(shape)))
    want = torch.from_numpy(x).double().sum(dims, keepdim=True)
    want = want / np.prod(shape[2:]) if mode == "mean" else want
    layer = Layer("reduce", name, ("x",), ("y",), {"mode": mode, "dims": dims})
    return _case(PlaneMean(), layer, [x], want)


def _case(kernel: Kernel, layer: Layer, inputs: Sequence[np.ndarray], want: torch.Tensor) -> Case:
    tensors = {n: Tensor(n, v.shape) for n, v in zip(layer.inputs, inputs, strict=True)}
    tensors["y"] = Tensor("y", tuple(want.shape))
    net = Net(layer.inputs, ("y",), (layer,), tensors)
    return Case(layer.name, kernel, net, layer, tuple(inputs), want.numpy())


def activated(x: torch.Tensor, activation: Activation | None) -> torch.Tensor:
    """The reference of an activation."""
    if activation is None:
        return x
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "clamp": torch.clamp, "leaky_relu": F.leaky_relu, "hardswish": F.hardswish,
        "hardsigmoid": F.hardsigmoid, "silu": F.silu,
    }  # fmt: skip
    return functions[activation.kind](x, *activation.values)


def build(cases: Sequence[Case], folder: Path, flags: Sequence[str], compiler: str = "gcc") -> dict:
    """One library of all cases; name -> difference of its result from the reference.

    The slack behind every tensor and the scratch memory are not numbers when a call begins, and
    the results may not show it.
    """
    programs = {c.name: alone(c.kernel, c.net, c.layer, HOST, c.name) for c in cases}
    functions = {k: v for p in programs.values() for k, v in p.code.functions.items()}
    text = HEADER + "".join(functions.values()) + "".join(body_of(p) for p in programs.values())
    source, library = folder / "kernels.c", folder / f"kernels_{compiler}.so"
    source.write_text(text)
    subprocess.run(
        [compiler, *flags, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True
    )
    loaded = ctypes.CDLL(str(library))
    return {c.name: difference(c, programs[c.name], loaded) for c in cases}


def body_of(program: Alone) -> str:
    """The program without the functions that all share."""
    text = program.source.removeprefix(HEADER)
    for function in program.code.functions.values():
        text = text.replace(function, "", 1)
    return text


def difference(case: Case, program: Alone, loaded: ctypes.CDLL) -> float:
    """Largest difference, relative to the largest value."""
    buffers = program.buffers(case.inputs)
    pointers = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
    getattr(loaded, case.name)(pointers)
    got = view(buffers[len(program.places) - 1], program.places[-1])
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - case.want).max() / max(1.0, np.abs(case.want).max()))

"""Gram matrices of what a linear layer reads, and of what its output should be.

A convolution, transposed convolution or linear layer is one matrix per convolution group, applied
to the rows of a patch matrix. This module says what the rows and the matrix are, and sums products
of rows over a stream of samples.

Suffixes: B = samples, G = convolution groups, R = rows (output positions), U = unknowns of one
group (kernel positions x input channels of the group, channels fastest), V = outputs of one group,
K = kernel positions, C = channels, O = outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program

ROWS_AT_ONCE = 8192  # rows of one float32 product before it is added in float64

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One linear layer of a graph, as a matrix on patches.

    Args:
        node: Name of its node.
        source: Name of the node it reads.
        weight: Qualified name of its weight.
        bias: Qualified name of its bias, if it has one.
        kernel: Kernel size; empty for a linear layer.
        stride: Stride, of the same length.
        padding: Zeros (before, after) each spatial dimension; negative ones crop.
        dilation: Dilation.
        upsample: Zeros between inputs plus one: the stride of a transposed convolution, ones
            otherwise.
        groups: Convolution groups.
        transposed: Whether the weight is laid out and flipped as in a transposed convolution.
    """

    node: str
    source: str
    weight: str
    bias: str | None = None
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    upsample: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    @property
    def input_dim(self) -> int:
        """Dimension of the weight along which input channels lie."""
        return 0 if self.transposed else 1

    @property
    def channel_dim(self) -> int:
        """Dimension of its output along which output channels lie."""
        return 1 if self.kernel else -1

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as matrices `(G, V, U)` that multiply patches."""
        if not self.kernel:
            return weight[None]
        spatial = tuple(range(2, weight.dim()))
        if self.transposed:
            w_GCVK = weight.flip(spatial).reshape(
                self.groups, -1, weight.shape[1], math.prod(self.kernel)
            )
            return w_GCVK.permute(0, 2, 3, 1).flatten(2)
        w_GVCK = weight.reshape(self.groups, -1, weight.shape[1], math.prod(self.kernel))
        return w_GVCK.transpose(2, 3).flatten(2)

    def tensor(self, matrix: Tensor) -> Tensor:
        """The weight whose `matrix` this is."""
        if not self.kernel:
            return matrix[0]
        w_GVKC = matrix.unflatten(2, (math.prod(self.kernel), -1))
        if self.transposed:
            w_COk: Tensor = w_GVKC.permute(0, 3, 1, 2).flatten(0, 1).unflatten(2, self.kernel)
            return w_COk.flip(tuple(range(2, w_COk.dim()))).contiguous()
        w_OCk: Tensor = w_GVKC.transpose(2, 3).flatten(0, 1).unflatten(2, self.kernel)
        return w_OCk.contiguous()

    def columns(self, positions: Sequence[int], channels: int) -> list[int]:
        """Columns of the matrix that belong to positions of the weight's input dimension.

        Args:
            positions: Positions along `input_dim`, all of one convolution group where the layer is
                transposed.
            channels: Size of the weight along `input_dim`.

        Returns:
            Column indices within a group.
        """
        width = channels // self.groups if self.transposed else channels
        taps = math.prod(self.kernel)
        return [tap * width + position % width for position in positions for tap in range(taps)]


def layers(program: Program) -> tuple[dict[str, Layer], dict[str, str]]:
    """Every linear layer of a program whose weight is stored.

    Args:
        program: Captured network, or its cut form.

    Returns:
        Layers by node name in the order of the graph; and, for compute nodes that are none, the
        reason by node name.
    """
    found: dict[str, Layer] = {}
    refused: dict[str, str] = {}
    for node in program.graph.nodes:
        name = op_name(node)
        if name not in {"linear", *_CONVOLUTIONS, *_TRANSPOSED}:
            continue
        call = Call(node)
        weight, bias = call.arg("weight"), call.arg("bias")
        if weight.name not in program.stored or (
            bias is not None and bias.name not in program.stored
        ):
            refused[node.name] = "its weight is computed by the network, not stored"
            continue
        layer = Layer(
            node=node.name,
            source=call.arg("input").name,
            weight=program.stored[weight.name],
            bias=None if bias is None else program.stored[bias.name],
        )
        found[node.name] = (
            layer if name == "linear" else _convolution(layer, call, program.tensors[layer.weight])
        )
    return found, refused


def _convolution(layer: Layer, call: Call, weight: Tensor) -> Layer:
    """Complete the description of a convolution."""
    kernel = tuple(int(k) for k in weight.shape[2:])
    dims = len(kernel)

    def each(key: str, default: int) -> tuple[int, ...]:
        values = call.arg(key)
        values = (
            [default] if values is None else [values] if isinstance(values, int) else list(values)
        )
        return tuple(values * dims if len(values) == 1 else values)

    stride, dilation = each("stride", 1), each("dilation", 1)
    span = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    base = replace(
        layer,
        kernel=kernel,
        dilation=dilation,
        groups=int(call.arg("groups", 1)),
        upsample=(1,) * dims,
    )
    if call.name in _TRANSPOSED or call.arg("transposed"):
        extra = each("output_padding", 0)
        padding = [
            (s - p, s - p + e) for s, p, e in zip(span, each("padding", 0), extra, strict=True)
        ]
        return replace(
            base, stride=(1,) * dims, padding=tuple(padding), upsample=stride, transposed=True
        )
    if call.arg("padding") == "same":
        padding = [(s // 2, s - s // 2) for s in span]
    elif call.arg("padding") == "valid":
        padding = [(0, 0)] * dims
    else:
        padding = [(p, p) for p in each("padding", 0)]
    return replace(base, stride=stride, padding=tuple(padding))


def patches(layer: Layer, x: Tensor) -> Tensor:
    """View of the patches a layer reads.

    Args:
        layer: The layer.
        x: Its input.

    Returns:
        `(rows..., K..., C)` for a convolution, rows being `(B, output positions...)`, overlapping
        in memory; `(rows..., C)` for a linear layer.
    """
    if not layer.kernel:
        return x if x.dim() > 1 else x[None]
    if x.dim() == len(layer.kernel) + 1:
        x = x[None]
    if any(u > 1 for u in layer.upsample):
        sizes = [(s - 1) * u + 1 for s, u in zip(x.shape[2:], layer.upsample, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *sizes)
        lattice = tuple(slice(None, None, u) for u in layer.upsample)
        spread[(slice(None), slice(None), *lattice)] = x
        x = spread
    padding = [p for pair in reversed(layer.padding) for p in pair]
    x_BsC = F.pad(x, padding).movedim(1, -1).contiguous()
    sizes = [
        (x_BsC.shape[i + 1] - d * (k - 1) - 1) // s + 1
        for i, (k, s, d) in enumerate(zip(layer.kernel, layer.stride, layer.dilation, strict=True))
    ]
    steps = x_BsC.stride()
    inner = range(1, len(layer.kernel) + 1)
    return x_BsC.as_strided(
        (len(x_BsC), *sizes, *layer.kernel, x_BsC.shape[-1]),
        (
            steps[0],
            *(steps[i] * layer.stride[i - 1] for i in inner),
            *(steps[i] * layer.dilation[i - 1] for i in inner),
            1,
        ),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Which output positions of a batch are looked at.

    Args:
        index: Index per leading dimension of `patches`, each `(R,)`; None takes every position.
    """

    index: tuple[Tensor, ...] | None

    @classmethod
    def choose(cls, sizes: Sequence[int], each: int, generator: torch.Generator) -> Self:
        """Pick `each` positions at random in every sample, or all when there are not more.

        Args:
            sizes: `(samples, output positions...)`.
            each: Positions per sample.
            generator: Source of randomness, on the CPU.
        """
        count = math.prod(sizes[1:])
        if each >= count:
            return cls(None)
        flat = torch.rand(sizes[0], count, generator=generator).argsort(1)[:, :each].flatten()
        samples = torch.arange(sizes[0]).repeat_interleave(each)
        return cls((samples, *torch.unravel_index(flat, tuple(sizes[1:]))))

    def inputs(self, layer: Layer, view: Tensor) -> Tensor:
        """Rows of the patch matrix from `patches`, `(G, R, U)`."""
        lead = view.dim() - len(layer.kernel) - 1
        rows = (
            view.flatten(0, lead - 1)
            if self.index is None
            else view[tuple(i.to(view.device) for i in self.index)]
        )
        if layer.groups == 1:
            return rows.flatten(1)[None]
        rows_RKGc = (
            rows.flatten(1, -2).unflatten(-1, (layer.groups, -1))
            if layer.kernel
            else rows[:, None, None]
        )
        return rows_RKGc.permute(2, 0, 1, 3).flatten(2)

    def outputs(self, layer: Layer, y: Tensor) -> Tensor:
        """The same rows of a tensor shaped like the layer's output, `(G, R, V)`."""
        if layer.kernel:
            y = (y if y.dim() > len(layer.kernel) + 1 else y[None]).movedim(1, -1)
        elif y.dim() == 1:
            y = y[None]
        index = None if self.index is None else tuple(i.to(y.device) for i in self.index)
        rows: Tensor = (y.flatten(0, -2) if index is None else y[index]).unflatten(
            1, (layer.groups, -1)
        )
        return rows.movedim(1, 0)


@dataclass(slots=True)
class Gram:
    """Sums over rows, in float64: everything that least squares with an intercept needs.

    Args:
        xx: Products of inputs `(G, U, U)`.
        x: Inputs `(G, U)`.
        xy: Products of inputs and wanted outputs `(G, U, V)`; V is 0 when there are none.
        y: Wanted outputs `(G, V)`.
        yy: Their squares `(G, V)`.
        rows: Number of rows.
    """

    xx: Tensor
    x: Tensor
    xy: Tensor
    y: Tensor
    yy: Tensor
    rows: int = 0

    @classmethod
    def zeros(
        cls, groups: int, unknowns: int, outputs: int = 0, device: torch.device | str = "cpu"
    ) -> Self:
        """Empty sums."""

        def make(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        return cls(
            make(unknowns, unknowns),
            make(unknowns),
            make(unknowns, outputs),
            make(outputs),
            make(outputs),
        )

    def add(self, x_GRU: Tensor, y_GRV: Tensor | None = None) -> None:
        """Add rows in place."""
        for start in range(0, x_GRU.shape[1], ROWS_AT_ONCE):
            x = _at_least_float32(x_GRU[:, start : start + ROWS_AT_ONCE])
            self.xx += (x.mT @ x).double()
            self.x += x.double().sum(1)
            self.rows += x.shape[1]
            if y_GRV is not None:
                y = _at_least_float32(y_GRV[:, start : start + ROWS_AT_ONCE]).to(x.dtype)
                self.xy += (x.mT @ y).double()
                self.y += y.double().sum(1)
                self.yy += y.double().square().sum(1)

    def __add__(self, other: Gram) -> Gram:
        return Gram(
            self.xx + other.xx,
            self.x + other.x,
            self.xy + other.xy,
            self.y + other.y,
            self.yy + other.yy,
            self.rows + other.rows,
        )

    def centred(self) -> Gram:
        """The same sums about the means: what is left when a free intercept has taken its share."""
        n = max(self.rows, 1)
        return Gram(
            self.xx - self.x[:, :, None] * self.x[:, None, :] / n,
            torch.zeros_like(self.x),
            self.xy - self.x[:, :, None] * self.y[:, None, :] / n,
            torch.zeros_like(self.y),
            (self.yy - self.y.square() / n).clamp_min(0),
            self.rows,
        )

    def squared_error(self, w_GVU: Tensor, bias_GV: Tensor | None = None) -> Tensor:
        """Sum of squared errors of `x @ w.T + bias` against y, per output `(G, V)`."""
        fit = (
            self.yy - 2 * (w_GVU * self.xy.mT).sum(2) + ((w_GVU @ self.xx) * w_GVU).sum(2)
        ).clamp_min(0)
        if bias_GV is None:
            return fit
        inner = torch.einsum("gvu,gu->gv", w_GVU, self.x) - self.y
        return (fit + 2 * bias_GV * inner + self.rows * bias_GV.square()).clamp_min(0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in {torch.float32, torch.float64} else x.float()


def rows_per_sample(unknowns: int, samples: int, per_unknown: float, least: int = 1) -> int:
    """Positions to look at in each sample so that there are `per_unknown` rows for each unknown.

    Example:
        >>> rows_per_sample(unknowns=100, samples=50, per_unknown=20)
        40
    """
    return max(least, math.ceil(unknowns * per_unknown / max(samples, 1)))


def add_inputs(
    gram: Gram, layer: Layer, values: Iterable[Tensor], each: int, generator: torch.Generator
) -> None:
    """Add what a layer reads to its sums, in place.

    Args:
        gram: Sums over its rows.
        layer: The layer.
        values: What it reads, batch after batch.
        each: Output positions of every sample that are looked at.
        generator: Draws them, on the CPU.
    """
    for value in values:
        view = patches(layer, value)
        lead = view.shape[: view.dim() - len(layer.kernel) - 1]
        gram.add(Rows.choose(lead, each, generator).inputs(layer, view))

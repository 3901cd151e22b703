"""The compiler's own form of a network: static shapes, plain data, no torch.

A `Net` is a list of layers in an order in which they can run. Layers name their tensors; a tensor
knows shape and type, never where it lies: layout and memory are planned later, per tensor, from
what the chosen kernels need.

Kinds of layers and what they carry (weights by name, then attributes):

    conv            weight (O, I/g, *k), bias (O,)?   stride, padding, dilation, groups, activation
    conv_transpose  weight (I, O/g, *k), bias (O,)?   stride, padding, dilation, groups, activation
    linear          weight (O, K), bias (O,)?         activation
    matmul          two inputs (..., M, K), (..., K, N); batch dimensions broadcast; scale
    pool            kind "max" | "average"            kernel, stride, padding, dilation, divisor
    map             an expression over inputs that broadcast, see `expression`
    reduce          kind "sum" | "mean" | "max" | "min", dims
    move            every output element is one of the input's or a fill: index, fill
    concat          dim
    topk            the largest values in order   dim
    others          softmax, normalize, attention, lstm, gru, embedding, resize, copy

`conv`, `conv_transpose` and `linear` compute `activation(sum + bias + residual)`; the residual is a
second input of the output's shape. `padding` is `(before, after)` per spatial dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any, Literal

import numpy as np

DType = Literal["f32", "i8", "i16", "i32", "u8"]

WIDTHS: Mapping[str, int] = {"f32": 4, "i8": 1, "i16": 2, "i32": 4, "u8": 1}
C_TYPES: Mapping[str, str] = {
    "f32": "float",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "u8": "uint8_t",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that one call computes or is given.

    Args:
        name: Unique in the net; the graph node that made it, where there is one.
        shape: Static, the batch included.
        dtype: Of one element.
        grid: Quantization grid of integers that stand for reals; None for floats and indices.
        zeros: Share of zeros in the example: what pays is chosen by it, no result depends on it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType = "f32"
    grid: Any = None
    zeros: float = 0.0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes without any padding."""
        return self.elements * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class Activation:
    """A scalar function applied to what a layer computed.

    Args:
        kind: "clamp" (low, high), "leaky_relu" (slope), "elu" (alpha), or without values "sigmoid",
            "tanh", "silu", "gelu", "gelu_tanh", "hardswish", "hardsigmoid".
        values: Parameters in that order.
    """

    kind: str
    values: tuple[float, ...] = ()


RELU = Activation("clamp", (0.0, inf))
RELU6 = Activation("clamp", (0.0, 6.0))


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a net.

    Args:
        kind: What it computes, see the module's docstring.
        name: Unique in the net, a C identifier.
        inputs: Names of tensors, constants included.
        outputs: Names of tensors.
        attributes: Numbers, tuples, `Activation`; by name.
        weights: Arrays that belong to this layer alone; by name.
        source: Qualified name of the module's weight, or the op, for messages and reports.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    source: str = ""

    @property
    def activation(self) -> Activation | None:
        """The fused activation, if any."""
        found: Activation | None = self.attributes.get("activation")
        return found


@dataclass(frozen=True, slots=True)
class Net:
    """A network to compile.

    Args:
        inputs: Names of the tensors that the caller gives, in the order of the call.
        outputs: Names of the tensors that the caller gets.
        layers: In an order in which they can run.
        tensors: Every tensor by name.
        constants: Values of the tensors that never change, by name.
        states: Pairs (read, written) of tensors that a stream carries from call to call.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    states: tuple[tuple[str, str], ...] = ()

    def producers(self) -> dict[str, Layer]:
        """The layer that makes each tensor."""
        return {name: layer for layer in self.layers for name in layer.outputs}

    def readers(self) -> dict[str, list[Layer]]:
        """The layers that read each tensor, in order; a layer is listed once per tensor."""
        found: dict[str, list[Layer]] = {name: [] for name in self.tensors}
        for layer in self.layers:
            for name in dict.fromkeys(layer.inputs):
                found[name].append(layer)
        return found

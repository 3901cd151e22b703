"""An integer network as plain data: what the reference computes and the compiler writes as C.

Everything is int8, or all activations int16, with channels last. A tensor has the shape (height,
width, channels), the batch left out: features are (1, 1, C), a sequence is (1, length, C). A layer
holds integers only; its real scales have become multipliers and shifts (`formats.Multiplier`).
Kinds and what they hold:

    conv        weight (O, kh, kw, I/g) int8, bias (O,) int32, multiplier (O,), shift (O,) int32;
                stride, padding ((top, bottom), (left, right)), dilation, groups
    depthwise   weight (kh, kw, C) int8; the rest as conv
    volume      as conv, over volumes: weight (O, kd, kh, kw, I/g); stride, padding and dilation
                have three entries; planes (of the input, of the result), whose rows lie one plane
                below the other
    conv_transpose  as conv; padding is what is left out of the result on each side
    matmul      first (B, M, K), second (B, K, N); result
    add         left and right: (multiplier, shift), negative to subtract; result: (multiplier,
                shift)
    mul         result; the second input may be (1, 1, C)
    average     kernel, stride, padding, which counts for nothing; on the input's own grid
    mean        or a sum, over height and width; result
    max         kernel, stride, padding
    lookup      table (256,) int8, by q + 128; (513,) int16 for 16 bits, see `table_of_16`
    image       table (C, 256) int8, by the byte that the bits of the input are
    prelu       positive: (multiplier, shift) of what is not negative; multiplier, shift (C,) of
                the rest
    embedding   table (rows, C) int8, by the 32-bit numbers that the input's bytes are
    rescale     result; to another grid
    concat      runs: how many each part is cut into, which then take turns; parts: one (multiplier,
                shift) each, None where grids agree
    softmax     over the channels; multiplier, shift, least (smallest difference that counts);
                mask (1 or H, W, C) int8, if there is one: where it is 0 the result is 0;
                of 16 bits: multiplier, shift; exponential and reciprocal (513,) int16
    layer_norm  over runs of n bytes, the channels or more; gain and offset (n,) int32, shift,
                epsilon (see `norm_scales`); centred, 0 for an RMS norm, which takes no mean away
    group_norm  over the positions and channels of each of so many groups; gain and offset (C,)
                int32, shift, epsilon
    gru         all steps of one direction of (1, T, I) from a state of zero, on the grid of
                `recurrence.STATE`; input (R, I) and state (R, H) int8, R being 3 H in torch's
                order; input_bias, state_bias, input_multiplier, input_shift, state_multiplier,
                state_shift (R,) int32; sigmoid and tanh (257,) int16; reverse; cell_bits (of lstm)
    lstm        as gru, R being 4 H
    rnn         as gru, R being H, without sigmoid
    carry       the state, which is the end of the last piece, and then the input along the width;
                the end of both is the next state
    resize      rows and columns (results, 2) int32: the first of two neighbours, and the share of
                the second in units of 2^-RESIZE_BITS
    pad         padding, channels (before, after); filled with the zero point
    move        counts and strides of nested loops over the input's bytes, offset of the first

In a stream, `gru`, `lstm` and `rnn` have a state too: 16 bits for each hidden unit, low byte first
(not of rnn), then 8. It is named by the attribute `state`.

`low` and `high` clamp the result of conv, volume, depthwise, add, mul and average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.quantization.formats import Multiplier

Shape = tuple[int, int, int]
Scale = tuple[int, int]
"""A multiplier and its shift."""

BYTE = 8
WIDE = 16
"""Bits of the activations of a network that does not have 8."""

NARROW = frozenset({"volume", "image", "prelu", "embedding", "group_norm", "gru", "lstm", "rnn"})
"""Kinds whose activations have 8 bits."""

EXP_RANGE = 10.0
"""Below the largest logit by this, a softmax of 16 bits takes the exponential for that of -10."""

TABLE_STEPS = 512
"""Straight pieces of a function of 16 bits."""

RESIZE_BITS = 11
"""Fractional bits of the share that a neighbour has in an interpolated value."""

NORM_BITS = 20
"""Fractional bits of a value of mean 0 and variance 1."""

OFFSET_BITS = 16
"""Fractional bits of what a layer norm adds, in steps of its result."""

_MOST_GAIN_BITS = 26  # so that the offset, moved up to the products, fits 62 bits
_SOFTMAX_BITS = 5  # integer bits of a scaled difference of logits
LOW, HIGH = -128, 127


@dataclass(frozen=True, slots=True)
class IntegerTensor:
    """An int8 tensor, channels last.

    Args:
        name: Unique in the net.
        shape: Height, width, channels.
        scale: Of its grid.
        zero_point: Of its grid.
        given: Shape in the network it comes from, the batch left out.
        channels_first: Whether that network has channels before the rest.
        batch: Dimension of the samples in that network.
        bits: 8 or 16.
        numbers: How many different numbers it may hold, from 0 on, if these are no values of a grid
            but 32-bit integers; their four bytes, low first, are then the channels.
    """

    name: str
    shape: Shape
    scale: float
    zero_point: int
    given: tuple[int, ...]
    channels_first: bool
    batch: int = 0
    bits: int = BYTE
    numbers: int = 0

    @property
    def size_bytes(self) -> int:
        """One byte per element, or two."""
        return math.prod(self.shape) * self.bits // BYTE

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its integers."""
        return np.dtype(np.int8 if self.bits == BYTE else np.int16)

    @property
    def low(self) -> int:
        """Smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest integer."""
        return (1 << (self.bits - 1)) - 1

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """A batch in the network's own layout, samples first and channels last."""
        values = np.moveaxis(values, self.batch, 0)
        if self.numbers:
            values = np.ascontiguousarray(values.astype("<i4")).view(np.int8)
        if self.channels_first and len(self.given) > 1:
            values = np.moveaxis(values, 1, -1)
        return np.ascontiguousarray(values.reshape(len(values), *self.shape))

    def restore(self, values: NDArray[Any]) -> NDArray[Any]:
        """The reverse of `arrange`."""
        if not self.channels_first or len(self.given) == 1:
            found = values.reshape(len(values), *self.given)
        else:
            channels, *rest = self.given
            found = np.moveaxis(values.reshape(len(values), *rest, channels), -1, 1)
        return np.ascontiguousarray(np.moveaxis(found, 0, self.batch))

    def quantize(self, values: NDArray[Any]) -> NDArray[Any]:
        """Floats in any layout as integers of the grid, halves away from zero; numbers stay."""
        if self.numbers:
            return values
        steps = values.astype(np.float32) / np.float32(self.scale)
        whole = np.trunc(steps)
        whole = whole + np.sign(steps) * (np.abs(steps - whole) >= 0.5)
        found: NDArray[Any] = np.clip(whole + self.zero_point, self.low, self.high)
        return found.astype(self.dtype)

    def random(self, generator: np.random.Generator, count: int) -> NDArray[Any]:
        """Samples of any integers, or numbers that it may hold, `(count, H, W, C)`."""
        if self.numbers:
            chosen = generator.integers(0, self.numbers, (count, *self.shape[:-1])).astype("<i4")
            return chosen.view(np.int8).reshape(count, *self.shape)
        drawn = generator.integers(self.low, self.high + 1, (count, *self.shape))
        return drawn.astype(self.dtype)

    def dequantize(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Integers of the grid as floats."""
        centred = values.astype(np.float32) - np.float32(self.zero_point)
        return centred * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """One step of an integer network.

    Args:
        kind: See the module's docstring.
        name: Unique in the net, a C identifier.
        inputs: Names of tensors.
        output: Name of the tensor that it makes.
        attributes: Numbers and tuples, by name.
        weights: Arrays, by name.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IntegerNet:
    """A network in integers.

    Args:
        inputs: Names of the tensors that are given.
        outputs: Names of the tensors that are wanted.
        layers: In an order in which they can run.
        tensors: Every tensor by name.
        constants: Values of those that are stored, `(H, W, C)`.
        states: Of a stream, what it keeps from one call to the next; zeros at its start.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[IntegerLayer, ...]
    tensors: Mapping[str, IntegerTensor]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    states: Mapping[str, IntegerTensor] = field(default_factory=dict)

    def macs(self) -> int:
        """Multiply-accumulates of layers and matrix products, zeros included."""
        return sum(self._macs(layer) for layer in self.layers)

    def _macs(self, layer: IntegerLayer) -> int:
        height, width, channels = self.tensors[layer.output].shape
        if layer.kind == "matmul":
            return height * width * channels * self.tensors[layer.inputs[0]].shape[2]
        if layer.kind == "conv_transpose":
            rows, columns, _ = self.tensors[layer.inputs[0]].shape
            return int(rows * columns * layer.weights["weight"].size)
        if layer.kind in {"gru", "lstm", "rnn"}:
            return width * sum(layer.weights[side].size for side in ("input", "state"))
        if layer.kind not in {"conv", "depthwise", "volume"}:
            return 0
        weight = layer.weights["weight"]
        each = weight.size if layer.kind == "depthwise" else weight[0].size * channels
        return int(height * width * each)


def scale_of(real: float) -> Scale:
    """A real number as multiplier and shift."""
    found = Multiplier.of(real)
    return found.multiplier, found.shift


def layer_scales(
    source: float, weights: NDArray[np.float64], result: float, channels: int
) -> dict[str, NDArray[np.int32]]:
    """Multiplier and shift of every output channel of a layer.

    Args:
        source: Scale of the input.
        weights: Scales of the weight, one or one per channel.
        result: Scale of the output.
        channels: Number of output channels.

    Returns:
        `multiplier` and `shift`, each `(channels,)`.
    """
    real = np.broadcast_to(source * weights / result, (channels,))
    pairs = [scale_of(float(r)) for r in real]
    return {
        "multiplier": np.array([p[0] for p in pairs], np.int32),
        "shift": np.array([p[1] for p in pairs], np.int32),
    }


def add_shift(bits: int) -> int:
    """Bits by which the inputs of an addition are moved up before they are rescaled."""
    return 20 if bits == BYTE else 15


def add_scales(left: float, right: float, result: float, bits: int = BYTE) -> dict[str, Scale]:
    """Multipliers of an addition of two grids.

    Source:
        TensorFlow Lite, `PopulateAddParams`: both inputs are moved up by 20 bits (15 where they
        have 16), brought to twice the larger scale, added, and brought to the scale of the result.
    """
    twice = 2.0 * max(left, right)
    return {
        "left": scale_of(left / twice),
        "right": scale_of(right / twice),
        "result": scale_of(twice / (2 ** add_shift(bits) * result)),
    }


def softmax_scales(scale: float, beta: float = 1.0) -> dict[str, int]:
    """Multiplier, shift and least difference of a softmax over logits of a scale.

    Source:
        TensorFlow Lite, `PreprocessSoftmaxScaling` and `CalculateInputRadius`.
    """
    real = min(beta * scale * 2 ** (31 - _SOFTMAX_BITS), 2.0**31 - 1)
    multiplier, shift = scale_of(real)
    radius = ((1 << _SOFTMAX_BITS) - 1) * (1 << (31 - _SOFTMAX_BITS)) // (1 << shift)
    return {"multiplier": multiplier, "shift": shift, "least": -radius}


def softmax_scales_16(
    scale: float, beta: float = 1.0
) -> tuple[dict[str, int], dict[str, NDArray[np.int16]]]:
    """Attributes and tables of a softmax over logits of 16 bits.

    Differences from the largest logit are brought to steps of 10 / 65535; `exponential` is the
    table of exp on [-10, 0], `reciprocal` that of 1 / (1 + x) on [0, 1], both with 15 fractional
    bits.

    Source:
        TensorFlow Lite, `SoftmaxPrepare` for int16.
    """
    multiplier, shift = scale_of(beta * scale * (2**WIDE - 1) / EXP_RANGE)
    step, share = 1 / TABLE_STEPS, 2.0 ** -(WIDE - 1)
    return {"multiplier": multiplier, "shift": shift}, {
        "exponential": _pieces(np.exp, -EXP_RANGE, EXP_RANGE * step, share),
        "reciprocal": _pieces(lambda x: 1 / (1 + x), 0.0, step, share),
    }


def norm_scales(
    source: float,
    result: float,
    eps: float,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    count: int | None = None,
) -> tuple[dict[str, int], dict[str, NDArray[np.int32]]]:
    """Attributes and weights of a layer norm in fixed point.

    With n values q, `d = n q - sum(q)` and `v = n sum(q^2) - sum(q)^2`, a value of mean 0 and
    variance 1 is `d / sqrt(v + epsilon)`, taken with `NORM_BITS` fractional bits; the result is
    `gain` times it plus `offset`, `gain` having `shift` fractional bits. An RMS norm has
    `d = n (q - zero_point)` and `v = n sum((q - zero_point)^2)`.

    Args:
        source: Scale of the input.
        result: Scale of the output.
        eps: What is added to the variance.
        weight: Gains, `(n,)`, or of as many values as have one each.
        bias: Offsets, as many.
        count: n, where values share gains.

    Returns:
        `epsilon` and `shift`; `gain` and `offset`.
    """
    gains, offsets = weight / result, bias / result * 2**OFFSET_BITS
    largest = max(float(np.abs(gains).max()), 2.0**-20)
    shift = min(_MOST_GAIN_BITS, 30 - math.frexp(largest)[1])
    limit = 2**31 - 1
    return (
        {"epsilon": round(eps * (count or len(weight)) ** 2 / source**2), "shift": shift},
        {
            "gain": np.clip(np.round(gains * 2.0**shift), -limit, limit).astype(np.int32),
            "offset": np.clip(np.round(offsets), -limit, limit).astype(np.int32),
        },
    )


def table_of(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    source: IntegerTensor,
    scale: float,
    zero_point: int,
) -> NDArray[np.int8]:
    """A scalar function as a table over all 256 values of its input.

    Args:
        function: Of float64 arrays.
        source: The input.
        scale: Of the output.
        zero_point: Of the output.

    Returns:
        Outputs by q + 128, rounded with halves away from zero.
    """
    inputs = (np.arange(LOW, HIGH + 1) - source.zero_point) * source.scale
    steps = function(inputs.astype(np.float64)) / scale
    rounded = _away(steps)
    table: NDArray[np.int8] = np.clip(rounded + zero_point, LOW, HIGH).astype(np.int8)
    return table


def table_of_16(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], source: float, scale: float
) -> NDArray[np.int16]:
    """A scalar function of 16 bits as 513 points, between which lines run.

    Args:
        function: Of float64 arrays.
        source: Scale of the input.
        scale: Of the output.

    Returns:
        Outputs at every 128th integer, each moved by half the error that the line behind it has in
        its middle. The result at q is `t + (((u - t) * (q mod 128) + 64) >> 7)`, `t` and `u` being
        the points `256 + (q >> 7)` and the next.

    Source:
        TensorFlow Lite, `LUTPopulateInt16` and `LUTLookup`; there in float32, and over the range
        from the smallest integer to the largest, so that zero is between two points.

    Example:
        >>> table_of_16(lambda x: x, 1.0, 2.0)[[0, 256, 512]].tolist()
        [-16384, 0, 16384]
    """
    step = source * 2**WIDE / TABLE_STEPS
    return _pieces(function, -step * TABLE_STEPS / 2, step, scale)


def _pieces(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    first: float,
    step: float,
    scale: float,
) -> NDArray[np.int16]:
    """The points of a table, `step` apart."""
    low, high = -(2 ** (WIDE - 1)), 2 ** (WIDE - 1) - 1
    at = first + step * np.arange(TABLE_STEPS + 1, dtype=np.float64)
    points = function(at) / scale
    halfway: NDArray[np.float64] = at[:-1] + step / 2
    rounded, middle = _away(points), _away(function(halfway) / scale)
    line = _away((points[1:] + rounded[:-1]) / 2)
    moved = np.append(rounded[:-1] - _away((line - middle) / 2), rounded[-1])
    table: NDArray[np.int16] = np.clip(moved, low, high).astype(np.int16)
    return table


def _away(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded, halves away from zero."""
    return np.sign(x) * np.floor(np.abs(x) + 0.5)


def extent(size: int, kernel: int, stride: int, padding: Sequence[int], dilation: int = 1) -> int:
    """Positions of a window along one dimension."""
    return (size + sum(padding) - (dilation * (kernel - 1) + 1)) // stride + 1

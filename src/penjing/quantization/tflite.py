"""Integer networks of TensorFlow Lite files, 8 or 16x8 bits, read into the integer form.

A reader of its own for the few tables that are needed: the format is a flatbuffer, which is offsets
into one array of bytes. Nothing in the file is trusted; what does not fit is an error.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import SourceError
from penjing.quantization.integers import (
    BYTE,
    WIDE,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    Scale,
    Shape,
    add_scales,
    extent,
    layer_scales,
    scale_of,
    softmax_scales,
    softmax_scales_16,
)

_INT8, _INT16, _INT32 = 9, 7, 2
_SAME = 0
_DTYPES: Mapping[int, Any] = {
    0: np.float32,
    _INT32: np.int32,
    3: np.uint8,
    4: np.int64,
    _INT16: np.int16,
    _INT8: np.int8,
}


class _Table:
    """A table of a flatbuffer: fields by number."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.index = at - self._read("<i", at)
        self.length = self._read("<H", self.index)

    def _read(self, code: str, at: int) -> Any:
        return struct.unpack_from(code, self.data, at)[0]

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        offset = self._read("<H", self.index + entry) if entry < self.length else 0
        return self.at + offset if offset else 0

    def number(self, field: int, code: str, default: float = 0) -> Any:
        place = self._place(field)
        return self._read("<" + code, place) if place else default

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self.data, place + self._read("<I", place)) if place else None

    def array(self, field: int, dtype: Any) -> NDArray[Any]:
        place = self._place(field)
        if not place:
            return np.empty(0, dtype)
        start = place + self._read("<I", place)
        return np.frombuffer(self.data, dtype, self._read("<I", start), start + 4)

    def tables(self, field: int) -> list[_Table]:
        place = self._place(field)
        if not place:
            return []
        start = place + self._read("<I", place)
        spots = range(start + 4, start + 4 + 4 * self._read("<I", start), 4)
        return [_Table(self.data, spot + self._read("<I", spot)) for spot in spots]


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    data: NDArray[Any]
    scales: NDArray[np.float64]
    zero_points: NDArray[np.int64]

    @property
    def scale(self) -> float:
        return float(self.scales[0])

    @property
    def bits(self) -> int:
        return WIDE if self.kind == _INT16 else BYTE

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0])


@dataclass(frozen=True, slots=True)
class _Op:
    """One operator while it is read."""

    name: str
    inputs: tuple[int, ...]
    output: int
    options: _Table | None
    tensors: Sequence[_Tensor]

    def tensor(self, position: int) -> _Tensor:
        return self.tensors[self.inputs[position]]

    @property
    def result(self) -> _Tensor:
        return self.tensors[self.output]

    def option(self, field: int, code: str, default: float = 0) -> Any:
        return default if self.options is None else self.options.number(field, code, default)


def read_tflite(path: str | Path) -> IntegerNet:
    """Read an integer network.

    Args:
        path: A .tflite file whose inputs, outputs and operators are all int8, or all int16 with
            int8 weights.

    Returns:
        The network in its integer form; its inputs and outputs are channels last.

    Raises:
        SourceError: The file cannot be read, or has an operator or type that is not known here.
    """
    data = Path(path).read_bytes()
    try:
        if data[4:8] != b"TFL3":
            raise SourceError(f"{path} is no TensorFlow Lite file")
        return _net(_Table(data, struct.unpack_from("<I", data)[0]), str(path))
    except (struct.error, IndexError, ValueError) as error:
        raise SourceError(f"{path} is damaged: {error}") from error


def _net(model: _Table, path: str) -> IntegerNet:
    graph = model.tables(2)[0]
    buffers = [b.array(0, np.uint8) for b in model.tables(4)]
    tensors = [_tensor(t, buffers) for t in graph.tables(0)]
    codes = [max(c.number(0, "b"), c.number(3, "i")) for c in model.tables(1)]
    layers: list[IntegerLayer] = []
    same: dict[int, int] = {}
    for number, op in enumerate(graph.tables(3)):
        code = codes[op.number(0, "I")]
        reads = tuple(same.get(int(i), int(i)) for i in op.array(1, np.int32))
        wanted = int(op.array(2, np.int32)[0])
        if code == _RESHAPE:
            same[wanted] = reads[0]
            continue
        if code not in _OPERATORS:
            raise SourceError(
                f"{path}: operator {number} has the code {code}, which has no integer form here"
            )
        layers.append(_OPERATORS[code](_Op(f"layer_{number}", reads, wanted, op.table(4), tensors)))
    inputs = [int(i) for i in graph.array(1, np.int32)]
    outputs = [same.get(int(i), int(i)) for i in graph.array(2, np.int32)]
    numbers = {*inputs, *outputs, *(int(n[1:]) for la in layers for n in (*la.inputs, la.output))}
    return IntegerNet(
        tuple(f"t{i}" for i in inputs),
        tuple(f"t{i}" for i in outputs),
        tuple(layers),
        {f"t{i}": _integer_tensor(i, tensors[i], path) for i in sorted(numbers)},
    )


def _tensor(table: _Table, buffers: Sequence[NDArray[Any]]) -> _Tensor:
    kind = int(table.number(1, "b"))
    raw = buffers[table.number(2, "I")]
    shape = tuple(int(s) for s in table.array(0, np.int32))
    grid = table.table(4)
    scales = np.empty(0) if grid is None else grid.array(2, np.float32).astype(np.float64)
    zeros = np.empty(0, np.int64) if grid is None else grid.array(3, np.int64)
    values = raw.view(_DTYPES[kind]).reshape(shape) if len(raw) and kind in _DTYPES else raw
    return _Tensor(shape, kind, values, scales, zeros)


def _integer_tensor(number: int, tensor: _Tensor, path: str) -> IntegerTensor:
    if tensor.kind not in {_INT8, _INT16} or not len(tensor.scales):
        raise SourceError(f"{path}: tensor {number} is neither int8 nor int16 with a scale")
    if tensor.kind == _INT16 and tensor.zero_point:
        raise SourceError(f"{path}: tensor {number} is int16 with a zero point; it has to be 0")
    shape = _channels_last(tensor.shape)
    return IntegerTensor(
        f"t{number}", shape, tensor.scale, tensor.zero_point, tensor.shape[1:], False,
        bits=tensor.bits,
    )  # fmt: skip


def _channels_last(shape: tuple[int, ...]) -> Shape:
    rest = shape[1:]
    if len(rest) > 3:
        raise SourceError(f"a tensor of shape {shape} has more than three dimensions")
    height, width, channels = (*(1,) * (3 - len(rest)), *rest)
    return height, width, channels


def _clamp(op: _Op, activation: int) -> dict[str, int]:
    scale, zero = op.result.scale, op.result.zero_point
    ranges = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
    if activation not in ranges:
        raise SourceError(f"{op.name}: activation {activation} has no integer form here")
    low, high = ranges[activation]
    highest = (1 << (op.result.bits - 1)) - 1
    lowest = -highest - 1
    return {
        "low": lowest if low is None else max(lowest, zero + round(low / scale)),
        "high": highest if high is None else min(highest, zero + round(high / scale)),
    }


def _window(op: _Op, kernel: tuple[int, int], dilation: tuple[int, int]) -> dict[str, Any]:
    """Stride and padding of an operator whose options begin with padding and strides."""
    stride = (op.option(2, "i", 1), op.option(1, "i", 1))
    sizes = op.tensor(0).shape[1:3]
    padding = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        reach = d * (k - 1) + 1
        total = max((-(-size // s) - 1) * s + reach - size, 0) if op.option(0, "b") == _SAME else 0
        padding.append((total // 2, total - total // 2))
    found = tuple(
        extent(size, k, s, p, d)
        for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True)
    )
    if found != op.result.shape[1:3]:
        raise SourceError(f"{op.name}: its output is {op.result.shape}, its window makes {found}")
    return {"stride": stride, "padding": tuple(padding)}


def _weighted(op: _Op, channels: int) -> dict[str, NDArray[Any]]:
    weight = op.tensor(1)
    if weight.kind != _INT8 or weight.zero_points.any():
        raise SourceError(f"{op.name}: its weight is not symmetric int8")
    has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
    bias = op.tensor(2).data if has_bias else np.zeros(channels, np.int32)
    scales = layer_scales(op.tensor(0).scale, weight.scales, op.result.scale, channels)
    return {"bias": bias, **scales}


def _layer(
    op: _Op,
    kind: str,
    attributes: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]] | None = None,
    reads: int = 1,
) -> IntegerLayer:
    inputs = tuple(f"t{i}" for i in op.inputs[:reads])
    return IntegerLayer(kind, op.name, inputs, f"t{op.output}", attributes, weights or {})


def _conv(op: _Op) -> IntegerLayer:
    weight = op.tensor(1).data
    dilation = (op.option(5, "i", 1), op.option(4, "i", 1))
    window = _window(op, weight.shape[1:3], dilation)
    groups = op.tensor(0).shape[3] // weight.shape[3]
    attributes = {**window, "dilation": dilation, "groups": groups, **_clamp(op, op.option(3, "b"))}
    return _layer(op, "conv", attributes, {"weight": weight, **_weighted(op, len(weight))})


def _depthwise(op: _Op) -> IntegerLayer:
    weight = op.tensor(1).data[0]
    channels = weight.shape[2]
    dilation = (op.option(6, "i", 1), op.option(5, "i", 1))
    window = _window(op, weight.shape[:2], dilation)
    attributes = {**window, "dilation": dilation, **_clamp(op, op.option(4, "b"))}
    weights = {"weight": weight, **_weighted(op, channels)}
    if op.tensor(0).shape[3] == channels:
        return _layer(op, "depthwise", attributes, weights)
    groups = op.tensor(0).shape[3]
    weights["weight"] = np.ascontiguousarray(np.moveaxis(weight, 2, 0)[..., None])
    return _layer(op, "conv", {**attributes, "groups": groups}, weights)


def _fully_connected(op: _Op) -> IntegerLayer:
    weight = op.tensor(1).data
    attributes = {
        "stride": (1, 1),
        "padding": ((0, 0), (0, 0)),
        "dilation": (1, 1),
        "groups": 1,
        **_clamp(op, op.option(0, "b")),
    }
    rows = np.ascontiguousarray(weight[:, None, None, :])
    return _layer(op, "conv", attributes, {"weight": rows, **_weighted(op, len(weight))})


def _add(op: _Op) -> IntegerLayer:
    scales = add_scales(op.tensor(0).scale, op.tensor(1).scale, op.result.scale, op.result.bits)
    return _layer(op, "add", {**scales, **_clamp(op, op.option(0, "b"))}, reads=2)


def _mul(op: _Op) -> IntegerLayer:
    real = op.tensor(0).scale * op.tensor(1).scale / op.result.scale
    return _layer(op, "mul", {"result": scale_of(real), **_clamp(op, op.option(0, "b"))}, reads=2)


def _pool(kind: str) -> Callable[[_Op], IntegerLayer]:
    def read(op: _Op) -> IntegerLayer:
        kernel = (op.option(4, "i"), op.option(3, "i"))
        window = _window(op, kernel, (1, 1))
        return _layer(op, kind, {"kernel": kernel, **window, **_clamp(op, op.option(5, "b"))})

    return read


def _mean(op: _Op) -> IntegerLayer:
    source = op.tensor(0)
    axes = {int(a) % len(source.shape) for a in np.atleast_1d(op.tensor(1).data)}
    if len(source.shape) != 4 or axes != {1, 2}:
        raise SourceError(f"{op.name}: a mean over dimensions {sorted(axes)} has no form here")
    real = source.scale / (source.shape[1] * source.shape[2] * op.result.scale)
    return _layer(op, "mean", {"result": scale_of(real)})


def _concat(op: _Op) -> IntegerLayer:
    axis = op.option(0, "i")
    if axis % len(op.result.shape) != len(op.result.shape) - 1:
        raise SourceError(f"{op.name}: a concatenation along dimension {axis} has no form here")
    parts: list[Scale | None] = []
    for i in op.inputs:
        part = op.tensors[i]
        same = (part.scale, part.zero_point) == (op.result.scale, op.result.zero_point)
        parts.append(None if same else scale_of(part.scale / op.result.scale))
    runs = math.prod(op.result.shape[:-1])
    return _layer(op, "concat", {"parts": tuple(parts), "runs": runs}, reads=len(op.inputs))


def _softmax(op: _Op) -> IntegerLayer:
    scale, beta = op.tensor(0).scale, op.option(0, "f")
    if op.result.bits == WIDE:
        return _layer(op, "softmax", *softmax_scales_16(scale, beta))
    return _layer(op, "softmax", softmax_scales(scale, beta))


_RESHAPE = 22
_OPERATORS: Mapping[int, Callable[[_Op], IntegerLayer]] = {
    0: _add,
    1: _pool("average"),
    2: _concat,
    3: _conv,
    4: _depthwise,
    9: _fully_connected,
    17: _pool("max"),
    18: _mul,
    25: _softmax,
    40: _mean,
}

"""Linear layers and convolutions in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, op_name
from penjing.graph.folding import stored_names
from penjing.quantization.formats import MOST_WIDE_SHIFT
from penjing.quantization.integers import WIDE, Shape, extent, layer_scales
from penjing.quantization.lowering.builder import (
    NO_PADDING,
    Builder,
    Padding,
    around,
    pair,
    shape_of,
)

_AXES = "DHW"  # of a volume


def lower(b: Builder, node: fx.Node) -> None:
    """A layer with a weight."""
    name = op_name(node)
    if name == "linear":
        _linear(b, node)
    elif name in {"conv1d", "conv2d"}:
        _conv(b, node)
    elif name == "conv3d":
        _volume(b, node)
    elif name in {"conv_transpose1d", "conv_transpose2d"}:
        _transposed(b, node)
    else:
        raise b.refuse(node, "it has no integer kernel yet")


def _linear(b: Builder, node: fx.Node) -> None:
    source = b.value(Call(node).arg("input"), node)
    weight = b.weight(node)
    b.dim(Call(node).arg("input"), -1)
    if source.flat:  # its columns go along with the memory, which is channels last
        height, width, channels = b.tensors[source.tensor].shape
        planes = weight.reshape(len(weight), channels, height, width)
        rows = np.moveaxis(planes, 1, -1)
        shape: Shape = (1, 1, len(weight))
    else:
        source = b.arranged(source, channels_first=False)
        height, width, _ = b.tensors[source.tensor].shape
        shape = (height, width, len(weight))
        rows = weight[:, None, None, :]
    attributes = {"stride": (1, 1), "padding": NO_PADDING, "dilation": (1, 1), "groups": 1}
    _weighted(b, node, ("conv", source.tensor, rows, attributes), shape, channels_first=False)


def _conv(b: Builder, node: fx.Node) -> None:
    call = Call(node)
    source = b.unflat(b.value(call.arg("input"), node))
    if not source.channels_first:
        source = b.arranged(source, channels_first=True)
    weight = _planes(b.weight(node))
    kernel, groups = weight.shape[2:], call.arg("groups", 1)
    stride, dilation = pair(call.arg("stride"), 1), pair(call.arg("dilation"), 1)
    padding = around(_padding(call, kernel, dilation), source.padding)
    sizes = b.tensors[source.tensor].shape
    window = zip(sizes[:2], kernel, stride, padding, dilation, strict=True)
    height, width = (extent(s, k, t, p, d) for s, k, t, p, d in window)
    attributes = {"stride": stride, "padding": padding, "dilation": dilation}
    kind = "depthwise" if groups == len(weight) == sizes[2] > 1 else "conv"
    if kind == "depthwise":
        taps = np.moveaxis(weight[:, 0], 0, -1)
    else:
        taps, attributes["groups"] = np.moveaxis(weight, 1, -1), groups
    made = (kind, source.tensor, taps, attributes)
    _weighted(b, node, made, (height, width, len(weight)), channels_first=True)


def _volume(b: Builder, node: fx.Node) -> None:
    call = Call(node)
    source = b.arranged(b.value(call.arg("input"), node), channels_first=True)
    weight = b.weight(node)
    stride, dilation = (_three(call.arg(key)) for key in ("stride", "dilation"))
    sizes, given = source.given[1:], b.given(node)
    window = zip(sizes, weight.shape[2:], stride, dilation, given[1:], strict=True)
    padding = call.arg("padding")
    frame = tuple((p, p) for p in _three(padding)) if not isinstance(padding, str) else tuple(
        _around(size, (kernel - 1) * d + 1, s, results)
        for size, kernel, s, d, results in window
    )  # fmt: skip
    attributes = {
        "stride": stride,
        "padding": frame,
        "dilation": dilation,
        "groups": call.arg("groups", 1),
        "planes": (sizes[0], given[1]),
    }
    made = ("volume", source.tensor, np.moveaxis(weight, 1, -1), attributes)
    _weighted(b, node, made, shape_of(given, channels_first=True), channels_first=True)


def _three(values: Any) -> tuple[int, ...]:
    numbers = [int(v) for v in (values if isinstance(values, (list, tuple)) else [values])]
    return tuple(numbers) if len(numbers) == len(_AXES) else (numbers[0],) * len(_AXES)


def _around(size: int, reach: int, stride: int, results: int) -> tuple[int, int]:
    """Padding that makes a number of results, the odd one behind."""
    whole = max((results - 1) * stride + reach - size, 0)
    return (whole // 2, whole - whole // 2)


def _transposed(b: Builder, node: fx.Node) -> None:
    call = Call(node)
    source = b.arranged(b.value(call.arg("input"), node), channels_first=True)
    weight, groups = _planes(b.weight(node)), call.arg("groups", 1)
    each, made = len(weight) // groups, weight.shape[1]
    taps = weight.reshape(groups, each, made, *weight.shape[2:]).transpose(0, 2, 3, 4, 1)
    top, left = pair(call.arg("padding"), 0)
    attributes = {
        "stride": pair(call.arg("stride"), 1),
        "padding": ((top, top), (left, left)),
        "dilation": pair(call.arg("dilation"), 1),
        "groups": groups,
    }
    outputs, *sizes = b.given(node)
    height, width = sizes if len(sizes) == 2 else (1, *sizes)
    layer = ("conv_transpose", source.tensor, taps.reshape(-1, *taps.shape[2:]), attributes)
    _weighted(b, node, layer, (height, width, outputs), channels_first=True)


def _planes(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """One dimension is an image of one row."""
    return weight[:, :, None, :] if weight.ndim == 3 else weight


def _weighted(
    b: Builder,
    node: fx.Node,
    layer: tuple[str, str, NDArray[Any], Mapping[str, Any]],
    shape: Shape,
    *,
    channels_first: bool,
) -> None:
    """Append a layer: its kind, input, weight and attributes."""
    kind, source, weight, attributes = layer
    names, grid = stored_names(b.network.program, node), b.grid(node)
    scales = b.network.weights[names["weight"]].scale.reshape(-1).numpy()
    whole = np.zeros(shape[2], np.int32)
    if "bias" in names:
        whole = b.network.bias_integers(names["bias"]).numpy()
    made = b.make(node, b.given(node), channels_first=channels_first, grid=grid, shape=shape)
    found = layer_scales(b.tensors[source].scale, scales, float(grid.scale), shape[2])
    if grid.bits == WIDE and int(found["shift"].max()) > MOST_WIDE_SHIFT:
        real = float(scales.max()) * b.tensors[source].scale / float(grid.scale)
        said = f"a step of its sums is {real:.3g} steps of its result; 16 bits take up to 128"
        raise b.refuse(node, said)
    b.add(
        kind, node, (source,), made.tensor, {**attributes, **b.clamp(node, grid)},
        {"weight": np.ascontiguousarray(weight, np.int8), "bias": whole, **found},
    )  # fmt: skip


def _padding(call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> Padding:
    given = call.arg("padding")
    if isinstance(given, str):
        window = zip(kernel, dilation, strict=True)
        top, left = (d * (k - 1) if given == "same" else 0 for k, d in window)
        return ((top // 2, top - top // 2), (left // 2, left - left // 2))
    top, left = pair(given, 0)
    return ((top, top), (left, left))

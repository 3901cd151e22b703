"""Means, pools and resizing in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, op_name, size_value
from penjing.quantization.integers import RESIZE_BITS, extent, scale_of
from penjing.quantization.lowering.builder import (
    NO_PADDING,
    Builder,
    Padding,
    Value,
    around,
    pair,
    shape_of,
)


def mean(b: Builder, node: fx.Node) -> None:
    """A mean over all positions."""
    source = b.real(b.value(node.all_input_nodes[0], node))
    if op_name(node) == "mean":
        source = b.arranged(source, channels_first=_channels_first(node, source))
    tensor, given = b.tensors[source.tensor], b.given(node)
    channels = tensor.shape[2]
    if int(np.prod(given)) != channels or not _averages_all(node, source):
        raise b.refuse(node, "only a mean over all positions has an integer kernel")
    grid = b.grid(node)
    made = b.make(node, given, channels_first=True, grid=grid, shape=(1, 1, channels))
    real = tensor.scale / (tensor.shape[0] * tensor.shape[1] * float(grid.scale))
    b.add("mean", node, (source.tensor,), made.tensor, {"result": scale_of(real)})


def _dims(node: fx.Node, rank: int) -> set[int]:
    return {d % rank for d in Call(node).arg("dim") or range(rank)}


def _channels_first(node: fx.Node, source: Value) -> bool:
    """Which dimension is left for channels."""
    rank = source.rank
    if _dims(node, rank) == set(range(2, rank)):
        return True
    return False if _dims(node, rank) == set(range(1, rank - 1)) else source.channels_first


def _averages_all(node: fx.Node, source: Value) -> bool:
    if op_name(node) != "mean":
        return source.channels_first
    rank = source.rank
    wanted = set(range(2, rank)) if source.channels_first else set(range(1, rank - 1))
    return _dims(node, rank) == wanted


def pool(b: Builder, node: fx.Node) -> None:
    """A maximum or a mean of windows, on the grid of its input."""
    call = Call(node)
    source = b.unflat(b.value(node.all_input_nodes[0], node))
    kernel = pair(call.arg("kernel_size"), 1)
    stride = pair(call.arg("stride") or call.arg("kernel_size"), 1)
    before = pair(call.arg("padding"), 0)
    padding: Padding = ((before[0], before[0]), (before[1], before[1]))
    kind = "max" if op_name(node).startswith("max") else "average"
    if kind == "average" and call.arg("divisor_override"):
        raise b.refuse(node, "a mean with a divisor of its own has no integer kernel")
    if kind == "max" and any(d != 1 for d in pair(call.arg("dilation"), 1)):
        raise b.refuse(node, "a dilated pool has no integer kernel")
    if kind == "average" and call.arg("divisor_override") is not None:
        raise b.refuse(node, "an average with a divisor of its own has no integer kernel")
    counted = kind == "average" and call.arg("count_include_pad", True)
    if source.padding != NO_PADDING or (counted and any(before)):
        framed = around(source.padding, padding if counted else NO_PADDING)
        source = b.real(replace(source, padding=framed))
        padding = NO_PADDING if counted else padding
    if not source.channels_first:
        source = b.arranged(source, channels_first=True)
    sizes = b.tensors[source.tensor].shape
    window = zip(sizes[:2], kernel, stride, padding, strict=True)
    height, width = (extent(s, k, t, p) for s, k, t, p in window)
    shape, given = (height, width, sizes[2]), b.given(node)
    if shape != shape_of(given, channels_first=True):
        raise b.refuse(
            node, "windows that reach beyond its input (ceil_mode=True) have no integer kernel"
        )
    made = b.make(node, given, channels_first=True, grid=b.grid(node), shape=shape)
    attributes = {"kernel": kernel, "stride": stride, "padding": padding}
    b.add(kind, node, (source.tensor,), made.tensor, attributes)


def resize(b: Builder, node: fx.Node) -> None:
    """Linear interpolation along rows and columns."""
    source = b.arranged(b.value(node.all_input_nodes[0], node), channels_first=True)
    height, width, _ = b.tensors[source.tensor].shape
    made = b.make(node, b.given(node), channels_first=True, grid=b.grid(node))
    columns = _interpolation(b, node, width, -1)
    flat = len(source.given) == 2
    rows = np.zeros((1, 2), np.int32) if flat else _interpolation(b, node, height, -2)
    b.add("resize", node, (source.tensor,), made.tensor, weights={"rows": rows, "columns": columns})


def _interpolation(b: Builder, node: fx.Node, size: int, dim: int) -> NDArray[np.int32]:
    """Per result the first of two neighbours, and the share of the second, `(results, 2)`.

    The op itself is run on one impulse per position, so its own rule of corners is what counts.
    """
    source = node.all_input_nodes[0]
    given = b.given(source)
    shape = [1, size, *given[1:]]
    shape[dim] = size
    pulses = torch.eye(size, dtype=torch.float64)
    pulses = pulses.reshape(size, size, 1) if dim == -2 else pulses.reshape(
        size, *(1,) * (len(given) - 2), size
    )  # fmt: skip
    result: Any = Call(node).run(size_value, {source: pulses.expand(shape[1:])[None].contiguous()})
    shares = result[0].movedim(dim, 0).reshape(result.shape[dim], size, -1)[:, :, 0].numpy()
    first = (shares > 0).argmax(1)
    ones = np.arange(len(first))
    taken = shares[ones, first]
    beside = np.pad(shares, ((0, 0), (0, 1)))[ones, first + 1]
    if (shares < 0).any() or not np.allclose(taken + beside, 1, rtol=0, atol=1e-9):
        raise b.refuse(node, "it mixes more than two neighbours")
    second = np.round((1 - taken) * 2**RESIZE_BITS)
    return np.stack([first, second], 1).astype(np.int32)

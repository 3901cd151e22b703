"""Views, slices, pads and concatenations in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, size_value
from penjing.quantization.integers import IntegerLayer, scale_of
from penjing.quantization.lowering.builder import (
    NO_PADDING,
    Builder,
    Value,
    around,
    in_memory,
    shape_of,
)

MOVES = frozenset({
    "channel_shuffle", "contiguous", "expand", "flatten", "flip", "movedim", "narrow", "permute",
    "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "select", "slice", "squeeze", "t",
    "transpose", "unflatten", "unsqueeze", "upsample_nearest1d", "upsample_nearest2d", "view",
})  # fmt: skip
"""Ops that take numbers of one value to other places."""


def move(b: Builder, node: fx.Node) -> None:
    """The same tensor where the order in memory stays, else one more layer."""
    _move(b, node, b.value(node.all_input_nodes[0], node), node, None)


def part(b: Builder, node: fx.Node) -> None:
    """One of the values that a split yields."""
    split, number = node.args[:2]
    assert isinstance(split, fx.Node)
    source = split.all_input_nodes[0]
    if source.name in b.values:
        _move(b, node, b.value(source, node), split, number)


def _move(b: Builder, node: fx.Node, source: Value, call: fx.Node, number: Any) -> None:
    given = b.given(node)
    if source.padding != NO_PADDING:
        source = b.real(source)
    if source.flat and given == source.given:
        b.values[node.name] = source
        return
    source = b.unflat(source)
    moved = _moved(b, node, source, call, number)
    memory = np.arange(int(np.prod(source.given)))
    for first in (source.channels_first, not source.channels_first):
        laid = in_memory(moved, channels_first=first)
        whole = laid.size == memory.size and (laid == memory).all()
        if whole and shape_of(given, channels_first=first) == b.tensors[source.tensor].shape:
            b.values[node.name] = Value(source.tensor, given, first and len(given) > 1)
            return
    plain = np.arange(memory.size).reshape(1, *source.given)
    features = _moved(b, node, replace(source, channels_first=False), call, number)
    if len(given) == 1 and source.channels_first and np.array_equal(features, plain.reshape(1, -1)):
        b.values[node.name] = Value(source.tensor, given, False, flat=True)
        return
    first = source.channels_first and len(given) == len(source.given)
    b.values[node.name] = b.moved(
        source.tensor, in_memory(moved, channels_first=first), given, channels_first=first,
        node=node,
    )  # fmt: skip


def _moved(
    b: Builder, node: fx.Node, source: Value, call: fx.Node, number: Any
) -> NDArray[np.int64]:
    """Where every number of the result lies in the tensor of `source`, `(1, *given)`."""
    read = call.all_input_nodes[0]
    batch, size = int(b.network.program.shape(read)[0]), int(np.prod(source.given))
    samples = size * torch.arange(batch).double()
    each = torch.from_numpy(b.positions(source).copy()).double()
    index = each + samples.reshape(-1, *(1,) * len(source.given))
    result = Call(call).run(size_value, {read: index})
    result = result if number is None else result[number]
    alone = len(result) == batch and torch.equal(
        result, result[:1] + samples.reshape(-1, *(1,) * (result.ndim - 1))
    )
    if not alone:
        raise b.refuse(node, "it mixes the samples of a batch")
    return np.asarray(result[:1].numpy()).astype(np.int64)


def pad(b: Builder, node: fx.Node) -> None:
    """Zeros around positions, left to the reader; zeros around channels, as a layer."""
    source = b.unflat(b.value(node.all_input_nodes[0], node))
    pads = [int(p) for p in Call(node).arg("pad")]
    pads += [0] * (2 * len(source.given) - len(pads))
    if min(pads) < 0 or not _is_zero(node) or any(pads[2 * len(source.given) :]):
        raise b.refuse(node, "only zeros around the values of a sample have an integer kernel")
    if not source.channels_first:
        source = b.arranged(source, channels_first=len(source.given) > 1)
    *_, before, after = pads
    spatial = pads[:-2] if len(source.given) > 1 else []
    spatial += [0] * (4 - len(spatial))
    frame = ((spatial[2], spatial[3]), (spatial[0], spatial[1]))
    total = around(source.padding, frame)
    if not (before or after):
        b.values[node.name] = replace(source, given=b.given(node), padding=total)
        return
    made = b.make(node, b.given(node), channels_first=True, grid=b.grid(node))
    attributes = {"padding": total, "channels": (before, after)}
    b.layers.append(IntegerLayer("pad", node.name, (source.tensor,), made.tensor, attributes))


def _is_zero(node: fx.Node) -> bool:
    call = Call(node)
    return not call.has("mode") or call.arg("mode", "constant") == "constant"


def cat(b: Builder, node: fx.Node) -> None:
    """Values side by side, each brought to the grid of the result."""
    call = Call(node)
    values = [b.real(b.value(n, node)) for n in call.arg("tensors")]
    first = values[0].channels_first
    parts = [b.arranged(v, channels_first=first) for v in values]
    made = b.make(node, b.given(node), channels_first=first, grid=b.grid(node))
    result = b.tensors[made.tensor]
    scales = []
    for value in parts:
        tensor = b.tensors[value.tensor]
        same = (tensor.scale, tensor.zero_point) == (result.scale, result.zero_point)
        scales.append(None if same else scale_of(tensor.scale / result.scale))
    axis = _axis(call.arg("dim", 0) % parts[0].rank, parts[0])
    if axis is None:
        raise b.refuse(node, "it joins samples of a batch")
    attributes = {"parts": tuple(scales), "axis": axis}
    b.add("concat", node, tuple(p.tensor for p in parts), made.tensor, attributes)


def _axis(dim: int, value: Value) -> int | None:
    """Dimension of height, width, channels that a dimension of a value is."""
    if dim == 0:
        return None
    order = list(range(1, value.rank))
    if value.channels_first:
        order = [*order[1:], order[0]]
    return 3 - len(order) + order.index(dim)

"""Views, slices, pads and concatenations in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.nn import functional as F

from penjing.graph.call import Call, op_name, size_value
from penjing.quantization.integers import IntegerLayer, Scale, scale_of
from penjing.quantization.lowering.batches import Batch
from penjing.quantization.lowering.builder import (
    NO_PADDING,
    Builder,
    Value,
    around,
    in_memory,
    shape_of,
)
from penjing.quantization.lowering.loops import loops_of

_MOST_PIECES = 16
_IMAGE = 3  # dimensions of a sample that is an image

MOVES = frozenset({
    "channel_shuffle", "clone", "contiguous", "expand", "flatten", "flip", "movedim", "narrow",
    "permute",
    "index_select", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "roll", "select",
    "slice", "squeeze", "t", "transpose", "unflatten", "unsqueeze", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "view",
})  # fmt: skip
"""Ops that take numbers of one value to other places."""

SPLITS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unbind"})
"""Ops that yield several such values."""


def move(b: Builder, node: fx.Node) -> None:
    """The same tensor where the order in memory stays, else one more layer."""
    _move(b, node, b.value(node.all_input_nodes[0], node), node, None)


def part(b: Builder, node: fx.Node) -> None:
    """One of the values that a split yields."""
    split, number = node.args[:2]
    assert isinstance(split, fx.Node)
    source = split.all_input_nodes[0]
    if op_name(split) not in SPLITS:
        raise b.refuse(split, "it has no integer kernel yet")
    if source.name in b.values:
        _move(b, node, b.value(source, node), split, number)


def _move(b: Builder, node: fx.Node, source: Value, call: fx.Node, number: Any) -> None:
    if source.padding != NO_PADDING:
        source = b.real(source)
    plain = replace(source, channels_first=False)
    features, batch = _moved(b, node, plain, call, number)
    given = features.shape[1:]
    b.batches[node.name] = batch
    if source.flat and given == source.given:
        b.values[node.name] = source
        return
    source = b.unflat(source)
    moved, _ = _moved(b, node, source, call, number)
    memory = np.arange(int(np.prod(source.given)))
    for first in (source.channels_first, not source.channels_first):
        laid = in_memory(moved, channels_first=first)
        whole = laid.size == memory.size and (laid == memory).all()
        if whole and shape_of(given, channels_first=first) == b.tensors[source.tensor].shape:
            b.values[node.name] = Value(source.tensor, given, first and len(given) > 1)
            return
    if len(given) == 1 and source.channels_first and np.array_equal(features, memory[None]):
        b.values[node.name] = Value(source.tensor, given, False, flat=True)
        return
    first = source.channels_first and len(given) == len(source.given)
    b.values[node.name] = gathered(b, source.tensor, moved[0], (given, first), node=node)


def _moved(
    b: Builder, node: fx.Node, source: Value, call: fx.Node, number: Any
) -> tuple[NDArray[np.int64], Batch]:
    """Where every number of the result lies in the tensor of `source`, `(1, *given)`.

    Sizes are those of the example, so all of its samples are moved, and told apart again.
    """
    read = call.all_input_nodes[0]
    each = torch.from_numpy(b.positions(source)[0].copy()).double()
    whole = b.batch(read).spread(each, b.samples)
    result = Call(call).run(size_value, {read: whole})
    result = result if number is None else result[number]
    batch = Batch.of(result, b.samples, each.numel())
    if batch is None:
        raise b.refuse(node, "it mixes the samples of a batch")
    first = batch.samples(result, b.samples)[:1]
    return np.asarray(first.numpy()).astype(np.int64), batch


def gathered(
    b: Builder, tensor: str, index: NDArray[np.int64], made: tuple[tuple[int, ...], bool],
    node: fx.Node,
) -> Value:  # fmt: skip
    """Numbers of a tensor at other places: by one nest of loops, or by several side by side.

    Args:
        b: The network so far.
        tensor: Where they are.
        index: Their positions in it, in the shape of the result.
        made: That shape, and whether its channels are moved to the end.
        node: Named when there are too many nests.

    Returns:
        The result.
    """
    given, first = made
    laid = np.moveaxis(index, 0, -1) if first and len(given) > 1 else index
    axis, cuts = _pieces(laid)
    if len(cuts) == 1:
        return b.moved(tensor, laid, given, channels_first=first, node=node)
    parts = [np.take(laid, range(*cut), axis) for cut in cuts]
    names = [b.moved(tensor, p, p.shape, channels_first=False, node=node).tensor for p in parts]
    joined = b.derived(tensor, "joined", given, channels_first=first)
    join(b, joined.tensor, names, int(np.prod(laid.shape[:axis])))
    return joined


def _pieces(laid: NDArray[np.int64]) -> tuple[int, list[tuple[int, int]]]:
    """A dimension, and cuts along it between which positions are those of a nest of loops."""
    whole = (0, [(0, len(laid))])
    if loops_of(laid) is not None:
        return whole
    for axis, size in enumerate(laid.shape):
        cuts: list[tuple[int, int]] = []
        start = 0
        while start < size and len(cuts) < _MOST_PIECES:
            stop = _reach(laid, axis, start)
            if stop == start:
                break
            cuts.append((start, stop))
            start = stop
        if start == size:
            return axis, cuts
    return whole


def _reach(laid: NDArray[np.int64], axis: int, start: int) -> int:
    """How far one nest of loops goes along a dimension."""
    stops = range(laid.shape[axis], start, -1)
    fits = (s for s in stops if loops_of(np.take(laid, range(start, s), axis)) is not None)
    return next(fits, start)


def join(b: Builder, result: str, parts: Sequence[str], runs: int) -> None:
    """Tensors side by side in one, cut into runs that take turns."""
    attributes = {"parts": tuple(_rescaled(b, part, result) for part in parts), "runs": runs}
    b.layers.append(IntegerLayer("concat", result, tuple(parts), result, attributes))


def _rescaled(b: Builder, part: str, result: str) -> Scale | None:
    """From the grid of a tensor to that of another; None where they are the same."""
    source, wanted = b.tensors[part], b.tensors[result]
    same = (source.scale, source.zero_point) == (wanted.scale, wanted.zero_point)
    return None if same else scale_of(source.scale / wanted.scale)


def pad(b: Builder, node: fx.Node) -> None:
    """Zeros around positions, left to the reader; zeros around channels, as a layer."""
    source = b.unflat(b.value(node.all_input_nodes[0], node))
    pads = _pads(b, node, source)
    if not _is_zero(node) or len(source.given) > _IMAGE:
        _continued(b, node, b.real(source), pads)
        return
    if not source.channels_first:
        source = b.arranged(source, channels_first=len(source.given) > 1)
    before, after = pads[0]
    rows, columns = [(0, 0), (0, 0), *pads[1:]][-2:]
    total = around(source.padding, (rows, columns))
    if not (before or after):
        b.values[node.name] = replace(source, given=b.given(node), padding=total)
        return
    made = b.make(node, b.given(node), channels_first=True, grid=b.grid(node))
    attributes = {"padding": total, "channels": (before, after)}
    b.layers.append(IntegerLayer("pad", node.name, (source.tensor,), made.tensor, attributes))


def _pads(b: Builder, node: fx.Node, source: Value) -> list[tuple[int, int]]:
    """Positions before and after, per dimension of a sample.

    Raises:
        ExportError: Some are cut off, or samples are added.
    """
    flat = [int(p) for p in Call(node).arg("pad")]
    pairs = list(zip(flat[::2], flat[1::2], strict=True))[::-1]
    rank = len(b.network.program.shape(node))
    found = [(0, 0)] * len(source.given)
    for dim, both in enumerate(pairs, rank - len(pairs)):
        if any(both):
            found[b.dim(node, dim)] = both
    if min(flat) < 0:
        raise b.refuse(node, "it cuts positions off, for which padding has no integer kernel")
    return found


def _continued(b: Builder, node: fx.Node, value: Value, pads: list[tuple[int, int]]) -> None:
    """Padded one dimension after the other: by zeros, or by values from inside."""
    value = b.arranged(value, channels_first=False)
    for dim, both in enumerate(pads):
        if any(both) and _is_zero(node):
            value = _zeros(b, value, dim, both)
        elif any(both):
            value = _reflected(b, node, value, dim, both)
    b.values[node.name] = value


def _reflected(b: Builder, node: fx.Node, value: Value, dim: int, pads: tuple[int, int]) -> Value:
    line = torch.arange(value.given[dim]).double()[None, None]
    inside = F.pad(line, pads, mode=Call(node).arg("mode"))[0, 0].long().numpy()
    index = np.take(b.positions(value)[0], inside, dim)
    return gathered(b, value.tensor, index, (index.shape, False), node=node)


def _zeros(b: Builder, value: Value, dim: int, pads: tuple[int, int]) -> Value:
    """Zeros along one dimension of several: it is taken for the columns of an image."""
    given = value.given
    image = (int(np.prod(given[:dim])), given[dim], int(np.prod(given[dim + 1 :])))
    wide = (image[0], image[1] + sum(pads), image[2])
    seen = b.seen_as(value.tensor, image)
    padded = b.derived(seen, "padded", wide, channels_first=False).tensor
    attributes = {"padding": ((0, 0), pads)}
    b.layers.append(IntegerLayer("pad", f"pad_{padded}", (seen,), padded, attributes))
    longer = (*given[:dim], wide[1], *given[dim + 1 :])
    name = b.seen_as(padded, shape_of(longer, channels_first=False))
    return Value(name, longer, False)


def _is_zero(node: fx.Node) -> bool:
    call = Call(node)
    return not call.has("mode") or call.arg("mode", "constant") == "constant"


def cat(b: Builder, node: fx.Node) -> None:
    """Values side by side, each brought to the grid of the result."""
    call = Call(node)
    values = [b.real(b.value(n, node)) for n in call.arg("tensors")]
    first = values[0].channels_first
    parts = [b.arranged(v, channels_first=first).tensor for v in values]
    made = b.make(node, b.given(node), channels_first=first, grid=b.grid(node))
    dim, sizes = b.dim(node, call.arg("dim", 0)), list(values[0].given)
    if first:
        sizes, dim = [*sizes[1:], sizes[0]], (dim - 1) % len(sizes)
    join(b, made.tensor, parts, int(np.prod(sizes[:dim])))


def stack(b: Builder, node: fx.Node) -> None:
    """Values side by side in a new dimension."""
    call = Call(node)
    values = [b.real(b.value(n, node)) for n in call.arg("tensors")]
    parts = [b.arranged(v, channels_first=False).tensor for v in values]
    rank = len(b.network.program.shape(node))
    before = b.batch(call.arg("tensors")[0])
    dim = call.arg("dim", 0) % rank
    b.batches[node.name] = replace(before, dim=before.dim + (dim <= before.dim))
    made = b.make(node, b.given(node), channels_first=False, grid=b.grid(node))
    join(b, made.tensor, parts, int(np.prod(values[0].given[: b.dim(node, dim)])))

"""Means, pools and resizing in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, op_name, size_value
from penjing.quantization.integers import RESIZE_BITS, layer_scales, scale_of
from penjing.quantization.lowering import volumes
from penjing.quantization.lowering.builder import (
    NO_PADDING,
    Builder,
    Padding,
    Value,
    around,
    shape_of,
)
from penjing.quantization.lowering.movement import gathered

_VOLUME = 3  # dimensions of the positions of a volume


def mean(b: Builder, node: fx.Node) -> None:
    """A mean or a sum over some dimensions."""
    source = b.real(b.value(node.all_input_nodes[0], node))
    tensor, count, first = _reduced(b, node, source, _dims(b, node))
    grid = b.grid(node)
    made = b.make(node, b.given(node), channels_first=first, grid=grid)
    real = b.tensors[tensor].scale / float(grid.scale) / (1 if op_name(node) == "sum" else count)
    b.add("mean", node, (tensor,), made.tensor, {"result": scale_of(real)})


def largest(b: Builder, node: fx.Node) -> None:
    """The largest value over some dimensions."""
    source = b.real(b.value(node.all_input_nodes[0], node))
    tensor, _, first = _reduced(b, node, source, _dims(b, node))
    height, width, channels = b.tensors[tensor].shape
    given, pixel = b.given(node), (1, 1, channels)
    made = b.make(node, given, channels_first=first, grid=b.grid(node), shape=pixel)
    attributes = {"kernel": (height, width), "stride": (1, 1), "padding": NO_PADDING}
    b.add("max", node, (tensor,), made.tensor, attributes)
    seen = b.seen_as(made.tensor, shape_of(given, channels_first=first))
    b.tensors[seen] = replace(b.tensors[seen], given=given, channels_first=made.channels_first)
    b.values[node.name] = replace(made, tensor=seen)


def _dims(b: Builder, node: fx.Node) -> tuple[int, ...]:
    """Dimensions of a sample over which an op goes; the op's batch becomes known too."""
    call, read = Call(node), node.all_input_nodes[0]
    rank, batch = len(b.network.program.shape(read)), b.batch(read)
    given = call.arg("dim")
    dims = [given] if isinstance(given, int) else list(given or range(rank))
    kept = bool(call.arg("keepdim"))
    before = 0 if kept else sum(d % rank < batch.dim for d in dims)
    b.batches[node.name] = replace(batch, dim=batch.dim - before)
    return tuple(sorted(b.dim(read, d) for d in dims))


def _reduced(
    b: Builder, node: fx.Node, source: Value, dims: tuple[int, ...]
) -> tuple[str, int, bool]:
    """A tensor whose channels are what is left, and how many positions each of them has.

    Dimensions that are left lie in their own order, but for channels, which stay where they are;
    the last of the three results says whether the op's result has them moved to the end.
    """
    at = b.positions(source)[0]
    left = [d for d in range(at.ndim) if d not in dims]
    given = b.given(node)
    kept = 0 in left or len(given) == len(source.given)
    first = source.channels_first and len(given) > 1 and kept
    if first and 0 in left:
        left = [*left[1:], 0]
    order, count = at.transpose(*dims, *left), int(np.prod([at.shape[d] for d in dims]))
    channels = order.size // count
    if b.tensors[source.tensor].shape[2] == channels and _in_order(order):
        return source.tensor, count, first
    index, made = order.reshape(count, channels), ((count, channels), False)
    return gathered(b, source.tensor, index, made, node=node).tensor, count, first


def _in_order(index: NDArray[np.int64]) -> bool:
    return bool((index.reshape(-1) == np.arange(index.size)).all())


def adaptive(b: Builder, node: fx.Node) -> None:
    """A pool that makes a number of results, where all of its windows are alike."""
    maximum = op_name(node) == "getitem"
    op = node.all_input_nodes[0] if maximum else node
    if maximum or op_name(op).endswith("3d"):
        b.check_images(op, op.all_input_nodes[0])
    given, result = b.given(op.all_input_nodes[0]), b.given(node)
    if maximum and node.args[1] != 0:
        raise b.refuse(op, "where its largest values are is read, which no integer kernel tells")
    if any(size % many for size, many in zip(given[1:], result[1:], strict=True)):
        sizes = f"{'x'.join(map(str, given[1:]))} to {'x'.join(map(str, result[1:]))}"
        raise b.refuse(op, f"its windows differ in size, from {sizes} positions")
    kernel = [size // many for size, many in zip(given[1:], result[1:], strict=True)]
    if not maximum and set(result[1:]) == {1}:
        _mean_of_all(b, node)
        return
    window = Window(kernel, kernel, [0] * len(kernel), maximum=maximum)
    if maximum or len(kernel) == _VOLUME:
        pooled(b, node, op.all_input_nodes[0], window)
    else:
        _means(b, node, [*([1] if len(kernel) == 1 else []), *kernel])


def _means(b: Builder, node: fx.Node, kernel: Sequence[int]) -> None:
    """Means of windows side by side on a grid of their own: a convolution by ones."""
    source = b.arranged(b.value(node.all_input_nodes[0], node), channels_first=True)
    made = b.make(node, b.given(node), channels_first=True, grid=b.grid(node))
    tensor, channels = b.tensors[source.tensor], b.tensors[source.tensor].shape[2]
    scale = b.tensors[made.tensor].scale * int(np.prod(kernel))
    found = layer_scales(tensor.scale, np.ones(1), scale, channels)
    attributes = {"stride": tuple(kernel), "padding": NO_PADDING, "dilation": (1, 1)}
    weights: dict[str, NDArray[Any]] = {
        "weight": np.ones((*kernel, channels), np.int8), "bias": np.zeros(channels, np.int32),
    }  # fmt: skip
    b.add("depthwise", node, (source.tensor,), made.tensor, attributes, {**weights, **found})


def _mean_of_all(b: Builder, node: fx.Node) -> None:
    """A mean over all positions."""
    source = b.arranged(b.value(node.all_input_nodes[0], node), channels_first=True)
    tensor, grid = b.tensors[source.tensor], b.grid(node)
    height, width, channels = tensor.shape
    made = b.make(node, b.given(node), channels_first=True, grid=grid, shape=(1, 1, channels))
    real = tensor.scale / (height * width * float(grid.scale))
    b.add("mean", node, (source.tensor,), made.tensor, {"result": scale_of(real)})


@dataclass(frozen=True, slots=True)
class Window:
    """What a pool looks at.

    Args:
        kernel: Positions per dimension.
        stride: From window to window.
        padding: On each side.
        maximum: Whether the largest value is wanted, not the mean.
        counted: Whether a mean counts the padding.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    maximum: bool
    counted: bool = True


def pool(b: Builder, node: fx.Node) -> None:
    """A maximum or a mean of windows, on the grid of its input."""
    call, maximum = Call(node), op_name(node).startswith("max")
    b.check_images(node, node.all_input_nodes[0], first=False)
    rank = len(b.given(node)) - 1
    if not maximum and call.arg("divisor_override") is not None:
        raise b.refuse(node, "an average with a divisor of its own has no integer kernel")
    if maximum and any(d != 1 for d in _each(call.arg("dilation"), rank, 1)):
        raise b.refuse(node, "a dilated pool has no integer kernel")
    kernel = _each(call.arg("kernel_size"), rank, 1)
    stride = _each(call.arg("stride") or call.arg("kernel_size"), rank, 1)
    counted = bool(call.arg("count_include_pad", True))
    padding = _each(call.arg("padding"), rank, 0)
    window = Window(kernel, stride, padding, maximum, counted)
    pooled(b, node, node.all_input_nodes[0], window)


def _each(values: Any, rank: int, default: int) -> list[int]:
    """A number per dimension of an op's positions."""
    numbers = [values] if isinstance(values, int) else list(values or [default])
    return [int(v) for v in numbers] * (1 if len(numbers) == rank else rank)


def pooled(b: Builder, node: fx.Node, read: fx.Node, window: Window) -> None:
    """A pool over rows and columns, or over the three dimensions of a volume."""
    source = b.unflat(b.value(read, node))
    if len(window.kernel) == _VOLUME:
        volumes.pool(b, node, b.arranged(source, channels_first=True), window)
        return
    row = [1] if len(window.kernel) == 1 else []
    kernel, stride = (*row, *window.kernel), (*row, *window.stride)
    sides = (*(0 for _ in row), *window.padding)
    padding: Padding = ((sides[0], sides[0]), (sides[1], sides[1]))
    counted = not window.maximum and window.counted
    if source.padding != NO_PADDING or (counted and any(sides)):
        framed = around(source.padding, padding if counted else NO_PADDING)
        source = b.real(replace(source, padding=framed))
        padding = NO_PADDING if counted else padding
    source = source if source.channels_first else b.arranged(source, channels_first=True)
    sizes, given = b.tensors[source.tensor].shape, b.given(node)
    shape = shape_of(given, channels_first=True)
    frame = tuple(
        (before, _after(size, kernel[d], stride[d], before, shape[d]))
        for d, (size, (before, _)) in enumerate(zip(sizes[:2], padding, strict=True))
    )
    if any(after > before for before, after in frame) and counted and any(sides):
        raise b.refuse(
            node, "means that count the padding and reach beyond it (ceil_mode=True) have no "
            "integer kernel"
        )  # fmt: skip
    made = b.make(node, given, channels_first=True, grid=b.grid(node), shape=shape)
    attributes = {"kernel": kernel, "stride": stride, "padding": frame}
    kind = "max" if window.maximum else "average"
    b.add(kind, node, (source.tensor,), made.tensor, attributes)


def _after(size: int, kernel: int, stride: int, before: int, results: int) -> int:
    """Padding behind positions: as before them, or as far as the last window reaches."""
    return max(before, (results - 1) * stride + kernel - size - before)


def resize(b: Builder, node: fx.Node) -> None:
    """Linear interpolation along rows and columns."""
    b.check_images(node, node.all_input_nodes[0], first=False)
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

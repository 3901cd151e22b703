"""Routes: which position of an argument each position of an op's output comes from.

A view shares the storage of its argument, so that its strides tell where every position lies
without a look at a single value. Any other op that moves values is run once on linear indices.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.graph.call import Call, is_tensor

Shape = tuple[int, ...]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the positions of one dimension of an argument lie in an output.

    Args:
        axes: Output axes along which the position varies.
        core: Positions from 1 over these axes; 0 where there are none.
        same: Whether they lie along one axis, all of them in order.
        split: Whether they lie over several axes, each once in order.
    """

    axes: tuple[int, ...]
    core: Places
    same: bool = False
    split: bool = False

    @classmethod
    def of(cls, axes: Sequence[int], core: Places, size: int) -> Trace:
        """A trace of a dimension of `size` positions."""
        ordered = core.size == size and bool((core.ravel() == np.arange(1, size + 1)).all())
        return cls(tuple(axes), core, ordered and len(axes) == 1, ordered and len(axes) > 1)


class Route(Protocol):
    """Where the positions of one output come from."""

    shape: Shape

    def inside(self, source: int) -> NDArray[np.bool_] | None:
        """Which positions come from an argument, by its number; None for all."""
        ...

    def trace(self, source: int, dim: int) -> Trace:
        """Where the positions of one dimension of an argument lie."""
        ...


@dataclass(frozen=True, slots=True)
class Tiling:
    """A view that does nothing but cut whole dimensions into parts and merge these in any order.

    Args:
        parts: Per dimension of the argument the sizes of its parts, outermost first; none where it
            has one position, or where one is picked.
        axes: Per output axis the parts that it is made of, by dimension and number.
        picked: Dimensions of which one position is picked, with the position.
    """

    parts: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[tuple[int, int], ...], ...]
    picked: Mapping[int, int]


class Strided:
    """An output that is a view of the one argument.

    Args:
        size: Shape of the argument, contiguous.
        view: The output.
    """

    def __init__(self, size: Shape, view: Tensor) -> None:
        self.shape: Shape = tuple(view.shape)
        self._sizes = size
        self._strides = _contiguous(size)
        self._steps, self._offset = view.stride(), int(view.storage_offset())

    @cached_property
    def tiling(self) -> Tiling | None:
        """The view as a tiling; None where it is more than that."""
        return _tiling(self._sizes, self.shape, self._steps, self._offset)

    @property
    def is_bijection(self) -> bool:
        """Whether it is a tiling that leaves nothing out."""
        return self.tiling is not None and not self.tiling.picked

    @cached_property
    def carries(self) -> bool:
        """Whether a position cannot be told axis by axis."""
        if self.tiling is not None:
            return False
        highest = (digits.max(axis=0) for digits in self._digits.values())
        return bool((sum(highest, self._start) >= np.array(self._sizes)).any())

    @cached_property
    def _start(self) -> Places:
        """Where the first position of the output lies, dimension by dimension."""
        return self._offset // np.array(self._strides, np.int64) % np.array(self._sizes, np.int64)

    @cached_property
    def _digits(self) -> dict[int, Places]:
        """Steps in every dimension for every position along an output axis."""
        sizes, strides = np.array(self._sizes, np.int64), np.array(self._strides, np.int64)
        return {
            axis: np.arange(count)[:, None] * step // strides % sizes
            for axis, (count, step) in enumerate(zip(self.shape, self._steps, strict=True))
            if count > 1 and step
        }

    def inside(self, source: int) -> None:  # noqa: ARG002 - there is one
        """Every position comes from the argument."""
        return

    def trace(self, source: int, dim: int) -> Trace:  # noqa: ARG002 - there is one
        """Where the positions of one dimension of the argument lie."""
        columns = {axis: digits[:, dim] for axis, digits in self._digits.items()}
        varying = [axis for axis, column in columns.items() if column.any()]
        first = np.asarray(self._start[dim] + 1)
        core = reduce(lambda x, axis: np.add.outer(x, columns[axis]), varying, first)
        return Trace.of(varying, core, self._sizes[dim])


def _contiguous(size: Shape) -> list[int]:
    """Strides of a tensor of this shape that lies in one piece."""
    strides = [1]
    for count in size[:0:-1]:
        strides.append(strides[-1] * count)
    return strides[: len(size)][::-1]


Part = tuple[int, int]
"""A part of a dimension: the dimension, and how many of its positions one step goes on."""


def _tiling(size: Shape, shape: Shape, steps: Sequence[int], offset: int) -> Tiling | None:
    """The tiling that takes a tensor of `size` to a view; None where the view is none."""
    strides = _contiguous(size)
    axes = [_axis(count, step, size, strides) for count, step in zip(shape, steps, strict=True)]
    found: list[list[tuple[int, int]]] = [[] for _ in size]  # step inside the dimension, and size
    for axis in axes:
        if axis is None:
            return None
        for (dim, inside), count in axis.items():
            found[dim].append((inside, count))
    numbers: dict[Part, int] = {}
    picked: dict[int, int] = {}
    for dim, parts in enumerate(found):
        parts.sort(reverse=True)
        start, left = offset // strides[dim] % size[dim], size[dim]
        if not parts and left > 1:
            picked[dim] = start
            continue
        for number, (inside, count) in enumerate(parts):
            if inside * count != left:
                return None
            numbers[dim, inside], left = number, inside
        if left > 1 or start:
            return None
    return Tiling(
        tuple(tuple(count for _, count in parts) for parts in found),
        tuple(tuple((part[0], numbers[part]) for part in reversed(axis or {})) for axis in axes),
        picked,
    )


def _axis(count: int, step: int, size: Shape, strides: Sequence[int]) -> dict[Part, int] | None:
    """Parts of dimensions that an axis runs over, innermost first, with their sizes."""
    parts: dict[Part, int] = {}
    while count > 1:
        for dim, stride in enumerate(strides):
            if stride <= step and size[dim] > 1:
                break
        else:
            return None
        inside = step // stride
        part = min(count, size[dim] // inside)
        if part < MANY or step % stride or size[dim] % inside or count % part:
            return None
        parts[dim, inside] = part
        count, step = count // part, step * part
    return parts


MANY = 2  # positions that an axis runs over at least


class Listed:
    """An output of any op, told by the linear index from which each position came.

    Args:
        index: Linear indices over all arguments, from 1; 0 for padding.
        sizes: Shapes of the arguments.
    """

    def __init__(self, index: Places, sizes: Sequence[Shape]) -> None:
        self.shape: Shape = index.shape
        self._index, self._sizes = index, sizes
        self._starts = np.cumsum([1, *(prod(size) for size in sizes)])
        self._traces: dict[tuple[int, int], Trace] = {}
        self._inside: dict[int, NDArray[np.bool_] | None] = {}

    def inside(self, source: int) -> NDArray[np.bool_] | None:
        """Which positions come from an argument, by its number; None for all."""
        if source not in self._inside:
            low, high = self._starts[source], self._starts[source + 1]
            inside = (self._index >= low) & (self._index < high)
            self._inside[source] = None if inside.size and inside.all() else inside
        return self._inside[source]

    def trace(self, source: int, dim: int) -> Trace:
        """Where the positions of one dimension of an argument lie."""
        if (source, dim) not in self._traces:
            size, inside = self._sizes[source], self.inside(source)
            offset = self._index - self._starts[source]
            place = offset // prod(size[dim + 1 :]) % size[dim] + 1
            axes, core = _varying(place if inside is None else np.where(inside, place, 0))
            self._traces[source, dim] = Trace.of(axes, core, size[dim])
        return self._traces[source, dim]


def by_strides(
    call: Call, shape: Callable[[fx.Node], Shape], values: Callable[[fx.Node], Any]
) -> list[Route] | None:
    """Routes of the outputs of a view; None for any other op.

    Args:
        call: The op.
        shape: Shape of an argument.
        values: Value of an argument that is no tensor.
    """
    if not call.is_view or len(call.tensors) != 1:
        return None
    source = call.tensors[0]
    size = shape(source)
    whole = torch.empty(size)
    try:
        views = tensors(call.run(values, {source: whole}))
    except (RuntimeError, TypeError, NotImplementedError, IndexError):
        return None
    storage = whole.untyped_storage().data_ptr()
    if any(
        view.dtype != whole.dtype or view.untyped_storage().data_ptr() != storage or view.is_neg()
        for view in views
    ):
        return None
    if not whole.numel() or any(not view.numel() for view in views):
        return None
    routes = [Strided(size, view) for view in views]
    return None if any(route.carries for route in routes) else list(routes)


def by_numbers(
    call: Call,
    sources: Sequence[fx.Node],
    shape: Callable[[fx.Node], Shape],
    values: Callable[[fx.Node], Any],
) -> list[Route]:
    """Routes of the outputs of any op that moves values, found by running it.

    Args:
        call: The op.
        sources: Arguments whose values move.
        shape: Shape of an argument.
        values: Value of any other argument.
    """
    sizes = [shape(n) for n in sources]
    starts = np.cumsum([1, *(prod(size) for size in sizes)]).tolist()
    linear = {
        n: torch.arange(s, s + prod(size), dtype=torch.float64).reshape(size)
        for n, s, size in zip(sources, starts, sizes, strict=False)
    }
    found = tensors(call.run(values, linear))
    return [Listed(t.numpy().astype(np.int64), sizes) for t in found]


def signature(
    call: Call, shape: Callable[[fx.Node], Shape], values: Callable[[fx.Node], Any]
) -> Hashable:
    """What an op's routes depend on: equal for calls that differ in nothing but their labels."""
    numbers = {node: number for number, node in enumerate(call.tensors)}

    def plain(argument: Any) -> Hashable:
        if isinstance(argument, int):
            return argument
        if isinstance(argument, fx.Node):
            if not is_tensor(argument):
                return values(argument)  # type: ignore[no-any-return] # a size
            moves = argument.meta["val"].is_floating_point()
            return (numbers[argument], shape(argument), "" if moves else argument.name)
        if isinstance(argument, (list, tuple)):
            return tuple([plain(a) for a in argument])
        return argument if isinstance(argument, (float, str, type(None))) else str(argument)

    return call.node.target, plain(call.node.args), plain(tuple(call.node.kwargs.items()))


def _varying(place: Places) -> tuple[list[int], Places]:
    """Axes along which a source coordinate (1-based, 0 for none) varies, and it over those axes."""
    there = place if place.min(initial=1) > 0 else np.where(place == 0, _FAR, place)
    axes = []
    for axis in range(place.ndim):
        high = place.max(axis=axis)
        if ((high > there.min(axis=axis)) & (high > 0)).any():
            axes.append(axis)
    rest = tuple(a for a in range(place.ndim) if a not in axes)
    return axes, np.asarray(place.max(axis=rest)) if rest else place


_FAR = np.iinfo(np.int64).max


def tensors(result: Any) -> list[Tensor]:
    """Outputs of an op as a list."""
    return list(result) if isinstance(result, (list, tuple)) else [result]

"""Where every tensor lies inside its buffer: strides, borders, views, and copies.

A tensor is the root of a buffer, a view of another tensor, or a part of a concatenation that its
producer writes in place. Roots get the border, slack and order that producers and readers ask for;
who cannot be served gets a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np

from penjing.codegen.fusion import strides_of
from penjing.codegen.ir import Layer, Net, Tensor
from penjing.codegen.kernel import Kernel, Needs, Place, Room
from penjing.codegen.reference.movement import physical
from penjing.codegen.targets import Target
from penjing.errors import ExportError

MOST_ELEMENTS = 2**31 - 1
"""Of a tensor with its borders: what `int` counts to."""
Home = Literal["arena", "input", "output", "constant", "state"]
Border = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one root tensor and of everything that lies inside it.

    Args:
        name: Of the root.
        elements: Borders and slack included.
        dtype: Of one element.
        home: Who owns the memory.
        position: Which input, output or state.
    """

    name: str
    elements: int
    dtype: str
    home: Home
    position: int = 0


@dataclass(frozen=True, slots=True)
class Lay:
    """Where a tensor lies.

    Args:
        buffer: Name of its buffer.
        offset: Of its first element, in elements.
        strides: In elements.
        border: Zeros around it, per trailing dimension.
        slack: Elements behind the last one, borders included, that belong to the buffer.
    """

    buffer: str
    offset: int
    strides: tuple[int, ...]
    border: Border = ()
    slack: int = 0


@dataclass(frozen=True, slots=True)
class Laid:
    """A net whose tensors have places.

    Args:
        net: With the copies that were needed, without the layers that became views.
        kernels: Of every layer that is left.
        needs: Of every layer that is left.
        lays: Of every tensor.
        buffers: By name.
        placed: Inputs of concatenations that are written in place, by name of the layer.
    """

    net: Net
    kernels: Mapping[str, Kernel]
    needs: Mapping[str, Needs]
    lays: Mapping[str, Lay]
    buffers: Mapping[str, Buffer]
    placed: Mapping[str, frozenset[str]]


def lay_out(net: Net, kernels: Mapping[str, Kernel], copier: Kernel, target: Target) -> Laid:
    """Give every tensor a place.

    Args:
        net: Fused.
        kernels: Chosen, by name of the layer.
        copier: Kernel of the copies that are put in.
        target: What is compiled for.

    Returns:
        The net with places.
    """
    net, kernels = _own_outputs(net, dict(kernels), copier)
    needs = {layer.name: kernels[layer.name].needs(net, layer, target) for layer in net.layers}
    first = _Layouts(net, needs)
    net, needs, kernels = _with_copies(net, needs, kernels, first, copier)
    last = _Layouts(net, needs, first.wishes)
    gone = last.views | {
        layer.name
        for layer in net.layers
        if layer.kind == "concat" and last.placed(layer) == frozenset(layer.inputs)
    }
    left = tuple(layer for layer in net.layers if layer.name not in gone)
    return Laid(
        net=replace(net, layers=left),
        kernels={layer.name: kernels[layer.name] for layer in left},
        needs={layer.name: needs[layer.name] for layer in left},
        lays={name: last.lay(name) for name in net.tensors},
        buffers=last.buffers,
        placed={layer.name: last.placed(layer) for layer in left if layer.kind == "concat"},
    )


def copy_layer(x: Tensor, y: Tensor) -> Layer:
    """A layer that copies a tensor to another place."""
    return Layer("copy", f"{y.name}_copy", (x.name,), (y.name,), source="copy")


def _own_outputs(
    net: Net, kernels: dict[str, Kernel], copier: Kernel
) -> tuple[Net, dict[str, Kernel]]:
    """Every output and written state becomes a tensor of its own that a layer makes."""
    made = {n for layer in net.layers for n in layer.outputs}
    taken: set[str] = set()
    layers, tensors = list(net.layers), dict(net.tensors)

    def own(name: str) -> str:
        if name in made and name not in taken:
            taken.add(name)
            return name
        number = sum(n.startswith(f"{name}_out") for n in tensors)
        copy = replace(tensors[name], name=f"{name}_out{number}")
        tensors[copy.name] = copy
        layers.append(copy_layer(tensors[name], copy))
        kernels[layers[-1].name] = copier
        return copy.name

    outputs = tuple(own(name) for name in net.outputs)
    states = []
    for read, written in net.states:  # a state is written last of all, after everybody read it
        taken.add(written)
        states.append((read, own(written)))
    made_net = replace(
        net, layers=tuple(layers), tensors=tensors, outputs=outputs, states=tuple(states)
    )
    return made_net, kernels


def packed(
    shape: Sequence[int], border: Border, order: Sequence[int] | None
) -> tuple[tuple[int, ...], int, int]:
    """Strides, offset and number of elements of a bordered array in a given order."""
    around = [(0, 0)] * (len(shape) - len(border)) + list(border)
    strides = [0] * len(shape)
    step = 1
    for d in reversed(order if order is not None else range(len(shape))):
        strides[d] = step
        step *= shape[d] + sum(around[d])
    offset = sum(before * s for (before, _), s in zip(around, strides, strict=True))
    return tuple(strides), offset, step


def _wider(one: Border, other: Border) -> Border:
    size = max(len(one), len(other))
    a, b = (((0, 0),) * (size - len(v)) + v for v in (one, other))
    pairs = zip(a, b, strict=True)
    return tuple((max(p[0], q[0]), max(p[1], q[1])) for p, q in pairs)


def _trimmed(border: Border) -> Border:
    while border and border[0] == (0, 0):
        border = border[1:]
    return border


def _alike(one: Sequence[int], other: Sequence[int] | None) -> bool:
    """Whether neighbours in one order are neighbours in the other."""
    return other is not None and one[-1] == other[-1]


@dataclass(frozen=True, slots=True)
class _Wish:
    """What all users of a root want of it."""

    border: Border = ()
    slack: int = 0
    order: tuple[int, ...] | None = None
    loose: bool = True

    def with_room(self, room: Room) -> _Wish:
        """What the users so far and one more want: the first order that is exact, if any is."""
        order, loose = self.order, self.loose
        exact = order is None or (loose and not room.loose and _alike(order, room.order))
        if room.order is not None and exact:
            order, loose = room.order, room.loose
        border = _trimmed(_wider(self.border, room.border))
        return _Wish(border, max(self.slack, room.slack), order, loose)


@dataclass(slots=True)
class _Layouts:
    """Layouts of all tensors of one net; each is found when it is first asked for."""

    net: Net
    needs: Mapping[str, Needs]
    given: Mapping[str, _Wish] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    views: set[str] = field(default_factory=set)
    wishes: dict[str, _Wish] = field(default_factory=dict)
    made: dict[str, Layer] = field(default_factory=dict)
    readers: dict[str, list[Layer]] = field(default_factory=dict)
    parts: dict[str, tuple[Layer, int]] = field(default_factory=dict)
    _lays: dict[str, Lay] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.made, self.readers = self.net.producers(), self.net.readers()
        for layer in self.net.layers:
            if layer.kind == "concat":
                self._find_parts(layer)
        for name in self.net.tensors:
            self.lay(name)

    # ------------------------------------------------------------ relations

    def home(self, name: str) -> tuple[Home, int]:
        """Who owns a root's memory."""
        net = self.net
        for home, names in (("input", net.inputs), ("output", net.outputs)):
            if name in names:
                return home, names.index(name)  # type: ignore[return-value] # one of the two
        for position, pair in enumerate(net.states):
            if name in pair:
                return "state", position
        return ("constant", 0) if name in net.constants else ("arena", 0)

    def placed(self, layer: Layer) -> frozenset[str]:
        """Inputs of a concatenation that lie in its output."""
        return frozenset(n for n in layer.inputs if n in self.parts and self.parts[n][0] is layer)

    def _find_parts(self, layer: Layer) -> None:
        start, dim = 0, layer.attributes["dim"]
        for name in layer.inputs:
            maker = self.made.get(name)
            if (
                maker is not None
                and maker.kind not in {"move", "concat"}
                and self.home(name)[0] == "arena"
                and name not in self.parts
                and layer.inputs.count(name) == 1
                and self._fits(name, maker, dim)
            ):
                self.parts[name] = (layer, start)
            start += self.net.tensors[name].shape[dim]

    def _fits(self, name: str, maker: Layer, dim: int) -> bool:
        """Whether it may lie between others: nobody writes beyond it, no border in the way."""
        needs = self.needs[maker.name]
        rooms = [_room(needs.outputs, maker.outputs.index(name))]
        if needs.junk or rooms[0].slack:
            return False
        whole = next(r for r in self.readers[name] if r.kind == "concat").outputs[0]
        for tensor in (name, whole):
            for reader in self.readers[tensor]:
                rooms += [
                    _room(self.needs[reader.name].inputs, i)
                    for i, n in enumerate(reader.inputs)
                    if n == tensor
                ]
        bordered = max(len(_trimmed(room.border)) for room in rooms)
        return dim < len(self.net.tensors[name].shape) - bordered

    # ------------------------------------------------------------ places

    def lay(self, name: str) -> Lay:
        """Where a tensor lies."""
        if name not in self._lays:
            self._lays[name] = self._part(name) or self._view(name) or self._root(name)
        return self._lays[name]

    def _part(self, name: str) -> Lay | None:
        if name not in self.parts:
            return None
        layer, start = self.parts[name]
        whole = self.lay(layer.outputs[0])
        offset = whole.offset + start * whole.strides[layer.attributes["dim"]]
        return self._measured(name, replace(whole, offset=offset))

    def _measured(self, name: str, lay: Lay) -> Lay:
        """The lay with its slack counted from what it covers itself."""
        shape = self.net.tensors[name].shape
        around = ((0, 0),) * (len(shape) - len(lay.border)) + lay.border
        end = (
            lay.offset
            + 1
            + sum(
                (n - 1 + after) * s
                for n, s, (_, after) in zip(shape, lay.strides, around, strict=True)
                if s > 0
            )
        )
        return replace(lay, slack=self.buffers[lay.buffer].elements - end)

    def _view(self, name: str) -> Lay | None:
        layer = self.made.get(name)
        if layer is None or layer.kind != "move" or self.home(name)[0] != "arena":
            return None
        whole = self.lay(layer.inputs[0])
        found = self._seen(layer, whole)
        if found is None:
            return None
        self.views.add(layer.name)
        return self._measured(name, found)

    def _seen(self, layer: Layer, whole: Lay) -> Lay | None:
        """The input's memory seen as the output, when strides can express that."""
        index = layer.attributes["index"]
        if index.size == 0 or int(index.min()) < 0:
            return None
        shape = self.net.tensors[layer.inputs[0]].shape
        source = physical(Place("", shape, whole.strides, "")) + whole.offset
        positions = source[index]
        strides = strides_of(positions)
        if strides is None:
            return None
        kept = whole.border if _keeps_tail(index, shape, len(whole.border)) else ()
        return Lay(whole.buffer, int(positions.flat[0]), strides, kept)

    def _root(self, name: str) -> Lay:
        tensor = self.net.tensors[name]
        home, position = self.home(name)
        wish = _Wish()
        if home == "arena":
            wish = self.given.get(name) or self._wish(name)
            if wish.border and not self._views_survive(name, wish):
                wish = replace(wish, border=())
        self.wishes[name] = wish
        strides, offset, elements = packed(tensor.shape, wish.border, wish.order)
        if elements + wish.slack > MOST_ELEMENTS:
            maker = self.made.get(name)
            where = "an input or constant" if maker is None else f"made by {maker.source!r}"
            raise ExportError(
                f"tensor {name!r} ({where}) of shape {tuple(tensor.shape)} takes "
                f"{elements + wish.slack:,} elements with its borders; the positions of C code are "
                f"32-bit, so at most {MOST_ELEMENTS:,}. Compile for a smaller batch or input"
            )
        self.buffers[name] = Buffer(name, elements + wish.slack, tensor.dtype, home, position)
        return Lay(name, offset, strides, wish.border, wish.slack)

    def _wish(self, name: str) -> _Wish:
        wish = _Wish()
        maker = self.made.get(name)
        if maker is not None:
            outputs = self.needs[maker.name].outputs
            wish = wish.with_room(_room(outputs, maker.outputs.index(name)))
        for reader in self.readers[name]:
            for i, read in enumerate(reader.inputs):
                if read == name:
                    wish = wish.with_room(_room(self.needs[reader.name].inputs, i))
        for part, (layer, _) in self.parts.items():
            if layer.outputs[0] == name:
                wish = wish.with_room(_as_room(self._wish(part)))
        return wish

    def _views_survive(self, name: str, wish: _Wish) -> bool:
        """Whether every view that strides can express without the border still can with it."""
        shape = self.net.tensors[name].shape
        bordered, plain = (
            Lay(name, offset, strides, border)
            for border in (wish.border, ())
            for strides, offset, _ in [packed(shape, border, wish.order)]
        )
        moves = [
            layer
            for layer in self.readers[name]
            if layer.kind == "move" and self.home(layer.outputs[0])[0] == "arena"
        ]
        return not any(
            self._seen(layer, plain) is not None and self._seen(layer, bordered) is None
            for layer in moves
        )


def _as_room(wish: _Wish) -> Room:
    return Room(border=wish.border, slack=wish.slack, order=wish.order, loose=wish.loose)


def _keeps_tail(index: np.ndarray, shape: Sequence[int], rank: int) -> bool:
    """Whether a move leaves the last `rank` dimensions whole and in place."""
    if rank == 0 or index.ndim < rank or tuple(index.shape[-rank:]) != tuple(shape[-rank:]):
        return rank == 0
    size = prod(shape[-rank:])
    rows = index.reshape(-1, size)
    whole = rows[:, :1] + np.arange(size)
    return bool((rows[:, 0] % size == 0).all()) and np.array_equal(rows, whole)


def _room(rooms: Sequence[Room], position: int) -> Room:
    return rooms[position] if position < len(rooms) else Room()


def satisfies(shape: Sequence[int], lay: Lay, room: Room) -> bool:
    """Whether a place is what a kernel asked for."""
    border = _wider(lay.border, ((0, 0),) * len(room.border))
    wanted = _wider(room.border, ((0, 0),) * len(border))
    enough = all(a >= c and b >= d for (a, b), (c, d) in zip(border, wanted, strict=True))
    if not enough or lay.slack < room.slack:
        return False
    if room.order is None:
        return True
    last = room.order[-1]
    if room.loose:
        joined = len(shape) < 4 or shape[-2] == 1 or lay.strides[-2] == shape[-1]
        return (shape[last] == 1 or lay.strides[last] == 1) and (joined or not room.touching)
    if room.touching and any(map(any, lay.border)):
        return False
    strides, _, _ = packed(shape, lay.border, room.order)
    return all(n == 1 or a == b for n, a, b in zip(shape, lay.strides, strides, strict=True))


def _with_copies(
    net: Net,
    needs: Mapping[str, Needs],
    kernels: Mapping[str, Kernel],
    layouts: _Layouts,
    copier: Kernel,
) -> tuple[Net, dict[str, Needs], dict[str, Kernel]]:
    """Put a copy wherever a kernel cannot take a tensor as it lies."""
    copies = _Copies(dict(net.tensors), dict(needs), dict(kernels), layouts, copier)
    for layer in net.layers:
        if layer.name in layouts.views:
            copies.layers.append(layer)
        else:
            copies.add(layer)
    changed = replace(net, layers=tuple(copies.layers), tensors=copies.tensors)
    return changed, copies.needs, copies.kernels


@dataclass(slots=True)
class _Copies:
    """A net that is written again, with copies in between."""

    tensors: dict[str, Tensor]
    needs: dict[str, Needs]
    kernels: dict[str, Kernel]
    layouts: _Layouts
    copier: Kernel
    layers: list[Layer] = field(default_factory=list)
    made: dict[tuple[str, Room], str] = field(default_factory=dict)

    def add(self, layer: Layer) -> None:
        """Add a layer, with copies before and after it as its kernel needs them."""
        needs = self.needs[layer.name]
        inputs = [self._given(n, _room(needs.inputs, i)) for i, n in enumerate(layer.inputs)]
        outputs, after = list(layer.outputs), []
        for i, name in enumerate(layer.outputs):
            if not self._lies(name, _room(needs.outputs, i)):
                new = self._fresh(name)
                outputs[i] = new.name
                after.append(copy_layer(new, self.tensors[name]))
        self.layers.append(replace(layer, inputs=tuple(inputs), outputs=tuple(outputs)))
        for copy in after:
            self._copy(copy)

    def _given(self, name: str, room: Room) -> str:
        if self._lies(name, room):
            return name
        if (name, room) not in self.made:
            new = self._fresh(name)
            self.made[name, room] = new.name
            self._copy(copy_layer(self.tensors[name], new))
        return self.made[name, room]

    def _lies(self, name: str, room: Room) -> bool:
        return satisfies(self.tensors[name].shape, self.layouts.lay(name), room)

    def _fresh(self, name: str) -> Tensor:
        number = sum(n.startswith(f"{name}_laid") for n in self.tensors)
        new = replace(self.tensors[name], name=f"{name}_laid{number}")
        self.tensors[new.name] = new
        return new

    def _copy(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.kernels[layer.name] = self.copier
        self.needs[layer.name] = Needs()

"""An integer network while it is made: values of nodes, and the layers that they need.

Everything lies in memory as (height, width, channels). A value of the network says which of its
tensors holds it and how: with its channels moved to the end, or in its own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.errors import ExportError
from penjing.graph.call import Call, op_name, where
from penjing.graph.folding import is_layer, stored_names
from penjing.quantization.formats import Grid
from penjing.quantization.integers import (
    NARROW,
    WIDE,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    Shape,
)
from penjing.quantization.lowering.batches import Batch
from penjing.quantization.lowering.loops import loops_of
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.placement import EMBEDDING

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))

_BYTE = 8


def around(one: Padding, other: Padding) -> Padding:
    """Two frames, one around the other."""
    (a, b), (c, d) = one
    (e, f), (g, h) = other
    return ((a + e, b + f), (c + g, d + h))


def pair(values: Any, default: int) -> tuple[int, int]:
    """Height and width; one number of a one-dimensional op is its width."""
    if values is None or (isinstance(values, (list, tuple)) and not values):
        return (default, default)
    if isinstance(values, int):
        return (values, values)
    numbers = [int(v) for v in values]
    return (default, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


@dataclass(frozen=True, slots=True)
class Value:
    """What a node yields, while the network is lowered.

    Args:
        tensor: Name of the tensor that holds it.
        given: Its shape in the network, the batch left out.
        channels_first: Whether the tensor has the channels of `given` moved to the end.
        padding: Frame of zeros around the tensor that is not there yet.
        flat: Whether the features of `tensor`, channels first, are meant.
    """

    tensor: str
    given: tuple[int, ...]
    channels_first: bool
    padding: Padding = NO_PADDING
    flat: bool = False

    @property
    def rank(self) -> int:
        """Dimensions, the batch included."""
        return len(self.given) + 1


def in_memory(positions: NDArray[Any], *, channels_first: bool) -> NDArray[Any]:
    """Values `(batch, ...)` in the order in which they lie."""
    if channels_first and positions.ndim > 2:
        positions = np.moveaxis(positions, 1, -1)
    return positions.reshape(-1)


def shape_of(given: tuple[int, ...], *, channels_first: bool) -> Shape:
    """Height, width, channels.

    Args:
        given: Shape in the network, the batch left out.
        channels_first: Whether its channels come first.

    Returns:
        The shape in memory; rows are those of all planes of a volume.
    """
    if channels_first and len(given) > 1:
        given = (*given[1:], given[0])
    *rows, width, channels = (1, 1, *given)
    return int(np.prod(rows)), width, channels


@dataclass(eq=False)
class Builder:
    """Values, layers and tensors, as far as the network was walked.

    Args:
        network: What is lowered.
        values: Of the nodes that were visited.
        layers: In order.
        tensors: By name.
        constants: Tensors that are stored, by name.
        states: Last states of every layer and direction of recurrent ops, by node.
        masks: What a softmax sees of its input, by the node that hides the rest.
        shown: Tensors that are outputs.
        batches: Where the samples are in a node's value, where that is not dimension 0.
        origins: Tensor that was moved -> the tensor it was moved from, and the positions there.
    """

    network: QuantizedNetwork
    values: dict[str, Value] = field(default_factory=dict)
    layers: list[IntegerLayer] = field(default_factory=list)
    tensors: dict[str, IntegerTensor] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    states: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    batches: dict[str, Batch] = field(default_factory=dict)
    origins: dict[str, tuple[str, NDArray[np.int64]]] = field(default_factory=dict)

    def net(self, inputs: Sequence[str], outputs: Sequence[str]) -> IntegerNet:
        """The network, without layers whose result nobody reads."""
        read, kept = set(outputs), []
        for layer in reversed(self.layers):
            if layer.output in read:
                kept.append(layer)
                read.update(layer.inputs)
        names = read.union(inputs)
        return IntegerNet(
            tuple(inputs),
            tuple(outputs),
            tuple(reversed(kept)),
            {name: t for name, t in self.tensors.items() if name in names},
            {name: c for name, c in self.constants.items() if name in names},
        )

    # ------------------------------------------------------------------ values

    def value(self, node: Any, reader: fx.Node) -> Value:
        """What a node yields.

        Raises:
            ExportError: It yields no integers; the message names the reader.
        """
        if not isinstance(node, fx.Node) or node.name not in self.values:
            raise self.refuse(reader, f"its input {node} is no value of the network in integers")
        return self.values[node.name]

    def real(self, value: Value) -> Value:
        """The value with its frame of zeros, in the order that it stands for."""
        value = self.unflat(value)
        if value.padding == NO_PADDING:
            return value
        tensor = self.tensors[value.tensor]
        (top, bottom), (left, right) = value.padding
        height, width, channels = tensor.shape
        shape = (height + top + bottom, width + left + right, channels)
        name = self._tensor(tensor, "padded", shape, value.given, value.channels_first)
        self.layers.append(
            IntegerLayer("pad", f"pad_{name}", (tensor.name,), name, {"padding": value.padding})
        )
        return replace(value, tensor=name, padding=NO_PADDING)

    def unflat(self, value: Value) -> Value:
        """The value with its features in memory in the order that it stands for."""
        if not value.flat:
            return value
        height, width, channels = self.tensors[value.tensor].shape
        index = np.moveaxis(np.arange(height * width * channels).reshape(height * width, -1), 1, 0)
        return self.moved(value.tensor, index, value.given, channels_first=False)

    def arranged(self, value: Value, *, channels_first: bool) -> Value:
        """The value with its channels where they are wanted."""
        value = self.real(value)
        if value.channels_first == channels_first or len(value.given) == 1:
            return replace(value, channels_first=channels_first and len(value.given) > 1)
        index = self.positions(value)
        return self.moved(
            value.tensor, in_memory(index, channels_first=channels_first), value.given,
            channels_first=channels_first,
        )  # fmt: skip

    def positions(self, value: Value) -> NDArray[np.int64]:
        """Where each number of a value lies in its tensor, `(1, *given)`."""
        first = value.channels_first and len(value.given) > 1
        laid = (*value.given[1:], value.given[0]) if first else value.given
        index = np.arange(int(np.prod(value.given))).reshape(1, *laid)
        return np.moveaxis(index, -1, 1) if first else index

    def moved(
        self, tensor: str, index: NDArray[Any], given: tuple[int, ...], *, channels_first: bool,
        node: fx.Node | None = None,
    ) -> Value:  # fmt: skip
        """Numbers of a tensor at other places.

        Args:
            tensor: Where they are.
            index: Positions in it, in the order of the result's memory.
            given: Shape of the result in the network.
            channels_first: Whether its channels are moved to the end.
            node: Named when there is no such layer.

        Returns:
            The result.

        Raises:
            ExportError: The order is no nest of loops.
        """
        index = np.asarray(index, np.int64).reshape(-1)
        loops = loops_of(index)
        if tensor in self.origins:  # twice moved is once moved, where that is a nest of loops too
            root, before = self.origins[tensor]
            straight = loops_of(before[index])
            if straight is not None:
                tensor, index, loops = root, before[index], straight
        if loops is None:
            why = "it moves values in an order that no few loops make"
            raise ExportError(why) if node is None else self.refuse(node, why)
        shape = shape_of(given, channels_first=channels_first)
        name = self._tensor(self.tensors[tensor], "moved", shape, given, channels_first)
        attributes = {"counts": loops.counts, "strides": loops.strides, "offset": loops.offset}
        self.layers.append(IntegerLayer("move", f"move_{name}", (tensor,), name, attributes))
        self.origins[name] = (tensor, index)
        return Value(name, given, channels_first and len(given) > 1)

    def derived(
        self, tensor: str, what: str, given: tuple[int, ...], *, channels_first: bool
    ) -> Value:
        """A new tensor on the grid of another, which a layer has still to write."""
        shape = shape_of(given, channels_first=channels_first)
        name = self._tensor(self.tensors[tensor], what, shape, given, channels_first)
        return Value(name, given, channels_first and len(given) > 1)

    def seen_as(self, tensor: str, shape: Shape) -> str:
        """A tensor with the same bytes in another shape; the tensor itself where it has that."""
        if self.tensors[tensor].shape == shape:
            return tensor
        index = np.arange(int(np.prod(self.tensors[tensor].shape)))
        return self.moved(tensor, index, shape, channels_first=False).tensor

    def _tensor(
        self, source: IntegerTensor, what: str, shape: Shape, given: tuple[int, ...], first: bool
    ) -> str:
        """A new tensor on the grid of another."""
        name = f"{source.name}_{what}_{len(self.tensors)}"
        self.tensors[name] = replace(
            source, name=name, shape=shape, given=given, channels_first=first
        )
        return name

    def make(
        self, node: fx.Node, given: tuple[int, ...], *, channels_first: bool, grid: Grid,
        shape: Shape | None = None,
    ) -> Value:  # fmt: skip
        """The tensor that a node's layer writes."""
        found = shape_of(given, channels_first=channels_first) if shape is None else shape
        first = channels_first and len(given) > 1
        self.tensors[node.name] = IntegerTensor(
            node.name, found, float(grid.scale), grid.zero_point, given, first, bits=grid.bits
        )
        self.values[node.name] = Value(node.name, given, first)
        return self.values[node.name]

    def constant(
        self, fqn: str, node: fx.Node, given: tuple[int, ...], *, channels_first: bool,
        alone: int | None = None,
    ) -> str:  # fmt: skip
        """A stored tensor, spread over a shape, as a tensor of the net.

        Args:
            fqn: Its qualified name.
            node: What reads it.
            given: The shape, the batch left out.
            channels_first: Whether it has its channels moved to the end.
            alone: Its dimension that holds the samples, which is to have one entry.

        Returns:
            Name of the tensor.

        Raises:
            ExportError: It is not held in 8 bits, or not the same for every sample.
        """
        if fqn not in self.network.weights:
            raise self.refuse(node, f"its operand {fqn!r} is not held in integers")
        grid = self.network.weights[fqn]
        if grid.bits > _BYTE or grid.axis is not None:
            raise self.refuse(node, f"its operand {fqn!r} has {grid.bits} bits; only int8 is added")
        bits = self.grid(node).bits
        up = bits - _BYTE  # integers of 8 bits on a grid of 16: the same numbers
        whole = np.asarray(self.network.integers(fqn).numpy()).astype(np.int16) << up
        if alone is not None:
            if whole.shape[alone] != 1:
                raise self.refuse(node, f"its operand {fqn!r} is not the same for every sample")
            whole = whole.squeeze(alone)
        spread = np.broadcast_to(whole.astype(np.int8 if up == 0 else np.int16), (1, *given))
        name = f"{node.name}_constant"
        shape = shape_of(given, channels_first=channels_first)
        step = float(grid.scale) / 2**up
        self.tensors[name] = IntegerTensor(
            name, shape, step, grid.zero_point, given, channels_first, bits=bits
        )
        laid = in_memory(spread, channels_first=channels_first).reshape(shape)
        self.constants[name] = np.ascontiguousarray(laid)
        return name

    # ------------------------------------------------------------------ what nodes say

    def given(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's value, the batch left out."""
        shape = tuple(int(s) for s in self.network.program.shape(node))
        return self.batch(node).given(shape)

    def batch(self, node: fx.Node) -> Batch:
        """Where the samples are in a node's value."""
        return self.batches.get(node.name, Batch())

    def inherit(self, node: fx.Node) -> None:
        """Find the samples of a node where its inputs have them.

        Raises:
            ExportError: Its inputs have them in different dimensions, or a layer of positions does
                not have them first.
        """
        rank, found = len(self.network.program.shape(node)), set[Batch]()
        for source in node.all_input_nodes:
            if source.name in self.values:
                batch = self.batch(source)
                lower = max(rank - len(self.network.program.shape(source)), 0)  # is broadcast
                lower = 0 if op_name(node) == EMBEDDING else lower
                found.add(replace(batch, dim=batch.dim + lower))
        if len(found) > 1:
            raise self.refuse(node, "its inputs have their samples in different dimensions")
        self.batches[node.name] = found.pop()
        if is_layer(node) and op_name(node) != "linear":
            self.check_images(node, Call(node).arg("input"))

    def check_images(self, node: fx.Node, read: fx.Node, *, first: bool = True) -> None:
        """Refuse an op whose images are not samples.

        Args:
            node: The op.
            read: Its images.
            first: Whether these have to lie in the first dimension.

        Raises:
            ExportError: They are parts of samples, or lie elsewhere.
        """
        batch = self.batch(read)
        if batch.share > 1 or (first and batch.dim):
            raise self.refuse(node, "each of its images is a part of a sample, not a sample")

    @cached_property
    def samples(self) -> int:
        """Samples of the example."""
        program = self.network.program
        return int(program.shape(program.nodes[program.inputs[0]])[self.batch_dims[0]])

    @property
    def batch_dims(self) -> list[int]:
        """Dimension of the samples in every input."""
        program = self.network.program
        return [d or 0 for d in program.batch_dims] or [0] * len(program.inputs)

    def dim(self, node: fx.Node, dim: int) -> int:
        """A dimension of a node's value as one of a sample's.

        Raises:
            ExportError: It holds the samples.
        """
        batch, wanted = self.batch(node), dim % len(self.network.program.shape(node))
        if wanted == batch.dim:
            raise self.refuse(node, "the dimension that its reader works on holds the samples")
        return wanted - (batch.share == 1 and wanted > batch.dim)

    def grid(self, node: fx.Node) -> Grid:
        """Grid of a node's value.

        Raises:
            ExportError: It has none, or one of more than 16 bits.
        """
        grid = self.network.grid_of(node)
        if grid is None:
            reader = next((n for n in node.users if n.name in self.network.fallbacks), None)
            if node.op == "placeholder" and reader is not None:
                raise self.refuse(reader, self.network.fallbacks[reader.name])
            raise self.refuse(node, "its value is not held in integers")
        if grid.bits not in {_BYTE, WIDE} or grid.axis is not None:
            raise self.refuse(node, f"its value has {grid.bits} bits; only 8 and 16 have kernels")
        return grid

    def weight(self, node: fx.Node) -> NDArray[np.int8]:
        """The weight of a layer as integers."""
        fqn = stored_names(self.network.program, node)["weight"]
        if fqn not in self.network.weights:
            raise self.refuse(node, f"its weight {fqn!r} is not held in integers")
        return np.asarray(self.network.integers(fqn).numpy()).astype(np.int8)

    def check_stored(self, node: fx.Node) -> None:
        """Refuse a node that reads stored numbers which no integer stands for."""
        program = self.network.program
        for fqn in (
            program.stored[n.name] for n in node.all_input_nodes if n.name in program.stored
        ):
            values = program.tensors[fqn]
            if values.is_floating_point() and not bool(values.isfinite().all()):
                raise self.refuse(node, f"{fqn!r} holds values that are NaN or infinite")

    def clamp(self, node: fx.Node, grid: Grid) -> dict[str, int]:
        """Bounds of the activation that a node is fused with."""
        fused = self.network.fused.get(node.name)
        if fused is None:
            return {"low": grid.low, "high": grid.high}
        low, high = _bounds(self.network.program.nodes[fused])
        return {
            "low": grid.low if low is None else int(grid.quantize(torch.tensor(low).double())),
            "high": grid.high if high is None else int(grid.quantize(torch.tensor(high).double())),
        }

    def add(
        self, kind: str, node: fx.Node, reads: tuple[str, ...], output: str,
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:  # fmt: skip
        """Append a layer.

        Raises:
            ExportError: It has no form for the bits of its result.
        """
        if kind in NARROW and self.tensors[output].bits == WIDE:
            raise self.refuse(node, "it has no kernel of 16-bit activations")
        self.layers.append(
            IntegerLayer(kind, node.name, reads, output, attributes or {}, weights or {})
        )

    def refuse(self, node: fx.Node, why: str) -> ExportError:
        """The error that a node has no integer form."""
        line = where(node)
        at = f" ({line})" if line else ""
        return ExportError(f"{op_name(node)} {node.name!r}{at} cannot run in integers: {why}")


def _bounds(clamp: fx.Node) -> tuple[float | None, float | None]:
    """What a clamp lets through."""
    name, call = op_name(clamp), Call(clamp)
    fixed: Mapping[str, tuple[float | None, float | None]] = {
        "relu": (0.0, None),
        "relu6": (0.0, 6.0),
    }
    if name in fixed:
        return fixed[name]
    low = call.arg("min_val" if name == "hardtanh" else "min") if name != "clamp_max" else None
    high = call.arg("max_val" if name == "hardtanh" else "max") if name != "clamp_min" else None
    return (None if low is None else float(low), None if high is None else float(high))

"""From a quantized network to its integer form: channels last, pads and clamps fused.

What only renames positions costs nothing: views, squeezes and permutations are run once on numbered
positions, and where the order in memory stays the same, the result is the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.errors import ExportError
from penjing.graph.call import Call, op_name, size_value, where
from penjing.graph.folding import is_layer, stored_names
from penjing.quantization.formats import Grid
from penjing.quantization.integers import (
    HIGH,
    LOW,
    IntegerLayer,
    IntegerNet,
    IntegerTensor,
    Shape,
    add_scales,
    extent,
    layer_scales,
    scale_of,
    softmax_scales,
)
from penjing.quantization.network import CLAMPS, QuantizedNetwork

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))

_BYTE = 8
_MOVES = frozenset({
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "unflatten", "movedim", "contiguous", "slice",
})  # fmt: skip


def _sum(one: Padding, other: Padding) -> Padding:
    """Two frames, one around the other."""
    (a, b), (c, d) = one
    (e, f), (g, h) = other
    return ((a + e, b + f), (c + g, d + h))


@dataclass(frozen=True, slots=True)
class _Value:
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


def integers(network: QuantizedNetwork) -> IntegerNet:
    """The integer form of a quantized network.

    Args:
        network: All of it must run in integers.

    Returns:
        The form that `reference` executes and the compiler writes as C.

    Raises:
        ExportError: A node is computed in floats, or has no form here; the message names it, its
            source line and the reason.
    """
    return _Lowering(network).net()


@dataclass(eq=False)
class _Lowering:
    network: QuantizedNetwork
    values: dict[str, _Value] = field(default_factory=dict)
    layers: list[IntegerLayer] = field(default_factory=list)
    tensors: dict[str, IntegerTensor] = field(default_factory=dict)

    def net(self) -> IntegerNet:
        program = self.network.program
        outputs: list[str] = []
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in program.inputs:
                self._input(node)
            elif node.op == "call_function":
                self._visit(node)
            elif node.op == "output":
                outputs = [self._real(self._value(n, node)).tensor for n in node.args[0]]
        return IntegerNet(
            tuple(self.values[name].tensor for name in program.inputs),
            tuple(outputs),
            tuple(self.layers),
            self.tensors,
        )

    # ------------------------------------------------------------------ nodes

    def _visit(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return
        if node.name in self.network.fallbacks:
            raise self._refuse(node, self.network.fallbacks[node.name])
        if not any(n.name in self.values for n in node.all_input_nodes):
            return
        name = op_name(node)
        if name in CLAMPS and self._is_fused(node):
            source = self._value(node.all_input_nodes[0], node)
            self.values[node.name] = source
        elif is_layer(node):
            self._layer(node)
        elif name in _MOVES:
            self._move(node)
        elif name in _HANDLERS:
            _HANDLERS[name](self, node)
        else:
            self._table(node)

    def _is_fused(self, node: fx.Node) -> bool:
        return self.network.fused.get(node.all_input_nodes[0].name) == node.name

    def _input(self, node: fx.Node) -> None:
        readers = {op_name(user) for user in node.users}
        channels_first = "linear" not in readers
        grid = self._grid(node)
        self._make(node, self._given(node), channels_first, grid)

    def _layer(self, node: fx.Node) -> None:
        call, name = Call(node), op_name(node)
        if name not in {"linear", "conv1d", "conv2d"}:
            raise self._refuse(node, "it has no integer kernel yet")
        if name == "linear":
            self._linear(node, call)
        else:
            self._conv(node, call)

    def _linear(self, node: fx.Node, call: Call) -> None:
        source = self._value(call.arg("input"), node)
        weight = self._integers(node)
        if source.flat:  # its columns go along with the memory, which is channels last
            height, width, channels = self.tensors[source.tensor].shape
            planes = weight.reshape(len(weight), channels, height, width)
            weight = np.ascontiguousarray(np.moveaxis(planes, 1, -1)).reshape(len(weight), -1)
            shape: Shape = (1, 1, len(weight))
            rows = weight.reshape(len(weight), height, width, channels)
        else:
            source = self._real(source)
            if source.channels_first and len(source.given) > 1:
                raise self._refuse(node, "it multiplies along a dimension that is not the channels")
            height, width, _ = self.tensors[source.tensor].shape
            shape = (height, width, len(weight))
            rows = weight[:, None, None, :]
        attributes = {"stride": (1, 1), "padding": NO_PADDING, "dilation": (1, 1), "groups": 1}
        self._weighted(node, source.tensor, rows, attributes, shape, channels_first=False)

    def _conv(self, node: fx.Node, call: Call) -> None:
        source = self._unflat(self._value(call.arg("input"), node), node)
        weight = self._integers(node)
        if weight.ndim == 3:  # one dimension is an image of one row
            weight = weight[:, :, None, :]
        if not source.channels_first:
            raise self._refuse(node, "its input has its channels last")
        kernel, groups = weight.shape[2:], call.arg("groups", 1)
        stride, dilation = self._pair(call.arg("stride"), 1), self._pair(call.arg("dilation"), 1)
        own = self._conv_padding(call, kernel, dilation)
        padding = _sum(own, source.padding)
        sizes = self.tensors[source.tensor].shape[:2]
        window = zip(sizes, kernel, stride, padding, dilation, strict=True)
        height, width = (extent(s, k, t, p, d) for s, k, t, p, d in window)
        attributes = {"stride": stride, "padding": padding, "dilation": dilation}
        shape = (height, width, len(weight))
        if groups == len(weight) == self.tensors[source.tensor].shape[2] > 1:
            taps = np.moveaxis(weight[:, 0], 0, -1)
        else:
            taps, attributes["groups"] = np.moveaxis(weight, 1, -1), groups
        self._weighted(node, source.tensor, taps, attributes, shape, channels_first=True)

    def _weighted(
        self,
        node: fx.Node,
        source: str,
        weight: NDArray[Any],
        attributes: Mapping[str, Any],
        shape: Shape,
        *,
        channels_first: bool,
    ) -> None:
        names = stored_names(self.network.program, node)
        grid = self._grid(node)
        scales = self.network.weights[names["weight"]].scale.reshape(-1).numpy()
        channels = shape[2]
        whole = np.zeros(channels, np.int32)
        if "bias" in names:
            whole = self.network.bias_integers(names["bias"]).numpy()
        given = self._given(node)
        made = self._make(node, given, channels_first and len(given) > 1, grid, shape)
        found = layer_scales(self.tensors[source].scale, scales, float(grid.scale), channels)
        self._add(
            "conv" if "groups" in attributes else "depthwise",
            node,
            (source,),
            made.tensor,
            {**attributes, **self._clamp(node, grid)},
            {"weight": np.ascontiguousarray(weight, np.int8), "bias": whole, **found},
        )

    def _binary(self, node: fx.Node) -> None:
        operands = [n for n in node.all_input_nodes if n.name in self.values]
        if len(node.all_input_nodes) == 1 and len(set(node.args[:2])) == 2:
            self._table(node)
            return
        if len(operands) != len(node.all_input_nodes):
            raise self._refuse(node, "one operand is a stored tensor")
        pair = [n for n in node.args[:2] if isinstance(n, fx.Node)]
        values = [self._real(self._value(n, node)) for n in pair]
        tensors = [self.tensors[v.tensor] for v in values]
        grid = self._grid(node)
        if op_name(node) == "mul" and tensors[0].size_bytes < tensors[1].size_bytes:
            values, tensors = values[::-1], tensors[::-1]
        _, second = tensors
        whole = tensors[0].shape == second.shape
        per_channel = op_name(node) == "mul" and second.shape == (1, 1, tensors[0].shape[2])
        if not (whole or per_channel):
            raise self._refuse(node, f"it broadcasts {tensors[0].shape} and {second.shape}")
        made = self._make(node, self._given(node), values[0].channels_first, grid)
        left, right, scale = tensors[0].scale, second.scale, float(grid.scale)
        scales: dict[str, Any] = (
            add_scales(left, right, scale)
            if op_name(node) == "add"
            else {"result": scale_of(left * right / scale)}
        )
        reads = tuple(v.tensor for v in values)
        self._add(op_name(node), node, reads, made.tensor, {**scales, **self._clamp(node, grid)})

    def _subtract(self, node: fx.Node) -> None:
        if len(node.all_input_nodes) > 1:
            raise self._refuse(node, "a difference of two tensors has no integer kernel yet")
        self._table(node)

    def _mean(self, node: fx.Node) -> None:
        source = self._real(self._unflat(self._value(node.all_input_nodes[0], node), node))
        tensor = self.tensors[source.tensor]
        given = self._given(node)
        channels = tensor.shape[2]
        if int(np.prod(given)) != channels or not self._averages_all(node, source):
            raise self._refuse(node, "only a mean over all positions has an integer kernel")
        grid = self._grid(node)
        made = self._make(node, given, len(given) > 1, grid, (1, 1, channels))
        count = tensor.shape[0] * tensor.shape[1]
        real = tensor.scale / (count * float(grid.scale))
        self._add("mean", node, (source.tensor,), made.tensor, {"result": scale_of(real)})

    def _averages_all(self, node: fx.Node, source: _Value) -> bool:
        if op_name(node) != "mean":
            return True
        rank = len(source.given) + 1
        dims = {d % rank for d in Call(node).arg("dim") or range(rank)}
        wanted = set(range(2, rank)) if source.channels_first else set(range(1, rank - 1))
        return dims == wanted

    def _pool(self, node: fx.Node) -> None:
        call = Call(node)
        source = self._unflat(self._value(node.all_input_nodes[0], node), node)
        kernel = self._pair(call.arg("kernel_size"), 1)
        stride = self._pair(call.arg("stride") or call.arg("kernel_size"), 1)
        before = self._pair(call.arg("padding"), 0)
        padding: Padding = ((before[0], before[0]), (before[1], before[1]))
        kind = "max" if op_name(node).startswith("max") else "average"
        if kind == "max" and any(d != 1 for d in self._pair(call.arg("dilation"), 1)):
            raise self._refuse(node, "a dilated pool has no integer kernel")
        counted = kind == "average" and call.arg("count_include_pad", True)
        if source.padding != NO_PADDING or (counted and any(before)):
            framed = _sum(source.padding, padding if counted else NO_PADDING)
            source = self._real(replace(source, padding=framed))
            padding = NO_PADDING if counted else padding
        sizes = self.tensors[source.tensor].shape
        window = zip(sizes[:2], kernel, stride, padding, strict=True)
        height, width = (extent(s, k, t, p) for s, k, t, p in window)
        shape = (height, width, sizes[2])
        given = self._given(node)
        if int(np.prod(shape)) != int(np.prod(given)) or not source.channels_first:
            raise self._refuse(node, f"windows that make {given} have no integer kernel")
        made = self._make(node, given, True, self._grid(node), shape)
        attributes = {"kernel": kernel, "stride": stride, "padding": padding}
        self._add(kind, node, (source.tensor,), made.tensor, attributes)

    def _cat(self, node: fx.Node) -> None:
        parts = [self._real(self._value(n, node)) for n in Call(node).arg("tensors")]
        rank, first = len(parts[0].given), parts[0].channels_first
        dim = Call(node).arg("dim", 0) % (rank + 1)
        if dim != (1 if first or rank == 1 else rank):
            raise self._refuse(node, "only a concatenation of channels has an integer kernel")
        made = self._make(node, self._given(node), first, self._grid(node))
        result = self.tensors[made.tensor]
        scales = []
        for part in parts:
            tensor = self.tensors[part.tensor]
            same = (tensor.scale, tensor.zero_point) == (result.scale, result.zero_point)
            scales.append(None if same else scale_of(tensor.scale / result.scale))
        reads = tuple(p.tensor for p in parts)
        self._add("concat", node, reads, made.tensor, {"parts": tuple(scales)})

    def _softmax(self, node: fx.Node) -> None:
        source = self._real(self._value(node.all_input_nodes[0], node))
        rank = len(source.given)
        dim = Call(node).arg("dim") % (rank + 1)
        if dim != (1 if source.channels_first or rank == 1 else rank):
            raise self._refuse(node, "only a softmax over the channels has an integer kernel")
        made = self._make(node, source.given, source.channels_first, self._grid(node))
        scales = softmax_scales(self.tensors[source.tensor].scale)
        self._add("softmax", node, (source.tensor,), made.tensor, scales)

    def _pad(self, node: fx.Node) -> None:
        source = self._unflat(self._value(node.all_input_nodes[0], node), node)
        pads = [int(p) for p in Call(node).arg("pad")]
        pads += [0] * (4 - len(pads))
        image = source.channels_first and len(source.given) > 1
        if not image or any(pads[4:]) or min(pads) < 0 or not self._pads_with_zero(node):
            raise self._refuse(node, "only zeros around the positions have an integer kernel")
        if len(source.given) == 2 and any(pads[2:]):
            raise self._refuse(node, "zeros around channels have no integer kernel")
        frame = ((pads[2], pads[3]), (pads[0], pads[1]))
        total = _sum(source.padding, frame)
        self.values[node.name] = replace(source, given=self._given(node), padding=total)

    def _pads_with_zero(self, node: fx.Node) -> bool:
        call = Call(node)
        return not call.has("mode") or call.arg("mode", "constant") == "constant"

    def _table(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if n.name in self.values]
        pointwise = isinstance(node.target, torch._ops.OpOverload) and (
            node.name in self.network.activations and len(node.all_input_nodes) == 1
        )
        source = self._real(self._value(sources[0], node)) if sources else None
        if source is None or not pointwise or self._given(node) != source.given:
            raise self._refuse(node, "it has no integer kernel yet")
        grid, tensor = self._grid(node), self.tensors[source.tensor]
        own = Grid(scale=torch.tensor(tensor.scale).double(), zero_point=tensor.zero_point)
        inputs = own.dequantize(torch.arange(LOW, HIGH + 1))
        results = Call(node).run(lambda n: n, {sources[0]: inputs})
        table = grid.quantize(results).numpy().astype(np.int8)
        made = self._make(node, source.given, source.channels_first, grid)
        self._add("lookup", node, (source.tensor,), made.tensor, weights={"table": table})

    def _move(self, node: fx.Node) -> None:
        """A node that renames positions: the same tensor where the order in memory stays."""
        source = self._value(node.all_input_nodes[0], node)
        if source.padding != NO_PADDING:
            source = self._real(source)
        given = self._given(node)
        if source.flat and given == source.given:
            self.values[node.name] = source
            return
        source = self._unflat(source, node)
        size = int(np.prod(source.given))
        positions = np.arange(size).reshape(1, *source.given)
        memory = self._memory(positions, source.channels_first)
        moved = self._moved(node, positions)
        for channels_first in (True, False):
            same = moved.size == size and (self._memory(moved, channels_first) == memory).all()
            if same and self._fits(given, channels_first, source):
                self.values[node.name] = _Value(source.tensor, given, channels_first)
                return
        features = moved.size == size and len(given) == 1 and (moved.ravel() == positions.ravel())
        if np.all(features) and source.channels_first:
            self.values[node.name] = _Value(source.tensor, given, False, flat=True)
            return
        raise self._refuse(node, "it changes the order of values, which has no integer kernel yet")

    def _fits(self, given: tuple[int, ...], channels_first: bool, source: _Value) -> bool:
        """Whether the tensor of `source` has the shape that a value so arranged would have."""
        return self._shape(given, channels_first) == self.tensors[source.tensor].shape

    def _memory(self, positions: NDArray[Any], channels_first: bool) -> NDArray[Any]:
        if channels_first and positions.ndim > 2:
            positions = np.moveaxis(positions, 1, -1)
        return positions.reshape(-1)

    def _moved(self, node: fx.Node, positions: NDArray[Any]) -> NDArray[Any]:
        source = node.all_input_nodes[0]
        batch = int(self.network.program.shape(source)[0])
        index = torch.from_numpy(positions).expand(batch, *positions.shape[1:])
        result = Call(node).run(size_value, {source: index})
        return np.asarray(result[:1].numpy())

    # ------------------------------------------------------------------ values

    def _value(self, node: Any, reader: fx.Node) -> _Value:
        if not isinstance(node, fx.Node) or node.name not in self.values:
            raise self._refuse(reader, f"its input {node} is no value of the network in integers")
        return self.values[node.name]

    def _real(self, value: _Value) -> _Value:
        """The value with its frame of zeros, in the order that it stands for."""
        value = self._unflat(value, None)
        if value.padding == NO_PADDING:
            return value
        tensor = self.tensors[value.tensor]
        (top, bottom), (left, right) = value.padding
        height, width, channels = tensor.shape
        shape = (height + top + bottom, width + left + right, channels)
        name = f"{tensor.name}_padded_{len(self.tensors)}"
        self.tensors[name] = replace(tensor, name=name, shape=shape, given=value.given)
        self.layers.append(
            IntegerLayer("pad", f"pad_{name}", (tensor.name,), name, {"padding": value.padding})
        )
        return replace(value, tensor=name, padding=NO_PADDING)

    def _unflat(self, value: _Value, node: fx.Node | None) -> _Value:
        """The value with its features in memory in the order that it stands for."""
        del node
        if not value.flat:
            return value
        tensor = self.tensors[value.tensor]
        name = f"{tensor.name}_flat_{len(self.tensors)}"
        self.tensors[name] = replace(
            tensor, name=name, shape=(1, 1, tensor.size_bytes), given=value.given,
            channels_first=False,
        )  # fmt: skip
        self.layers.append(IntegerLayer("transpose", f"flatten_{name}", (tensor.name,), name))
        return _Value(name, value.given, False)

    def _make(
        self,
        node: fx.Node,
        given: tuple[int, ...],
        channels_first: bool,
        grid: Grid,
        shape: Shape | None = None,
    ) -> _Value:
        found = self._shape(given, channels_first) if shape is None else shape
        self.tensors[node.name] = IntegerTensor(
            node.name, found, float(grid.scale), grid.zero_point, given, channels_first
        )
        self.values[node.name] = _Value(node.name, given, channels_first)
        return self.values[node.name]

    def _shape(self, given: tuple[int, ...], channels_first: bool) -> Shape:
        if channels_first and len(given) > 1:
            given = (*given[1:], given[0])
        if len(given) > 3:
            raise ExportError(f"a tensor of shape {given} has more than two positions per sample")
        height, width, channels = (*(1,) * (3 - len(given)), *given)
        return height, width, channels

    def _given(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(int(s) for s in self.network.program.shape(node)[1:])

    def _grid(self, node: fx.Node) -> Grid:
        grid = self.network.grid_of(node)
        if grid is None:
            raise self._refuse(node, "its value is not held in integers")
        if grid.bits > _BYTE or grid.axis is not None:
            raise self._refuse(node, f"its value has {grid.bits} bits; only int8 has kernels")
        return grid

    def _integers(self, node: fx.Node) -> NDArray[np.int8]:
        fqn = stored_names(self.network.program, node)["weight"]
        if fqn not in self.network.weights:
            raise self._refuse(node, f"its weight {fqn!r} is not held in integers")
        return np.asarray(self.network.integers(fqn).numpy()).astype(np.int8)

    def _clamp(self, node: fx.Node, grid: Grid) -> dict[str, int]:
        fused = self.network.fused.get(node.name)
        if fused is None:
            return {"low": LOW, "high": HIGH}
        low, high = _bounds(self.network.program.nodes[fused])
        return {
            "low": LOW if low is None else int(grid.quantize(torch.tensor(low).double())),
            "high": HIGH if high is None else int(grid.quantize(torch.tensor(high).double())),
        }

    def _conv_padding(self, call: Call, kernel: Sequence[int], dilation: Sequence[int]) -> Padding:
        given = call.arg("padding")
        if isinstance(given, str):
            window = zip(kernel, dilation, strict=True)
            totals = [d * (k - 1) if given == "same" else 0 for k, d in window]
            top, left = totals
            return ((top // 2, top - top // 2), (left // 2, left - left // 2))
        top, left = self._pair(given, 0)
        return ((top, top), (left, left))

    def _pair(self, values: Any, default: int) -> tuple[int, int]:
        """Height and width; one number of a one-dimensional op is its width."""
        if values is None or (isinstance(values, (list, tuple)) and not values):
            return (default, default)
        if isinstance(values, int):
            return (values, values)
        numbers = [int(v) for v in values]
        return (default, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])

    def _add(
        self,
        kind: str,
        node: fx.Node,
        reads: tuple[str, ...],
        output: str,
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.layers.append(
            IntegerLayer(kind, node.name, reads, output, attributes or {}, weights or {})
        )

    def _refuse(self, node: fx.Node, why: str) -> ExportError:
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


_HANDLERS: Mapping[str, Callable[[_Lowering, fx.Node], None]] = {
    "add": _Lowering._binary,
    "mul": _Lowering._binary,
    "sub": _Lowering._subtract,
    "mean": _Lowering._mean,
    "adaptive_avg_pool1d": _Lowering._mean,
    "adaptive_avg_pool2d": _Lowering._mean,
    "avg_pool1d": _Lowering._pool,
    "avg_pool2d": _Lowering._pool,
    "max_pool1d": _Lowering._pool,
    "max_pool2d": _Lowering._pool,
    "cat": _Lowering._cat,
    "concat": _Lowering._cat,
    "softmax": _Lowering._softmax,
    "pad": _Lowering._pad,
    "constant_pad_nd": _Lowering._pad,
}

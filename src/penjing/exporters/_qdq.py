"""Integers for ONNX Runtime: quantize and dequantize nodes where its fusions look for them.

ONNX has no integer convolution with an affine output of its own kind that every runtime takes; it
has floats between `DequantizeLinear` and `QuantizeLinear`, which runtimes fuse into integer kernels
when the pair stands around one op. Here each layer stands between them with nothing else; what only
moves values (views, slices, pads, concatenations) is written on the integers themselves; a clamp
that the grid performs anyway is left out. Activations are unsigned, which x86 multiplies by signed
weights at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import ExportError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import CONVOLUTIONS, LINEAR, is_layer
from penjing.quantization.formats import Grid
from penjing.quantization.network import CLAMPS, QuantizedNetwork
from penjing.quantization.placement import JOINS, MOVES
from penjing.statistics.grams import Layer, layers

_SIGN = 128  # from signed to unsigned
_MATRIX = 2  # dimensions of what a Gemm takes
_PADS = frozenset({"pad", "constant_pad_nd"})


def check_expressible(network: QuantizedNetwork) -> None:
    """Refuse grids that ONNX Runtime has no integer kernels for.

    Raises:
        ExportError: Activations of more than 8 bits.
    """
    wide = next((n for n, g in network.activations.items() if g.bits > 8), None)
    if wide is not None:
        raise ExportError(
            f"node {wide!r} has {network.activations[wide].bits}-bit activations, for which ONNX "
            "Runtime has no integer kernels; quantize with 8-bit activations for .onnx"
        )


@dataclass(slots=True)
class _Held:
    """One value on its way: integers, floats, or both."""

    q: Tensor | None = None
    x: Tensor | None = None
    grid: Grid | None = None


class QdqModule(nn.Module):
    """A quantized network whose forward, when exported, writes the ONNX nodes described above.

    Run in torch itself it computes nothing of use: the ONNX ops are symbols.

    Args:
        network: The quantized network.
        probes: Nodes with grids whose values become outputs too, dequantized.
    """

    def __init__(self, network: QuantizedNetwork, probes: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.probes = tuple(probes)
        self._made: dict[object, tuple[str, ...]] = {}
        self._needless: dict[str, bool] = {}
        with torch.no_grad():  # registers every constant
            self(*(v.cpu() for v in network.program.example if isinstance(v, Tensor)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Flat tensor inputs to flat tensor outputs.

        Args:
            inputs: Tensors, in the order of the program's.

        Returns:
            Outputs, then the probes.
        """
        program = self.network.program
        given = iter(inputs)
        leaves = [next(given) if isinstance(v, Tensor) else v for v in program.example]
        flat = dict(zip(program.inputs, leaves, strict=True))
        values: dict[fx.Node, Any] = {}
        for node in program.graph.nodes:
            if node.op == "output":
                found = [self._float(values[n]) for n in node.args[0] if isinstance(n, fx.Node)]
                extra = [self._float(values[program.nodes[n]]) for n in self.probes]
                return (*found, *extra)
            if node.op == "placeholder":
                values[node] = self._placeholder(node, flat)
            elif node.op == "get_attr":
                values[node] = getattr(program.graph_module, str(node.target))
            else:
                values[node] = self._call(node, values)
        return ()

    # ------------------------------------------------------------------ values

    def _placeholder(self, node: fx.Node, flat: dict[str, Any]) -> Any:
        if node.name in flat:
            value, grid = flat[node.name], self.network.activations.get(node.name)
            if grid is None or not isinstance(value, Tensor):
                return _Held(x=value) if isinstance(value, Tensor) else value
            return _Held(self._quantize(value, grid), None, grid)
        fqn = self.network.program.stored[node.name]
        if all(is_layer(u) and self.network.integer(u) for u in node.users):
            return None  # `_layer` brings its own
        if fqn in self.network.weights and not any(is_layer(u) for u in node.users):
            return _Held(x=self._weight(fqn))
        (plain,) = self._stored((fqn,), lambda: (self.network.program.tensors[fqn].detach(),))
        return _Held(x=plain)

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        grid = self.network.activations.get(node.name)
        if self._only_moves(node, values, grid) and self._all_integer(node, values):
            return self._move(node, values, grid)
        if _is_global_mean(node) and grid is not None and self._all_integer(node, values):
            return self._global_mean(node, values[node.all_input_nodes[0]], grid)
        if is_layer(node) and self.network.integer(node):
            result: Any = self._layer(node, values)
        elif op_name(node) in CLAMPS and grid is not None and self._clamps_anyway(node, grid):
            result = self._float(values[node.all_input_nodes[0]])
        else:
            result = self._plainly(node, values)
        if isinstance(result, _Held):
            return result
        if grid is None or not isinstance(result, Tensor):
            return _Held(x=result) if isinstance(result, Tensor) else result
        return _Held(self._quantize(result, grid), None, grid)

    def _plainly(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        def look(n: fx.Node) -> Any:
            return self._float(values[n]) if isinstance(values[n], _Held) else values[n]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), look)
        return node.target(*args, **kwargs)  # type: ignore[operator] # an ATen op or a function

    def _only_moves(self, node: fx.Node, values: dict[fx.Node, Any], grid: Grid | None) -> bool:
        """Whether a node's integers are those that it reads; what it joins lies on its grid."""
        if op_name(node) not in JOINS:
            return op_name(node) in MOVES
        held = (v for n in node.all_input_nodes if isinstance(v := values[n], _Held))
        return grid is not None and all(v.grid is not None and v.grid.same(grid) for v in held)

    def _all_integer(self, node: fx.Node, values: dict[fx.Node, Any]) -> bool:
        held = [values[n] for n in node.all_input_nodes if isinstance(values[n], (_Held, list))]
        if not held or node.name in self.network.fallbacks:
            return False
        return all(v.q is not None for h in held for v in (h if isinstance(h, list) else [h]))

    def _move(self, node: fx.Node, values: dict[fx.Node, Any], grid: Grid | None) -> Any:
        """Movement on the integers."""

        def look(n: fx.Node) -> Any:
            value = values[n]
            if isinstance(value, list):
                return [v.q for v in value]
            return value.q if isinstance(value, _Held) else value

        held = next(values[n] for n in node.all_input_nodes if isinstance(values[n], (_Held, list)))
        own = held[0].grid if isinstance(held, list) else held.grid
        grid = grid or own
        args: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), look)
        if op_name(node) in _PADS and Call(node).arg("mode", "constant") == "constant":
            zero = float((grid or own).zero_point + _SIGN)
            result = torch.ops.aten.constant_pad_nd.default(args[0], args[1], zero)
        else:
            result = node.target(*args, **kwargs)  # type: ignore[operator] # an ATen op
        if isinstance(result, (tuple, list)):
            return [_Held(v, None, grid) for v in result]
        return _Held(result, None, grid)

    def _layer(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """A layer whose every tensor comes out of a dequantize node."""
        call = Call(node)
        held = values[call.arg("input")]
        names = {key: call.arg(key) for key in ("weight", "bias")}
        stored = self.network.program.stored
        weight = self._weight(stored[names["weight"].name])
        bias = None
        if names["bias"] is not None:
            bias = self._bias(stored[names["bias"].name])
        if op_name(node) in LINEAR and held.q.dim() != _MATRIX:
            return self._wide_linear(node, held, weight, bias)
        pad = call.arg("input")
        if _pads_for(pad, node):
            source = self._float(values[pad.all_input_nodes[0]])
            return self._padded(node, pad, [source, weight, *([] if bias is None else [bias])])
        swap = {pad: self._float(held), names["weight"]: weight, names["bias"]: bias}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), swap.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator] # an ATen op

    def _padded(self, node: fx.Node, pad: fx.Node, inputs: list[Tensor]) -> Tensor:
        """A convolution that takes over the padding before it, more on one side than the other."""
        layer = _described(self.network.program, node)
        extra = list(reversed(list(zip(*[iter(Call(pad).arg("pad"))] * 2, strict=True))))
        extra = [(0, 0)] * (len(layer.kernel) - len(extra)) + extra
        both = [
            (a + c, b + d)
            for (a, b), (c, d) in zip(layer.padding, extra[-len(layer.kernel) :], strict=True)
        ]
        return torch.onnx.ops.symbolic(
            "Conv",
            inputs,
            {
                "kernel_shape": list(layer.kernel),
                "strides": list(layer.stride),
                "dilations": list(layer.dilation),
                "pads": [before for before, _ in both] + [after for _, after in both],
                "group": layer.groups,
            },
            dtype=torch.float32,
            shape=(inputs[0].shape[0], *self.network.program.shape(node)[1:]),
        )

    def _global_mean(self, node: fx.Node, held: _Held, grid: Grid) -> _Held:
        """A mean over all positions, as the pooling that has an integer kernel."""
        x = self._float(held)
        shape = (*x.shape[:2], *(1,) * (x.dim() - 2))
        mean = torch.onnx.ops.symbolic("GlobalAveragePool", [x], dtype=torch.float32, shape=shape)
        q = self._quantize(mean, grid)
        if len(self.network.program.shape(node)) == _MATRIX:
            q = q.reshape(x.shape[0], x.shape[1])
        return _Held(q, None, grid)

    def _wide_linear(self, node: fx.Node, held: _Held, weight: Tensor, bias: Tensor | None) -> Any:
        """A linear layer on rows of more dimensions: as a matrix, which has an integer kernel."""
        assert held.q is not None  # the layer is integer
        assert held.grid is not None
        rows = held.q.reshape(-1, held.q.shape[-1])
        flat = torch.ops.aten.linear.default(
            self._dequantize(rows, held.grid),
            weight,
            bias,
        )
        shape = (*held.q.shape[:-1], weight.shape[0])
        grid = self.network.activations.get(node.name)
        if grid is None:
            return flat.reshape(shape)
        return _Held(self._quantize(flat, grid).reshape(shape), None, grid)

    def _clamps_anyway(self, node: fx.Node, grid: Grid) -> bool:
        """Whether a grid reaches no further than a clamp lets through."""
        if node.name not in self._needless:
            low, high = clamp_range(node)
            self._needless[node.name] = grid.minimum >= low and grid.maximum <= high * (1 + 1e-6)
        return self._needless[node.name]

    # ------------------------------------------------------------------ ONNX nodes

    def _float(self, held: Any) -> Any:
        if not isinstance(held, _Held):
            return held
        if held.x is None:
            assert held.q is not None  # one of both is there
            assert held.grid is not None
            held.x = self._dequantize(held.q, held.grid)
        return held.x

    def _quantize(self, x: Tensor, grid: Grid) -> Tensor:
        scale, zero = self._grid(grid)
        return torch.onnx.ops.symbolic(
            "QuantizeLinear", [x, scale, zero], dtype=torch.uint8, shape=x.shape
        )

    def _dequantize(self, q: Tensor, grid: Grid) -> Tensor:
        scale, zero = self._grid(grid)
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", [q, scale, zero], dtype=torch.float32, shape=q.shape
        )

    def _weight(self, fqn: str) -> Tensor:
        grid = self.network.weights[fqn]
        return self._constant(fqn, grid, lambda: self.network.integers(fqn))

    def _bias(self, fqn: str) -> Tensor:
        grid = self.network.biases[fqn]
        return self._constant(fqn, grid, lambda: self.network.bias_integers(fqn))

    def _constant(self, fqn: str, grid: Grid, make: Callable[[], Tensor]) -> Tensor:
        """A dequantized constant with its scale or scales."""

        def values() -> tuple[Tensor, Tensor, Tensor]:
            q = make()
            return q, grid.scale.float(), torch.zeros_like(grid.scale).to(q.dtype)

        data, scale, zero = self._stored(fqn, values)
        attributes: dict[str, Any] = {} if grid.axis is None else {"axis": grid.axis}
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            [data, scale, zero],
            attributes,
            dtype=torch.float32,
            shape=data.shape,
        )

    def _grid(self, grid: Grid) -> tuple[Tensor, ...]:
        def values() -> tuple[Tensor, Tensor]:
            zero = torch.tensor(grid.zero_point + _SIGN, dtype=torch.uint8)
            return grid.scale.float(), zero

        return self._stored(id(grid), values)

    def _stored(self, key: object, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Constants, made and registered in the first call: later ones are only traced."""
        if key not in self._made:
            made = make()
            self._made[key] = tuple(f"constant_{len(self._made)}_{i}" for i, _ in enumerate(made))
            for name, value in zip(self._made[key], made, strict=True):
                self.register_buffer(name, value)
        return tuple(self.get_buffer(name) for name in self._made[key])


def _is_global_mean(node: fx.Node) -> bool:
    """Whether a node averages every channel over all positions."""
    name, source = op_name(node), node.all_input_nodes[0] if node.all_input_nodes else None
    if source is None or not isinstance(source.meta.get("val"), Tensor):
        return False
    rank = source.meta["val"].dim()
    if name.startswith("adaptive_avg_pool"):
        sizes = Call(node).arg("output_size")
        return rank > _MATRIX and set(sizes if isinstance(sizes, (list, tuple)) else [sizes]) == {1}
    dims = Call(node).arg("dim") if name == "mean" and Call(node).has("dim") else None
    return rank > _MATRIX and {d % rank for d in dims or ()} == set(range(2, rank))


def _pads_for(pad: fx.Node, layer: fx.Node) -> bool:
    """Whether a node pads only the positions of a convolution's input, and with zeros."""
    if op_name(pad) not in _PADS or len(pad.users) > 1 or op_name(layer) not in CONVOLUTIONS:
        return False
    call = Call(pad)
    constant = op_name(pad) == "constant_pad_nd" or call.arg("mode", "constant") == "constant"
    sizes = list(call.arg("pad"))
    inside = len(sizes) <= 2 * (len(layer.meta["val"].shape) - 2)
    return constant and inside and all(isinstance(s, int) and s >= 0 for s in sizes)


def _described(program: Program, node: fx.Node) -> Layer:
    return layers(program)[0][node.name]


def clamp_range(node: fx.Node) -> tuple[float, float]:
    """What a clamp lets through."""
    name, call = op_name(node), Call(node)
    if name in {"relu", "relu6"}:
        return 0.0, 6.0 if name == "relu6" else math.inf
    if name == "hardtanh":
        return float(call.arg("min_val")), float(call.arg("max_val"))
    low = call.arg("min") if call.has("min") else None
    high = call.arg("max") if call.has("max") else None
    return (
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )

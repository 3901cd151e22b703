"""A network and the grids on which it runs in integers.

    program      folded graph; weights lie on their grids, so `grid.quantize(weight)` is exact
    activations  node -> grid of its value, when that is held in integers (network inputs too)
    weights      qualified name -> grid of a stored weight
    fallbacks    node -> why it is computed in floats; it dequantizes what it reads, and its result
                 is quantized again if it has a grid

A node with a grid that is no fallback runs in integers: all it reads has a grid. A node without
either is one of two things: not a tensor of real numbers (sizes, masks), or *fused*: a layer or an
addition whose only reader is a clamp (relu, relu6, hardtanh, clamp) with a grid; its accumulator is
clamped on the integers of that grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, fx

from penjing.errors import InputError
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import is_layer, layer_nodes, stored_names
from penjing.quantization import recurrence
from penjing.quantization.formats import INT32_MAX, Grid, bias_grid
from penjing.quantization.packing import Integers

CLAMPS = frozenset({"relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"})
"""Activations that are a clamp, and so cost nothing behind an accumulator."""

MASK = "masked_fill"
"""What hides positions from a softmax, and is done with it."""

_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A folded program with grids.

    Args:
        program: As `fold_norms` makes it. Weights hold numbers of their grids; biases are floats.
        activations: Grid of every node whose value is held in integers.
        weights: Grid of every weight that is held in integers, by qualified name.
        fallbacks: Why a node is computed in floats, by name.
        scheme: Name of the scheme, such as "int8".
        notes: What is to be said about how it was made, one sentence each.
        cell_bits: Fractional bits of the cells of every LSTM that runs in integers, by node.
    """

    program: Program
    activations: Mapping[str, Grid]
    weights: Mapping[str, Grid]
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    scheme: str = "int8"
    notes: tuple[str, ...] = ()
    cell_bits: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def fused(self) -> Mapping[str, str]:
        """Layers, additions and masks without a grid -> the clamp or softmax that they end in."""
        found: dict[str, str] = {}
        for node in self.program.graph.nodes:
            if node.op != "call_function" or node.name in self.activations:
                continue
            reader = next(iter(node.users), None)
            if (
                reader is not None
                and len(node.users) == 1
                and (op_name(reader) in CLAMPS or op_name(node) == MASK)
                and reader.name in self.activations
                and node.name not in self.fallbacks
            ):
                found[node.name] = reader.name
        return found

    def grid_of(self, node: fx.Node) -> Grid | None:
        """The grid of a node's result, behind the clamp it is fused with; None for floats."""
        return self.activations.get(self.fused.get(node.name, node.name))

    def integer(self, node: fx.Node) -> bool:
        """Whether a node is computed in integers."""
        has = node.name in self.activations or node.name in self.fused
        return has and node.name not in self.fallbacks and node.op == "call_function"

    def integers(self, fqn: str) -> Tensor:
        """A weight as integers of its grid."""
        return self.weights[fqn].quantize(self.program.tensors[fqn].detach().double())

    @cached_property
    def biases(self) -> Mapping[str, Grid]:
        """Grid of the bias of every integer layer, by qualified name: `s_input * s_weight`."""
        found: dict[str, Grid] = {}
        for node in layer_nodes(self.program):
            names = stored_names(self.program, node)
            source = self.activations.get(Call(node).arg("input").name)
            if self.integer(node) and source is not None and "bias" in names:
                found[names["bias"]] = bias_grid(source, self.weights[names["weight"]])
        for node in self.recurrent:
            source = self.activations[Call(node).arg("input").name]
            found.update(recurrence.bias_grids(self.program, node, source, self.weights))
        return found

    @property
    def recurrent(self) -> list[fx.Node]:
        """Recurrent ops that run in integers."""
        nodes = self.program.graph.nodes
        return [n for n in nodes if op_name(n) in recurrence.GATES and self.integer(n)]

    def cells(self, node: fx.Node) -> tuple[recurrence.Cell, ...]:
        """A recurrent op in integers, one cell per layer and direction, in torch's order."""
        found, source = [], self.activations[Call(node).arg("input").name]
        for one in recurrence.directions(self.program, node):
            biases = [b for b in (one.input_bias, one.state_bias) if b is not None]
            arrays = {fqn: self.integers(fqn) for fqn in (one.input, one.state)}
            arrays.update({fqn: self.bias_integers(fqn) for fqn in biases})
            read = recurrence.STATE if one.layer else source
            bits = self.cell_bits.get(node.name, 0)
            found.append(recurrence.cell(op_name(node), one, read, self.weights, arrays, bits))
        return tuple(found)

    def without_recurrence(self, reason: str) -> QuantizedNetwork:
        """The same network with its recurrent ops in floats, on matrices of integers."""
        names = {node.name: reason for node in self.recurrent}
        return replace(self, fallbacks={**self.fallbacks, **names}) if names else self

    def bias_integers(self, fqn: str) -> Tensor:
        """A bias as int32 on its grid.

        Args:
            fqn: Qualified name, one of `biases`.

        Returns:
            int32, a number per channel.

        Raises:
            InputError: It does not fit; `quantize` makes grids on which it does.
        """
        grid, bias = self.biases[fqn], self.program.tensors[fqn].detach().double()
        steps = (bias / grid.scale).abs()
        if bool((steps > INT32_MAX).any()):
            raise InputError(
                f"bias {fqn!r} is {float(bias[int(steps.argmax())]):.4g} in channel "
                f"{int(steps.argmax())}, {float(steps.max()):.3g} steps of its grid, more than 32 "
                "bits hold; quantize the network in floats again"
            )
        return grid.quantize(bias)

    def size_bytes(self) -> int:
        """Bytes of all stored tensors and scales: packed weights, int32 biases, the rest in floats.

        Zeros of weights are left out where that is smaller, as `save` does. Each weight grid counts
        4 bytes per scale, each activation grid 5, scale and zero point.
        """
        size = 0
        for fqn, tensor in self._once().items():
            grid = self.weights.get(fqn)
            if grid is not None:
                size += Integers.of(self.integers(fqn), grid.bits).size_bytes
                size += _FLOAT_BYTES * grid.scale.numel()
            else:
                size += tensor.numel() * tensor.element_size()
        different = {(float(g.scale), g.zero_point) for g in self.activations.values()}
        return size + (_FLOAT_BYTES + 1) * len(different)

    def _once(self) -> dict[str, Tensor]:
        """Stored tensors, tied ones once."""
        seen: dict[int, str] = {}
        for fqn in self.program.stored.values():
            seen.setdefault(id(self.program.tensors[fqn]), fqn)
        return {fqn: self.program.tensors[fqn] for fqn in seen.values()}

    @cached_property
    def layer_bits(self) -> Mapping[str, int]:
        """Bits of the weight of every integer layer, by the layer's qualified name."""
        found: dict[str, int] = {}
        for node in layer_nodes(self.program):
            fqn = stored_names(self.program, node).get("weight", "")
            if self.integer(node) and fqn in self.weights:
                found[fqn.rpartition(".")[0]] = self.weights[fqn].bits
        return found

    def summary(self) -> Mapping[str, int]:
        """How many nodes run in integers, how many fell back, and how many layers there are."""
        nodes = [n for n in self.program.graph.nodes if n.op == "call_function"]
        layers = [n for n in nodes if is_layer(n)]
        return {
            "integer": sum(self.integer(n) for n in nodes),
            "fallback": len(self.fallbacks),
            "layers": len(layers),
            "integer_layers": sum(self.integer(n) for n in layers),
        }

"""Simulation: a quantized network run in floats, every value on its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.capture import Program
from penjing.quantization.formats import Grid
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.recurrence import STATE, run

Visit = Callable[[fx.Node, Any], Any]
"""Node and its value -> the value that its readers get."""


class Faked:
    """An op whose result is brought to a grid.

    Args:
        target: The op.
        grid: Where its result goes.
    """

    def __init__(self, target: Any, grid: Grid) -> None:
        self.target, self.grid = target, grid
        self.__name__ = getattr(target, "__name__", str(target))

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The op's result on the grid."""
        return self.grid.fake(self.target(*args, **kwargs))


class Recurred:
    """A recurrent op in integers, between floats.

    Args:
        network: Has the op.
        node: The op.
    """

    def __init__(self, network: QuantizedNetwork, node: fx.Node) -> None:
        call = Call(node)
        self.__name__ = op_name(node)
        self.source = network.activations[call.arg("input").name]
        self.cells = network.cells(node)
        self.directions = 2 if call.arg("bidirectional") else 1
        self.batch_first = bool(call.arg("batch_first"))

    def __call__(self, x: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor | None, ...]:
        """Every state of the last layer, the last state of every direction, and no cell."""
        q_NTI = self.source.quantize(x).long() - self.source.zero_point
        q_NTI = q_NTI if self.batch_first else q_NTI.movedim(0, 1)
        last: list[Tensor] = []
        for first in range(0, len(self.cells), self.directions):
            sides = self.cells[first : first + self.directions]
            states = [run(cell, q_NTI) for cell in sides]
            last += [s[:, 0 if c.reverse else -1] for c, s in zip(sides, states, strict=True)]
            q_NTI = torch.cat(states, 2)
        q = q_NTI if self.batch_first else q_NTI.movedim(1, 0)
        return STATE.dequantize(q, x.dtype), STATE.dequantize(torch.stack(last), x.dtype), None


@dataclass(frozen=True, eq=False, slots=True)
class Simulation:
    """A program that computes what a quantized network does, up to one step per value.

    Args:
        program: Nodes of the network's own names; results lie on their grids.
        inputs: Grid of each flat input, None where it stays as it is.
    """

    program: Program
    inputs: tuple[Grid | None, ...]

    def on_grid(self, flat: list[Any]) -> list[Any]:
        """Inputs as the integer network sees them."""
        return [
            v if g is None or not isinstance(v, Tensor) else g.fake(v)
            for v, g in zip(flat, self.inputs, strict=True)
        ]

    def run(self, flat: list[Any], visit: Visit | None = None) -> list[Any]:
        """Flat inputs to flat outputs; `visit` may look at every value on the way.

        Args:
            flat: Inputs, in the order of the program's.
            visit: Sees, and may replace, each node's value.

        Returns:
            Flat outputs.
        """
        return walk(self.program, self.on_grid(flat), visit)


def simulate(network: QuantizedNetwork) -> Simulation:
    """The simulation of a quantized network.

    Args:
        network: Only read.

    Returns:
        The simulation; biases are rounded to their grids as well.
    """
    tensors = dict(network.program.tensors)
    for fqn, grid in network.biases.items():
        whole = grid.dequantize(network.bias_integers(fqn), torch.float64)
        tensors[fqn] = whole.to(tensors[fqn].dtype)
    program = on_grids(network)
    grids = tuple(network.activations.get(name) for name in network.program.inputs)
    return Simulation(replace(program, tensors=tensors), grids)


def on_grids(network: QuantizedNetwork) -> Program:
    """The program of a network, every value brought to its grid; names and tensors stay.

    Args:
        network: Only read.

    Returns:
        The program; recurrent ops compute in integers, on the weights that `network` has.
    """
    program, grids = network.program, network.activations
    recurrent = {node.name: Recurred(network, node) for node in network.recurrent}
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for old in program.graph.nodes:
        twin = twins[old] = graph.node_copy(old, lambda n: twins[n])
        twin.name, twin.meta = old.name, dict(old.meta)
        if old.name in recurrent:
            twin.target = recurrent[old.name]
        elif old.op == "call_function" and old.name in grids and is_tensor(old):
            twin.target = Faked(old.target, grids[old.name])
    holder: Any = _Holder(program.graph_module, graph)
    return replace(program, graph_module=holder)


def walk(program: Program, flat: list[Any], visit: Visit | None = None) -> list[Any]:
    """Run a program node by node, freeing what nothing reads any more.

    Args:
        program: Only read.
        flat: Inputs, in the order of the program's.
        visit: Sees, and may replace, the value of each input and computed node.

    Returns:
        Flat outputs.
    """
    values: dict[fx.Node, Any] = {}
    bound = program.bind(flat)
    left = {node: len(node.users) for node in program.graph.nodes}
    for node in program.graph.nodes:
        if node.op == "output":
            return list(fx.node.map_arg(node.args[0], values.__getitem__))
        if node.op == "placeholder":
            value = bound[node.name]
        elif node.op == "get_attr":
            value = getattr(program.graph_module, str(node.target))
        else:
            args = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            value = node.target(*args[0], **args[1])
        stored = node.name in program.stored
        values[node] = value if visit is None or stored else visit(node, value)
        for source in node.all_input_nodes:
            left[source] -= 1
            if not left[source]:
                values.pop(source, None)
    return []


class _Holder(torch.nn.Module):
    """What a program needs of a graph module, without generating code for its graph."""

    def __init__(self, original: torch.nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self.graph = graph
        for node in graph.nodes:
            if node.op == "get_attr":
                setattr(self, str(node.target), getattr(original, str(node.target)))

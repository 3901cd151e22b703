"""Recurrent layers in integers, and the last states that are read of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import fx

from penjing.graph.call import Call, op_name
from penjing.quantization.integers import IntegerLayer, IntegerTensor
from penjing.quantization.lowering.builder import Builder, Value
from penjing.quantization.recurrence import GATES, STATE

_SEQUENCE = 2  # dimensions of a sample: steps, features


def lower(b: Builder, node: fx.Node) -> None:
    """One layer per direction, side by side, one after the other."""
    call = Call(node)
    if not call.arg("batch_first"):
        raise b.refuse(node, "its inputs are (step, sample, ...); only batch_first has a kernel")
    given = b.given(call.arg("input"))
    if len(given) != _SEQUENCE:
        raise b.refuse(node, "its inputs are one sequence without a batch")
    value = b.arranged(b.value(call.arg("input"), node), channels_first=False)
    cells, sides = b.network.cells(node), 2 if call.arg("bidirectional") else 1
    last: list[Value] = []
    for number in range(0, len(cells), sides):
        made: list[Value] = []
        for cell in cells[number : number + sides]:
            place = number + len(made)
            hidden = cell.arrays["state"].shape[1]
            result = _sequence(b, f"{node.name}_{place}", (given[0], hidden))
            weights = {name: np.asarray(array.numpy()) for name, array in cell.arrays.items()}
            attributes = {"reverse": cell.reverse, "cell_bits": cell.cell_bits}
            b.layers.append(
                IntegerLayer(
                    cell.kind, result.tensor, (value.tensor,), result.tensor, attributes, weights
                )
            )
            made.append(result)
            last.append(_step(b, node, result, 0 if cell.reverse else -1))
        value = made[0] if sides == 1 else _beside(b, f"{node.name}_{number}_sides", made)
    b.values[node.name] = value
    b.states[node.name] = tuple(last)


def part(b: Builder, node: fx.Node) -> None:
    """All states of the last layer; last states are taken by `state`."""
    op, number = node.args[:2]
    assert isinstance(op, fx.Node)
    if number == 0 and op.name in b.values:
        b.values[node.name] = replace(b.values[op.name], given=b.given(node))


def is_last_states(node: fx.Node) -> bool:
    """Whether a node yields the last state of every layer and direction."""
    whole = op_name(node) == "getitem" and op_name(node.all_input_nodes[0]) in GATES
    return whole and bool(node.args[1] == 1)


def state(b: Builder, node: fx.Node) -> None:
    """The last state of one layer and direction."""
    call, read = Call(node), next(n for n in node.all_input_nodes if is_last_states(n))
    states = b.states.get(read.all_input_nodes[0].name, ())
    one = op_name(node) == "select" or (op_name(node) == "squeeze" and len(states) == 1)
    dim = call.arg("dim") if one and call.has("dim") else None
    if not isinstance(dim, int) or dim % len(b.network.program.shape(read)) != 0:
        raise b.refuse(node, "of last states only one at a time, such as h[-1], has a kernel")
    b.values[node.name] = states[call.arg("index") if op_name(node) == "select" else 0]


def _sequence(b: Builder, name: str, given: tuple[int, int]) -> Value:
    grid = (float(STATE.scale), STATE.zero_point)
    b.tensors[name] = IntegerTensor(name, (1, *given), *grid, given, False)
    return Value(name, given, False)


def _step(b: Builder, node: fx.Node, states: Value, number: int) -> Value:
    """States after one step; the layer falls away when nothing reads it."""
    index = b.positions(states)[0, number]
    return b.moved(states.tensor, index, index.shape, channels_first=False, node=node)


def _beside(b: Builder, name: str, sides: list[Value]) -> Value:
    steps, hidden = sides[0].given
    result = _sequence(b, name, (steps, len(sides) * hidden))
    attributes = {"parts": (None,) * len(sides), "runs": steps}
    reads = tuple(side.tensor for side in sides)
    b.layers.append(IntegerLayer("concat", name, reads, name, attributes))
    return result

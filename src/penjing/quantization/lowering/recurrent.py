"""Recurrent layers in integers, and the last states that are read of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import fx

from penjing.graph.call import Call, op_name
from penjing.quantization.integers import IntegerLayer, IntegerTensor
from penjing.quantization.lowering.batches import Batch
from penjing.quantization.lowering.builder import Builder, Value
from penjing.quantization.lowering.movement import join
from penjing.quantization.recurrence import GATES, STATE

_SEQUENCE = 2  # dimensions of a sample: steps, features


def lower(b: Builder, node: fx.Node) -> None:
    """One layer per direction, side by side, one after the other."""
    call = Call(node)
    given, batch = b.given(call.arg("input")), b.batch(call.arg("input"))
    if len(given) != _SEQUENCE or batch.dim != (not call.arg("batch_first")):
        raise b.refuse(node, "its inputs are no batch of sequences")
    b.batches[node.name] = batch
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
    """All states of the last layer, or the last state of every layer and direction."""
    op, number = node.args[:2]
    assert isinstance(op, fx.Node)
    if op.name not in b.values:
        return
    if number == 0:
        b.batches[node.name] = b.batch(op)
        b.values[node.name] = replace(b.values[op.name], given=b.given(node))
    elif number == 1 and node.users and not all(_takes_one(b, user) for user in node.users):
        _all_states(b, node, b.states[op.name])


def _all_states(b: Builder, node: fx.Node, states: tuple[Value, ...]) -> None:
    """Last states one after the other: layers and directions come before the samples."""
    b.batches[node.name] = Batch(1)
    given = b.given(node)
    if len(states) == 1:
        index = b.positions(states[0]).reshape(given)
        b.values[node.name] = b.moved(states[0].tensor, index, given, channels_first=False)
        return
    made = b.derived(states[0].tensor, "states", given, channels_first=False)
    join(b, made.tensor, [state.tensor for state in states], 1)
    b.values[node.name] = made


def is_last_states(node: fx.Node) -> bool:
    """Whether a node yields the last state of every layer and direction."""
    whole = op_name(node) == "getitem" and op_name(node.all_input_nodes[0]) in GATES
    return whole and bool(node.args[1] == 1)


def _takes_one(b: Builder, node: fx.Node) -> bool:
    """Whether a node takes the last state of one layer and direction."""
    read = node.all_input_nodes[0] if node.all_input_nodes else node
    if not is_last_states(read) or op_name(node) not in {"select", "squeeze"}:
        return False
    rank, dim = len(b.network.program.shape(read)), Call(node).arg("dim")
    alone = b.network.program.shape(read)[0] == 1
    return isinstance(dim, int) and dim % rank == 0 and (op_name(node) == "select" or alone)


def state(b: Builder, node: fx.Node) -> bool:
    """The last state of one layer and direction; False for any other reader of last states."""
    if not _takes_one(b, node):
        return False
    states = b.states[node.all_input_nodes[0].all_input_nodes[0].name]
    b.values[node.name] = states[Call(node).arg("index") if op_name(node) == "select" else 0]
    return True


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

"""Recurrent layers in integers: what GRU, LSTM and tanh RNN compute on int8 matrices and states.

    sums        int8 inputs and states by int8 matrices in int32, as those of every layer; each is
                brought to int16 with `GATE_BITS` fractional bits, then both are added
    gates       sigmoid and tanh of int16, between entries of a table; `UNIT_BITS` fractional bits
    state       what is multiplied in the next step and goes out is int8 on the grid `STATE`; a GRU
                keeps its state in int16 beside that, an LSTM its cell, so that small changes add up

Source:
    The formats are those of TensorFlow Lite's int8 LSTM (Q3.12 into the gates, Q0.15 out of them, a
    cell of int16 with a power of two for a step); its state has a scale of its own, ours is fixed.
    The GRU, for which it has no form, follows the same rules.

Suffixes: N = batch, T = steps, I = inputs, H = hidden units, R = rows of all gates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.quantization.formats import Grid, bias_grid, multipliers, rescale

GATES: Mapping[str, int] = {"gru": 3, "lstm": 4, "rnn_tanh": 1}
"""Recurrent ops with an integer form, and how many rows a hidden unit has in each."""

GATE_BITS = 12
"""Fractional bits of what goes into a gate: its range is [-8, 8)."""

UNIT_BITS = 15
"""Fractional bits of numbers in [-1, 1): gates, and states in 16 bits."""

STATE = Grid(scale=torch.tensor(2.0**-7, dtype=torch.float64))
"""Grid of every state that is multiplied or read."""

_TABLE_BITS = 7  # of a gate's input, between two entries of a table
_ENTRIES = 257
_LOW16, _HIGH16 = -(2**15), 2**15 - 1
_STATE_SHIFT = UNIT_BITS - 7  # from 16 bits to `STATE`

Arrays = Mapping[str, Tensor]
Past = tuple[Tensor, Tensor]
"""What a cell keeps in 16 bits, and its state in 8."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of one layer of a recurrent op, and the names of what it stores.

    Args:
        layer: Number of the layer.
        reverse: Whether it runs from the last step to the first.
        input: Qualified name of the matrix of the inputs.
        state: Of the matrix of the state.
        input_bias: Of the bias that is added to the inputs' sums, None without one.
        state_bias: Of the bias that is added to the state's sums.
    """

    layer: int
    reverse: bool
    input: str
    state: str
    input_bias: str | None
    state_bias: str | None


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One direction of one layer in integers.

    Args:
        kind: "gru", "lstm" or "rnn".
        reverse: Whether it runs from the last step to the first.
        cell_bits: Fractional bits of an LSTM's cell.
        arrays: `input` (R, I) and `state` (R, H) int8; `input_bias` and `state_bias` (R,) int32;
            `input_multiplier`, `input_shift`, `state_multiplier`, `state_shift` (R,) int32, from
            sums to gates; `sigmoid` and `tanh` (257,) int16.
    """

    kind: str
    reverse: bool
    cell_bits: int
    arrays: Arrays


def obstacle(program: Program, node: fx.Node) -> str | None:
    """Why a recurrent op cannot run in integers; None when it can."""
    call, name = Call(node), op_name(node)
    if name not in GATES:
        return f"{name} has no integer form"
    if call.has("data"):
        return "it runs over packed sequences"
    params = call.arg("params")
    if len(params) != len(_places(node)) * (4 if call.arg("has_biases") else 2):
        return "its state is projected"
    if any(p.name not in program.stored or len(p.users) > 1 for p in params):
        return "its weights are computed, or read elsewhere as well"
    given = call.arg("hx")
    states = given if isinstance(given, (list, tuple)) else [given]
    if any(op_name(state) != "zeros" for state in states):
        return "its first state is given, not zero"
    cells = (user for user in node.users if name == "lstm" and user.args[1] == 2)
    return "its cell state is read" if any(user.users for user in cells) else None


def directions(program: Program, node: fx.Node) -> tuple[Direction, ...]:
    """What a recurrent op consists of, layer by layer, forward before backward."""
    call, stored = Call(node), program.stored
    params = [stored[p.name] for p in call.arg("params")]
    places = _places(node)
    each = len(params) // len(places)
    found = []
    for number, (layer, reverse) in enumerate(places):
        first, second, *biases = params[number * each : (number + 1) * each]
        left, right = biases if biases else (None, None)
        found.append(Direction(layer, reverse, first, second, left, right))
    return tuple(found)


def bias_grids(
    program: Program, node: fx.Node, source: Grid, weights: Mapping[str, Grid]
) -> dict[str, Grid]:
    """Grids of the biases of a recurrent op, by qualified name."""
    found: dict[str, Grid] = {}
    for one in directions(program, node):
        read = STATE if one.layer else source
        for bias, matrix, grid in (
            (one.input_bias, one.input, read),
            (one.state_bias, one.state, STATE),
        ):
            if bias is not None:
                found[bias] = bias_grid(grid, weights[matrix])
    return found


def cell(
    kind: str, one: Direction, source: Grid, weights: Mapping[str, Grid], arrays: Arrays, bits: int
) -> Cell:
    """One direction in integers.

    Args:
        kind: ATen name of the op.
        one: Which direction.
        source: Grid of what it reads.
        weights: Grids of its matrices.
        arrays: Integers of its matrices and biases, by qualified name.
        bits: Fractional bits of an LSTM's cell.

    Returns:
        What `run` takes.
    """
    found: dict[str, Tensor] = {}
    for side, fqn, bias, grid in (
        ("input", one.input, one.input_bias, source),
        ("state", one.state, one.state_bias, STATE),
    ):
        rows = len(arrays[fqn])
        real = (grid.scale * weights[fqn].scale * 2**GATE_BITS).expand(rows)
        multiplier, shift = multipliers(real)
        found[side] = arrays[fqn].to(torch.int8)
        found[f"{side}_bias"] = (
            torch.zeros(rows, dtype=torch.int32) if bias is None else arrays[bias].int()
        )
        found[f"{side}_multiplier"], found[f"{side}_shift"] = multiplier.int(), shift.int()
    found["tanh"] = _table(torch.tanh)
    if kind != "rnn_tanh":
        found["sigmoid"] = _table(torch.sigmoid)
    return Cell("rnn" if kind == "rnn_tanh" else kind, one.reverse, bits, found)


def run(cell: Cell, x_NTI: Tensor) -> Tensor:
    """All steps of one direction, from a state of zero.

    Args:
        cell: The direction.
        x_NTI: Integers less their zero point, int64.

    Returns:
        States on the grid `STATE`, `(N, T, H)` int64.
    """
    zeros = torch.zeros(len(x_NTI), cell.arrays["state"].shape[1], dtype=torch.int64)
    return run_from(cell, x_NTI, (zeros, zeros))[0]


def run_from(cell: Cell, x_NTI: Tensor, past: Past) -> tuple[Tensor, Past]:
    """All steps of one direction, from any state.

    Args:
        cell: The direction.
        x_NTI: Integers less their zero point, int64.
        past: What was kept, and the state in 8 bits, `(N, H)` int64 each.

    Returns:
        States as `run` gives them, and the last of both kinds.
    """
    arrays = {name: array.long() for name, array in cell.arrays.items()}
    gates_NTR = _into_gates(arrays, "input", x_NTI)
    kept, small = past
    states = []
    steps = range(x_NTI.shape[1])
    for t in reversed(steps) if cell.reverse else steps:
        kept, small = _STEPS[cell.kind](
            cell, gates_NTR[:, t], _into_gates(arrays, "state", small), kept
        )
        states.append(small)
    return torch.stack(states[::-1] if cell.reverse else states, 1), (kept, small)


def _into_gates(arrays: Arrays, side: str, x: Tensor) -> Tensor:
    """Sums in int32, then int16 with `GATE_BITS` fractional bits."""
    sums = (x.double() @ arrays[side].double().T).round().long() + arrays[f"{side}_bias"]
    return _int16(rescale(sums, arrays[f"{side}_multiplier"], arrays[f"{side}_shift"]))


Step = Callable[[Cell, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Cell, both sums, and what was kept -> what is kept, and the state in 8 bits."""


def _gru(cell: Cell, a: Tensor, b: Tensor, state16: Tensor) -> tuple[Tensor, Tensor]:
    a_r, a_z, a_n = a.chunk(3, 1)
    b_r, b_z, b_n = b.chunk(3, 1)
    reset, update = _sigmoid(cell, a_r + b_r), _sigmoid(cell, a_z + b_z)
    fresh = _tanh(cell, a_n + shifted(reset * b_n, UNIT_BITS))
    state16 = fresh + shifted(update * (state16 - fresh), UNIT_BITS)
    return state16, _state(state16, _STATE_SHIFT)


def _lstm(cell: Cell, a: Tensor, b: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    first, forget, fresh, out = (a + b).chunk(4, 1)
    kept = shifted(_sigmoid(cell, forget) * held, UNIT_BITS)
    added = _sigmoid(cell, first) * _tanh(cell, fresh)
    held = _int16(kept + shifted(added, 2 * UNIT_BITS - cell.cell_bits))
    down = cell.cell_bits - GATE_BITS
    seen = shifted(held, down) if down >= 0 else held << -down
    shown = _sigmoid(cell, out) * _tanh(cell, seen)
    return held, _state(shown, UNIT_BITS + _STATE_SHIFT)


def _rnn(cell: Cell, a: Tensor, b: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    return kept, _state(_tanh(cell, a + b), _STATE_SHIFT)


_STEPS: Mapping[str, Step] = {"gru": _gru, "lstm": _lstm, "rnn": _rnn}


def shifted(x: Tensor, bits: int) -> Tensor:
    """`x / 2^bits`, rounded with halves upward."""
    return (x + (1 << bits >> 1)) >> bits


def _int16(x: Tensor) -> Tensor:
    return x.clamp(_LOW16, _HIGH16)


def _state(x: Tensor, bits: int) -> Tensor:
    return shifted(x, bits).clamp(STATE.low, STATE.high)


def _tanh(cell: Cell, x: Tensor) -> Tensor:
    return torch.sign(x) * _looked_up(cell.arrays["tanh"], x)


def _sigmoid(cell: Cell, x: Tensor) -> Tensor:
    above = _looked_up(cell.arrays["sigmoid"], x)
    return torch.where(x < 0, _HIGH16 - above, above)


def _looked_up(table: Tensor, x: Tensor) -> Tensor:
    """A function at |x|, between two entries of its table."""
    place = x.abs().clamp_max(_HIGH16)
    entry, between = place >> _TABLE_BITS, place & ((1 << _TABLE_BITS) - 1)
    left, right = table.long()[entry], table.long()[entry + 1]
    return left + shifted((right - left) * between, _TABLE_BITS)


def _table(function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function on [0, 8] with `UNIT_BITS` fractional bits."""
    step = 2.0 ** (_TABLE_BITS - GATE_BITS)
    values = function(torch.arange(_ENTRIES, dtype=torch.float64) * step)
    return (values * 2.0**UNIT_BITS).round().clamp_max(_HIGH16).to(torch.int16)


def largest_cell(program: Program, node: fx.Node, x: Tensor) -> float:
    """Largest magnitude in the cells of an LSTM, computed in floats.

    Args:
        program: Its tensors are floats.
        node: The LSTM.
        x: What it reads.

    Returns:
        Over all layers, directions, samples, steps and units.
    """
    x_NTI = x if Call(node).arg("batch_first") else x.movedim(0, 1)
    largest, sides = 0.0, list[Tensor]()
    before = 0
    for one in directions(program, node):
        if one.layer != before:
            x_NTI, sides, before = torch.cat(sides, 2), [], one.layer
        states, extent = _float_lstm(program, one, x_NTI)
        sides.append(states)
        largest = max(largest, extent)
    return largest


def fraction_bits(largest: float) -> int:
    """Fractional bits of int16 numbers up to a magnitude."""
    whole = math.ceil(math.log2(largest)) if largest > 1 else 0
    return max(UNIT_BITS - whole, 0)


def _float_lstm(program: Program, one: Direction, x_NTI: Tensor) -> tuple[Tensor, float]:
    """States of one direction, and the largest magnitude of its cells."""
    w_RI, w_RH, b_R, c_R = (
        None if fqn is None else program.tensors[fqn].detach()
        for fqn in (one.input, one.state, one.input_bias, one.state_bias)
    )
    assert w_RI is not None  # a recurrent op has both matrices
    assert w_RH is not None
    state = held = x_NTI.new_zeros(len(x_NTI), w_RH.shape[1])
    states, largest = [], 0.0
    steps = range(x_NTI.shape[1])
    for t in reversed(steps) if one.reverse else steps:
        gates = F.linear(x_NTI[:, t], w_RI, b_R) + F.linear(state, w_RH, c_R)
        first, forget, fresh, out = gates.chunk(4, 1)
        held = forget.sigmoid() * held + first.sigmoid() * fresh.tanh()
        state = out.sigmoid() * held.tanh()
        largest = max(largest, float(held.abs().max()))
        states.append(state)
    return torch.stack(states[::-1] if one.reverse else states, 1), largest


def _places(node: fx.Node) -> list[tuple[int, bool]]:
    """Number and direction of every layer, in the order of the stored tensors."""
    call = Call(node)
    both = (False, True) if call.arg("bidirectional") else (False,)
    return [(layer, reverse) for layer in range(call.arg("num_layers")) for reverse in both]

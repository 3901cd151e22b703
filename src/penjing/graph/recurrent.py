"""Recurrent ops: hidden units are an axis that goes through gates, states and layers together.

A hidden unit whose weights, biases and state are zero stays zero at every step: a GRU's candidate
is tanh(0), an LSTM's cell adds tanh(0), a plain cell is tanh(0) or relu(0), so masking is exact.
torch keeps the states of all layers and directions in one tensor, so their units go together. It
knows an LSTM with projections by states of two sizes: there the projected units may go, which are
fewer from the start, and the others stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from torch import fx

from penjing.graph.axes import Dim, fixed, join
from penjing.graph.rules import Labels, Rule, Site

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Ops over sequences, and how many gates a hidden unit has in each."""

CELLS = {f"{name}_cell": gates for name, gates in GATES.items()}
"""Ops of one step."""


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction of one layer.

    Args:
        units: Hidden units, which are those of the cell state.
        output: What it gives, the units or their projection.
    """

    units: Dim
    output: Dim


def recurrent(site: Site) -> list[Labels]:
    """A whole recurrence: layers, directions, projections; packed sequences too."""
    call = site.call
    packed = call.has("data")
    x = site.must("data" if packed else "input")
    time = 1 if not packed and len(x) == 3 and call.arg("batch_first") else 0
    site.lock([x[time]], "runs over it")
    batch = [dim for axis, dim in enumerate(x[:-1]) if axis != time]
    states = _states(site)
    last, feature = _stack(site, x[-1])
    first = last[0]
    for state, dim in zip(states, [first.output, first.units], strict=False):
        site.lock([state[0]], "layers and directions")
        site.unify(state[-1], dim, "state")
        for mine, theirs in zip(state[1:-1], batch, strict=False):
            site.unify(mine, theirs, "batch")
    kept = [[fixed(len(state[0])), *state[1:-1]] for state in states]
    ends = [first.output, first.units]
    return [[*x[:-1], feature], *([*k, end] for k, end in zip(kept, ends, strict=False))]


def cell(site: Site) -> list[Labels]:
    """One step of one layer."""
    x, states = site.must("input"), _states(site)
    names = [name for name in ("w_ih", "w_hh", "b_ih", "b_hh") if site.labels(name) is not None]
    one = _direction(site, x[-1], [site.must(name) for name in names], CELLS[site.call.name])
    for state in states:
        site.unify(state[-1], one.units, "state")
        for mine, theirs in zip(state[:-1], x[:-1], strict=True):
            site.unify(mine, theirs, "batch")
    return [[*x[:-1], one.units] for _ in site.shapes]


def _states(site: Site) -> list[Labels]:
    """Labels of the hidden state, and of the cell state where there is one."""
    given = site.call.arg("hx")
    nodes = given if isinstance(given, (list, tuple)) else [given]
    return [site.labels_of(node) for node in nodes if isinstance(node, fx.Node)]


def _stack(site: Site, feature: Dim) -> tuple[list[_Direction], Dim]:
    """All layers; the directions of the last one and what they give side by side."""
    call = site.call
    directions = 2 if call.arg("bidirectional") else 1
    layers = call.arg("num_layers")
    params = [site.labels_of(node) for node in call.arg("params")]
    each = len(params) // (layers * directions)
    row: list[_Direction] = []
    for layer in range(layers):
        before, row = row, []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            held = params[start : start + each]
            row.append(_direction(site, feature, held, GATES[call.name]))
        for left, right in pairwise([*before[:1], *row]):
            site.unify(left.output, right.output, "states of all layers")
            site.unify(left.units, right.units, "states of all layers")
        feature = join([one.output for one in row])
    return row, feature


def _direction(site: Site, feature: Dim, held: Sequence[Labels], gates: int) -> _Direction:
    """Weights `(gates * units, ...)`, biases of the same rows, then the projection if any."""
    into, back = held[0], held[1]
    projection = held[-1] if len(held) in {3, 5} else None
    site.unify(feature, into[1], "input")
    units: list[Dim] = []
    for tensor in held if projection is None else held[:-1]:
        sizes = [gates, len(tensor[0]) // gates]
        gate, unit = site.atoms.split(tensor[0], sizes, site.reason("gates"))
        site.lock([gate], "gates")
        units.append(unit)
    for left, right in pairwise(units):
        site.unify(left, right, "gates")
    output = units[0]
    if projection is not None:
        site.unify(projection[1], units[0], "projection")
        site.lock([units[0]], "with projections has no other sign than sizes that differ")
        output = projection[0]
    site.unify(output, back[1], "recurrence")
    return _Direction(units[0], output)


RECURRENT: Mapping[str, Rule] = MappingProxyType(
    {**dict.fromkeys(GATES, recurrent), **dict.fromkeys(CELLS, cell)}
)
"""One rule per recurrent op."""

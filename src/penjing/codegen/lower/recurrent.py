"""LSTM, GRU and plain recurrence: the products with the inputs of all steps first, then the steps.

Layers "lstm", "gru" and "rnn" read the projected inputs (T, N, G H) with every bias of the input in
them, and the first state; they hold "weight" (G H, H), and "bias" (G H) of the recurrent product
for the GRU, whose reset gate acts on it. Gates lie in torch's order. Outputs: (T, N, H), and the
last states (N, H).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penjing.codegen.lower.movement import moved
from penjing.codegen.lower.products import op_array
from penjing.codegen.lower.trace import Op, Rule, Trace, Value


@dataclass(frozen=True, slots=True)
class _Step:
    """Weights and first states of one layer in one direction."""

    weights: Sequence[np.ndarray]
    states: Sequence[Value]
    reverse: bool


def _recurrent(kind: str) -> Rule:
    def rule(trace: Trace, op: Op) -> list[Value]:
        if "data" in op.arguments:
            op.refuse("of packed sequences")
        x = trace.hold(op.get("input"))
        given = op.get("hx")
        states = list(given) if isinstance(given, (list, tuple)) else [given]
        batch_first = bool(op.get("batch_first", False))
        if len(x.shape) != 3:
            op.refuse("without a batch dimension")
        if batch_first:
            x = moved(trace, op, x, lambda i: i.swapaxes(0, 1), "steps")
        x, last = _stack(trace, op, kind, x, [trace.hold(s) for s in states])
        if batch_first:
            x = moved(trace, op, x, lambda i: i.swapaxes(0, 1), "batch")
        return [x, *last]

    return rule


def _stack(
    trace: Trace, op: Op, kind: str, x: Value, states: Sequence[Value]
) -> tuple[Value, list[Value]]:
    """All layers and directions; the last states stacked as torch does."""
    biases, layers = bool(op.get("has_biases")), int(op.get("num_layers"))
    directions = 2 if op.get("bidirectional") else 1
    each = 2 + 2 * biases
    arrays = [op_array(w) for w in op.get("params")]
    if len(arrays) != each * layers * directions:
        op.refuse("with projections")
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(layers):
        parts = []
        for direction in range(directions):
            at = layer * directions + direction
            first = [moved(trace, op, s, lambda i, at=at: i[at], "first") for s in states]  # type: ignore[misc]
            step = _Step(arrays[at * each : (at + 1) * each], first, direction == 1)
            y, ends = _one(trace, op, kind, x, step)
            parts.append(y)
            for listed, end in zip(last, ends, strict=True):
                listed.append(moved(trace, op, end, lambda i: i[None], "state"))
        x = parts[0] if directions == 1 else _joined(trace, op, parts, 2)
    return x, [one[0] if len(one) == 1 else _joined(trace, op, one, 0) for one in last]


def _joined(trace: Trace, op: Op, parts: Sequence[Value], dim: int) -> Value:
    shape = list(parts[0].shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    made = trace.tensor(f"{op.node.name}_joined", shape)
    return trace.add("concat", op, list(parts), [made], dim=dim)


def _one(trace: Trace, op: Op, kind: str, x: Value, step: _Step) -> tuple[Value, list[Value]]:
    weight_x, weight_h = step.weights[:2]
    wide, hidden = weight_h.shape
    bias_x = step.weights[2] if len(step.weights) > 2 else np.zeros(wide, np.float32)
    bias_h = step.weights[3] if len(step.weights) > 2 else np.zeros(wide, np.float32)
    keep = np.zeros(wide, np.float32)
    if kind == "gru":  # of the new gate, the reset gate multiplies the recurrent part
        keep[2 * hidden :] = bias_h[2 * hidden :]
    length, batch = x.shape[:2]
    base = op.node.name
    projected = trace.tensor(f"{base}_projected", (length, batch, wide))
    trace.add(
        "linear",
        op,
        [x],
        [projected],
        weights={"weight": weight_x, "bias": bias_x + (bias_h - keep)},
        activation=None,
    )
    out = trace.tensor(f"{base}_steps", (length, batch, hidden))
    ends = [trace.tensor(f"{base}_end", (batch, hidden)) for _ in step.states]
    trace.add(
        kind.removesuffix("_relu").removesuffix("_tanh"),
        op,
        [projected, *step.states],
        [out, *ends],
        weights={"weight": weight_h, "bias": keep if kind == "gru" else None},
        reverse=step.reverse,
        activation="relu" if kind == "rnn_relu" else "tanh",
    )
    return out, ends


def _cell(kind: str) -> Rule:
    """One step of a layer: a sequence of length one."""

    def rule(trace: Trace, op: Op) -> Value | list[Value]:
        given = op.get("hx")
        states = [trace.hold(s) for s in (given if isinstance(given, (list, tuple)) else [given])]
        x = moved(trace, op, trace.hold(op.get("input")), lambda i: i[None], "step")
        if len(x.shape) != 3:
            op.refuse("without a batch dimension")
        weights = [op.get(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        arrays = [op_array(w) for w in weights if w is not None]
        _, ends = _one(trace, op, kind, x, _Step(arrays, states, reverse=False))
        return ends if kind == "lstm" else ends[0]

    return rule


KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
RULES: Mapping[str, Rule] = {
    **{name: _recurrent(name) for name in KINDS},
    **{f"{name}_cell": _cell(name) for name in KINDS},
}

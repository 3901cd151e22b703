"""Sums, means and extrema over dimensions; the largest values; softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penjing.codegen.lower.trace import Missing, Op, Rule, Trace, Value


def _dims(op: Op, rank: int) -> tuple[int, ...]:
    given: Any = op.get("dim")
    if given is None or given == []:
        return tuple(range(rank))
    listed = [given] if isinstance(given, int) else list(given)
    return tuple(sorted(int(d) % max(rank, 1) for d in listed))


def _reduce(mode: str) -> Rule:
    def rule(trace: Trace, op: Op) -> Value | list[Value]:
        if "other" in op.arguments:
            op.refuse("of two tensors in this form")
        x = trace.hold(op.get("self", op.get("input")))
        dims = _dims(op, len(x.shape))
        made = trace.add("reduce", op, [x], [trace.result(op)], mode=mode, dims=dims)
        if len(op.results) == 1:
            return made
        places = trace.result(op, 1)
        return [made, trace.add("reduce", op, [x], [places], mode=f"arg{mode}", dims=dims)]

    return rule


def _variance(trace: Trace, op: Op) -> Value:
    """Mean of squares around the mean, in two passes."""
    x = trace.hold(op.get("self"))
    dims = _dims(op, len(x.shape))
    count = 1
    for d in dims:
        count *= x.shape[d]
    given = op.get("correction", 1 if op.get("unbiased", True) else 0)
    root = op.name == "std"
    return trace.add(
        "reduce",
        op,
        [x],
        [trace.result(op)],
        mode="std" if root else "variance",
        dims=dims,
        divisor=float(count - given),
    )


def _largest(trace: Trace, op: Op) -> list[Value | Missing]:
    """The largest values along a dimension, in order; which ones they were is not computed."""
    if not op.get("largest", True):
        op.refuse("of the smallest values")
    x = trace.hold(op.get("self"))
    if x.dtype != "f32":
        op.refuse("of integers")
    if not x.shape:
        op.refuse("of a single number")
    dim = int(op.get("dim", -1)) % len(x.shape)
    made = trace.add("topk", op, [x], [trace.result(op)], dim=dim)
    return [made, Missing(op)]


def _softmax(trace: Trace, op: Op) -> Value:
    x = trace.hold(op.get("self", op.get("input")))
    dim = int(op.get("dim", -1)) % max(len(x.shape), 1)
    return trace.add("softmax", op, [x], dim=dim, log=op.name.endswith("log_softmax"))


RULES: Mapping[str, Rule] = {
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "max": _reduce("max"),
    "min": _reduce("min"),
    "argmax": _reduce("argmax"),
    "argmin": _reduce("argmin"),
    "prod": _reduce("product"),
    "var": _variance,
    "std": _variance,
    "topk": _largest,
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _softmax,
    "_log_softmax": _softmax,
}

"""Norms that are not folded: by running statistics, or over the values themselves."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _batch_norm(trace: Trace, op: Op) -> Value:
    """Scale and shift per channel: (x - mean) / sqrt(var + eps) * weight + bias."""
    x = trace.hold(op.get("input"))
    mean, variance = op.array("running_mean"), op.array("running_var")
    if mean is None or variance is None or op.get("training", False):
        op.refuse("by the statistics of the batch")
    weight, bias = op.array("weight"), op.array("bias")
    scale = 1 / np.sqrt(variance.astype(np.float64) + float(op.get("eps", 1e-5)))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *([1] * (len(x.shape) - 2)))
    inputs = [
        x,
        trace.number(scale.reshape(shape), f"{op.node.name}_scale"),
        trace.number(shift.reshape(shape), f"{op.node.name}_shift"),
    ]
    expression = ("add", ("mul", ("input", 0), ("input", 1)), ("input", 2))
    return trace.add("map", op, inputs, expression=expression)


def _affine(op: Op, shape: tuple[int, ...]) -> dict[str, np.ndarray | None]:
    found = {name: op.array(name) for name in ("weight", "bias")}
    return {k: None if v is None else np.broadcast_to(v, shape).copy() for k, v in found.items()}


def _layer_norm(trace: Trace, op: Op) -> Value:
    x = trace.hold(op.get("input"))
    inner = tuple(int(s) for s in op.get("normalized_shape"))
    rms = op.name == "rms_norm"
    eps = op.get("eps", float(np.finfo(np.float32).eps) if rms else 1e-5)
    return trace.add(
        "normalize",
        op,
        [x],
        weights=_affine(op, inner),
        mode="rms" if rms else "layer",
        rank=len(inner),
        groups=None,
        eps=float(eps),
    )


def _group_norm(trace: Trace, op: Op) -> Value:
    x = trace.hold(op.get("input"))
    groups = int(op.get("num_groups", x.shape[1]))
    if op.name == "instance_norm" and not op.get("use_input_stats", True):
        return _batch_norm(trace, op)
    channels = (x.shape[1],)
    return trace.add(
        "normalize",
        op,
        [x],
        weights=_affine(op, channels),
        mode="group",
        rank=len(x.shape) - 1,
        groups=groups,
        eps=float(op.get("eps", 1e-5)),
    )


def _unit_norm(trace: Trace, op: Op) -> Value:
    """Euclidean norm over dimensions."""
    x = trace.hold(op.get("self"))
    order = op.get("p", op.get("ord", 2))
    if order != 2:
        op.refuse(f"of order {order}")
    given = op.get("dim")
    listed = range(len(x.shape)) if given is None else [given] if isinstance(given, int) else given
    dims = tuple(sorted(int(d) % len(x.shape) for d in listed))
    assert prod(x.shape) > 0  # torch ran it
    return trace.add("reduce", op, [x], [trace.result(op)], mode="norm", dims=dims)


RULES: Mapping[str, Rule] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    "linalg_vector_norm": _unit_norm,
    "norm": _unit_norm,
}

"""Convolutions of any rank, plain, grouped and transposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _spread(value: Any, rank: int) -> tuple[int, ...]:
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(n) for n in (numbers * rank if len(numbers) == 1 else numbers))


def _padding(op: Op, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    given = op.get("padding", 0)
    if given == "valid":
        return [(0, 0)] * len(kernel)
    if given == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in _spread(given, len(kernel))]


def _batched(trace: Trace, op: Op, x: Value, rank: int) -> Value:
    """The input with a batch dimension, which torch lets people leave out."""
    if len(x.shape) != rank + 2:
        op.refuse("without a batch dimension")
    return trace.hold(x)


def _convolution(trace: Trace, op: Op) -> Value:
    weight, bias = op.array("weight"), op.array("bias")
    assert weight is not None  # the schema has it
    rank = weight.ndim - 2
    if op.get("transposed", False):
        return _transposed(trace, op)
    dilation = _spread(op.get("dilation", 1), rank)
    return trace.add(
        "conv",
        op,
        [_batched(trace, op, op.get("input"), rank)],
        weights={"weight": weight, "bias": bias},
        stride=_spread(op.get("stride", 1), rank),
        padding=tuple(_padding(op, weight.shape[2:], dilation)),
        dilation=dilation,
        groups=int(op.get("groups", 1)),
        activation=None,
    )


def _transposed(trace: Trace, op: Op) -> Value:
    weight, bias = op.array("weight"), op.array("bias")
    assert weight is not None  # the schema has it
    rank = weight.ndim - 2
    x = _batched(trace, op, op.get("input"), rank)
    return trace.add(
        "conv_transpose",
        op,
        [x],
        weights={"weight": weight, "bias": bias},
        stride=_spread(op.get("stride", 1), rank),
        padding=tuple((p, p) for p in _spread(op.get("padding", 0), rank)),
        dilation=_spread(op.get("dilation", 1), rank),
        groups=int(op.get("groups", 1)),
        activation=None,
    )


RULES: Mapping[str, Rule] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "convolution": _convolution,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "conv_transpose3d": _transposed,
}

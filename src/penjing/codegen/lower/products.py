"""Linear layers, matrix products and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np

from penjing.codegen.lower.movement import moved
from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _linear(trace: Trace, op: Op) -> Value:
    weight = op.get("weight")
    x = trace.hold(op.get("input"))
    if weight.constant is None or (op.get("bias") is not None and op.get("bias").constant is None):
        turned = moved(trace, op, trace.hold(weight), lambda i: i.swapaxes(-1, -2), "turned")
        return _product(trace, op, x, turned, op.get("bias"))
    weights = {"weight": op.array("weight"), "bias": op.array("bias")}
    return trace.add("linear", op, [x], weights=weights, activation=None)


def _matmul(trace: Trace, op: Op) -> Value:
    left = op.get("self", op.get("input"))
    right = op.get("other", op.get("mat2"))
    return _product(trace, op, left, right, None)


def _addmm(trace: Trace, op: Op) -> Value:
    if op.get("beta", 1) != 1 or op.get("alpha", 1) != 1:
        op.refuse("with alpha or beta other than 1")
    left, right = op.get("mat1", op.get("batch1")), op.get("mat2", op.get("batch2"))
    return _product(trace, op, left, right, op.get("self"))


def _product(trace: Trace, op: Op, left: Value, right: Value, bias: Value | None) -> Value:
    """Left @ right + bias, as a linear layer where the right side never changes."""
    if _is_matrix(right) and len(left.shape) >= 2 and (bias is None or _is_row(bias)):
        assert right.constant is not None  # _is_matrix looked
        weight = np.ascontiguousarray(right.constant.detach().float().numpy().T)
        row = None if bias is None else op_array(bias)
        weights = {"weight": weight, "bias": row}
        return trace.add("linear", op, [trace.hold(left)], weights=weights, activation=None)
    left, right = trace.hold(left), trace.hold(right)
    shape = list(op.shape)
    if len(left.shape) == 1:
        left = moved(trace, op, left, lambda i: i[None, :], "row")
        shape.insert(len(shape) - (len(right.shape) > 1), 1)
    if len(right.shape) == 1:
        right = moved(trace, op, right, lambda i: i[:, None], "column")
        shape.append(1)
    made = trace.tensor(f"{op.node.name}_product", shape)
    trace.add("matmul", op, [left, right], [made], scale=1.0)
    result = made
    if tuple(shape) != op.shape:
        result = moved(trace, op, made, lambda i: i.reshape(op.shape), "flat")
    if bias is None:
        return result
    expression = ("add", ("input", 0), ("input", 1))
    return trace.add("map", op, [result, trace.hold(bias)], expression=expression)


def _is_matrix(value: Value) -> bool:
    return value.constant is not None and len(value.shape) == 2


def _is_row(bias: Value) -> bool:
    return bias.constant is not None and len(bias.shape) == 1


def op_array(value: Value) -> np.ndarray:
    """A constant value as float32."""
    assert value.constant is not None  # the caller looked
    return np.ascontiguousarray(value.constant.detach().float().numpy())


def _attention(trace: Trace, op: Op) -> Value:
    query, key, value = (trace.hold(op.get(n)) for n in ("query", "key", "value"))
    mask = op.get("attn_mask")
    heads, held = query.shape[-3] if len(query.shape) > 2 else 1, key.shape
    if op.get("enable_gqa", False) and len(held) > 2 and held[-3] != heads:
        times = heads // held[-3]
        key, value = (
            moved(trace, op, v, lambda i: np.repeat(i, times, axis=-3), "heads")
            for v in (key, value)
        )
    inputs = [query, key, value] if mask is None else [query, key, value, trace.hold(mask)]
    scale = op.get("scale", 1 / sqrt(query.shape[-1]))
    causal = bool(op.get("is_causal", False))
    return trace.add("attention", op, inputs, causal=causal, scale=float(scale))


def _einsum(trace: Trace, op: Op) -> Value:
    """Einsum of two operands: transposed and flattened into one batched matrix product."""
    text = str(op.get("equation")).replace(" ", "")
    operands = [trace.hold(v) for v in op.get("tensors")]
    if len(operands) != 2 or "." in text or "->" not in text:
        op.refuse(f"of the form {text!r}")
    (left, right), result = text.split("->")[0].split(","), text.split("->")[1]
    if any(len(set(part)) != len(part) for part in (left, right, result)):
        op.refuse(f"with a letter twice, {text!r}")
    sizes = dict(zip(left + right, operands[0].shape + operands[1].shape, strict=True))
    batch = [c for c in result if c in left and c in right]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    inner = [c for c in left if c in right and c not in result]
    if set(rows + columns) - set(result):
        op.refuse(f"that sums one operand alone, {text!r}")

    def sides(value: Value, letters: str, parts: Sequence[list[str]]) -> Value:
        order = [letters.index(c) for part in parts for c in part]
        shape = [sizes[c] for c in batch] + [
            int(np.prod([sizes[c] for c in part], dtype=int)) for part in parts[1:]
        ]
        return moved(trace, op, value, lambda i: i.transpose(order).reshape(shape), "side")

    first = sides(operands[0], left, [batch, rows, inner])
    second = sides(operands[1], right, [batch, inner, columns])
    made = trace.tensor(f"{op.node.name}_product", (*first.shape[:-1], second.shape[-1]))
    trace.add("matmul", op, [first, second], [made], scale=1.0)
    order = batch + rows + columns
    wide = [sizes[c] for c in order]
    turn = [order.index(c) for c in result]
    return moved(trace, op, made, lambda i: i.reshape(wide).transpose(turn))


RULES: Mapping[str, Rule] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}

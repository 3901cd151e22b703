"""Element-wise ops: each becomes an expression over inputs that broadcast.

An expression is nested tuples: `("input", 0)`, `("constant", 1.5)`, or an op's name followed by
expressions and numbers. Activations have the names and values of `ir.Activation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import torch

from penjing.codegen.lower.movement import moved
from penjing.codegen.lower.trace import Op, Rule, Trace, Value

Expression = tuple[Any, ...]


def _map(trace: Trace, op: Op, build: Callable[..., Expression], *operands: Any) -> Value:
    """A layer that computes what `build` makes of the operands; numbers become constants."""
    inputs: list[Value] = []
    terms: list[Expression] = []
    for operand in operands:
        if not isinstance(operand, Value):
            terms.append(("constant", float(operand)))
        elif operand.constant is not None and operand.shape == ():
            terms.append(("constant", float(operand.constant)))
        else:
            held = trace.hold(operand, f"{op.node.name}_constant")
            if held not in inputs:
                inputs.append(held)
            terms.append(("input", inputs.index(held)))
    return trace.add("map", op, inputs, expression=build(*terms))


def _self(op: Op) -> Any:
    return op.get("self", op.get("input"))


def _unary(name: str, *keys: tuple[str, float]) -> Rule:
    """f(x, values...), the values read from arguments with defaults."""

    def rule(trace: Trace, op: Op) -> Value:
        values = [float(op.get(key, default)) for key, default in keys]
        return _map(trace, op, lambda x: (name, x, *values), _self(op))

    return rule


def _binary(name: str) -> Rule:
    def rule(trace: Trace, op: Op) -> Value:
        return _map(trace, op, lambda a, b: (name, a, b), _self(op), op.arguments["other"])

    return rule


def _of_bits(name: str) -> Rule:
    """Of truth values; of whole numbers it would be another op."""

    def rule(trace: Trace, op: Op) -> Value:
        if op.results[0].dtype != torch.bool:
            op.refuse("of whole numbers")
        operands = [v for v in (_self(op), op.arguments.get("other")) if v is not None]
        return _map(trace, op, lambda *terms: (name, *terms), *operands)

    return rule


def _scaled(name: str) -> Rule:
    """Self + alpha * other, and the like."""

    def rule(trace: Trace, op: Op) -> Value:
        alpha = float(op.get("alpha", 1))
        left, right = _self(op), op.arguments["other"]
        if name == "rsub":
            left, right = right, left

        def build(a: Expression, b: Expression) -> Expression:
            scaled = b if alpha == 1 else ("mul", b, ("constant", alpha))
            return ("add" if name == "add" else "sub", a, scaled)

        return _map(trace, op, build, left, right)

    return rule


def _divide(trace: Trace, op: Op) -> Value:
    mode = op.get("rounding_mode", "floor" if op.name == "floor_divide" else None)

    def build(a: Expression, b: Expression) -> Expression:
        return ("div", a, b) if mode is None else (mode, ("div", a, b))

    return _map(trace, op, build, _self(op), op.arguments["other"])


def _power(trace: Trace, op: Op) -> Value:
    base, exponent = _self(op), op.arguments["exponent"]
    if isinstance(exponent, (int, float)) and exponent in _POWERS:
        return _map(trace, op, _POWERS[exponent], base)
    return _map(trace, op, lambda a, b: ("pow", a, b), base, exponent)


_POWERS: Mapping[float, Callable[[Expression], Expression]] = {
    1: lambda x: x,
    2: lambda x: ("square", x),
    3: lambda x: ("mul", x, ("square", x)),
    0.5: lambda x: ("sqrt", x),
    -0.5: lambda x: ("rsqrt", x),
    -1: lambda x: ("div", ("constant", 1.0), x),
}


def _clamp(low: str | float, high: str | float) -> Rule:
    """Clamp between arguments by name, or fixed values."""

    def rule(trace: Trace, op: Op) -> Value:
        ends = [
            op.get(end, default) if isinstance(end, str) else end
            for end, default in ((low, -inf), (high, inf))
        ]
        if any(isinstance(end, Value) for end in ends):
            return _map(trace, op, lambda x, a, b: ("min", ("max", x, a), b), _self(op), *ends)
        return _map(trace, op, lambda x: ("clamp", x, float(ends[0]), float(ends[1])), _self(op))

    return rule


def _gelu(trace: Trace, op: Op) -> Value:
    name = "gelu_tanh" if op.get("approximate", "none") == "tanh" else "gelu"
    return _map(trace, op, lambda x: (name, x), _self(op))


def _prelu(trace: Trace, op: Op) -> Value:
    """One slope per channel, or one for all."""
    x, slope = trace.hold(_self(op)), op.get("weight")
    shape = slope.shape + (1,) * max(len(x.shape) - 2, 0) if slope.shape != (1,) else (1,)
    shaped = moved(trace, op, trace.hold(slope), lambda i: i.reshape(shape), "slope")
    if slope.constant is not None:
        shaped = trace.number(slope.constant.float().numpy().reshape(shape), "slope")

    def build(a: Expression, b: Expression) -> Expression:
        below = ("mul", b, ("min", a, ("constant", 0.0)))
        return ("add", ("max", a, ("constant", 0.0)), below)

    return _map(trace, op, build, x, shaped)


def _where(trace: Trace, op: Op) -> Value:
    first = op.get("condition")
    return _map(
        trace,
        op,
        lambda c, a, b: ("where", c, a, b),
        first,
        op.arguments["self"],
        op.arguments["other"],
    )


def _masked_fill(trace: Trace, op: Op) -> Value:
    return _map(
        trace,
        op,
        lambda x, m, v: ("where", m, v, x),
        _self(op),
        op.get("mask"),
        op.arguments["value"],
    )


def _addcmul(trace: Trace, op: Op) -> Value:
    factor = ("constant", float(op.get("value", 1)))
    second = "div" if op.name == "addcdiv" else "mul"
    return _map(
        trace,
        op,
        lambda x, a, b: ("add", x, ("mul", factor, (second, a, b))),
        _self(op),
        op.get("tensor1"),
        op.get("tensor2"),
    )


def _glu(trace: Trace, op: Op) -> Value:
    x = trace.hold(_self(op))
    dim = int(op.get("dim", -1)) % len(x.shape)
    half = x.shape[dim] // 2
    parts = [
        moved(trace, op, x, lambda i, s=start: i.take(range(s, s + half), dim), "half")  # type: ignore[misc] # bound now
        for start in (0, half)
    ]
    return _map(trace, op, lambda a, b: ("mul", a, ("sigmoid", b)), *parts)


def _softplus(trace: Trace, op: Op) -> Value:
    if float(op.get("beta", 1)) != 1:
        op.refuse(f"with beta {op.get('beta')}")
    return _map(trace, op, lambda x: ("softplus", x), _self(op))


def _hardtanh(trace: Trace, op: Op) -> Value:
    low, high = float(op.get("min_val", -1)), float(op.get("max_val", 1))
    return _map(trace, op, lambda x: ("clamp", x, low, high), _self(op))


def _threshold(trace: Trace, op: Op) -> Value:
    """What is not above the threshold becomes a number; all between the thresholds, zero."""
    both = op.name == "hardshrink"
    least = ("constant", float(op.get("lambd", 0.5) if both else op.get("threshold")))
    other = ("constant", 0.0 if both else float(op.get("value")))

    def build(x: Expression) -> Expression:
        return ("where", ("gt", ("abs", x) if both else x, least), x, other)

    return _map(trace, op, build, _self(op))


def _softshrink(trace: Trace, op: Op) -> Value:
    most = float(op.get("lambd", 0.5))
    return _map(trace, op, lambda x: ("sub", x, ("clamp", x, -most, most)), _self(op))


_SAME = """
    abs neg exp log log1p expm1 sqrt rsqrt square reciprocal sin cos tanh sigmoid erf silu mish
    hardswish hardsigmoid floor ceil round trunc sign logical_not softsign relu6 log2 log10 exp2
    atan tan selu log_sigmoid isnan
""".split()  # noqa: SIM905 - one line per name would hide the rest

_TWO = {
    "mul": "mul",
    "maximum": "max",
    "minimum": "min",
    "eq": "eq",
    "ne": "ne",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "logical_and": "and",
    "logical_or": "or",
    "multiply": "mul",
    "fmod": "fmod",
    "atan2": "atan2",
}


def _square(trace: Trace, op: Op) -> Value:
    return _map(trace, op, lambda x: ("square", x), _self(op))


RULES: Mapping[str, Rule] = {
    **{name: _unary(name) for name in _SAME},
    **{name: _binary(expression) for name, expression in _TWO.items()},
    "square": _square,
    **{name: _of_bits("and") for name in ("bitwise_and", "__and__")},
    **{name: _of_bits("or") for name in ("bitwise_or", "__or__")},
    **{name: _of_bits("ne") for name in ("bitwise_xor", "__xor__")},
    "bitwise_not": _of_bits("logical_not"),
    "add": _scaled("add"),
    "sub": _scaled("sub"),
    "rsub": _scaled("rsub"),
    "subtract": _scaled("sub"),
    "div": _divide,
    "true_divide": _divide,
    "divide": _divide,
    "floor_divide": _divide,
    "pow": _power,
    "relu": _clamp(0.0, inf),
    "relu6": _clamp(0.0, 6.0),
    "clamp": _clamp("min", "max"),
    "clip": _clamp("min", "max"),
    "clamp_min": _clamp("min", inf),
    "clamp_max": _clamp(-inf, "max"),
    "hardtanh": _hardtanh,
    "hardshrink": _threshold,
    "threshold": _threshold,
    "softshrink": _softshrink,
    "leaky_relu": _unary("leaky_relu", ("negative_slope", 0.01)),
    "elu": _unary("elu", ("alpha", 1.0)),
    "celu": _unary("celu", ("alpha", 1.0)),
    "gelu": _gelu,
    "softplus": _softplus,
    "prelu": _prelu,
    "where": _where,
    "masked_fill": _masked_fill,
    "addcmul": _addcmul,
    "addcdiv": _addcmul,
    "glu": _glu,
    "rrelu": _unary("leaky_relu", ("slope", (1 / 8 + 1 / 3) / 2)),
}

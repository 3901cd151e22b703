"""Expressions and activations as C: scalar, without branches or calls, so that compilers vectorise.

Source:
    exp: reduction by log 2 in two parts and a polynomial of degree 6, as in Cephes. erf: the
    Chebyshev fit of Numerical Recipes, section 6.2, with a relative error of 1.2e-7 in erfc. tanh:
    by exp, and by a polynomial near 0, as in Cephes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from penjing.codegen.ir import Activation
from penjing.codegen.reference.text import number

_EXP = """static inline float pj_exp(float x) {
  const float low = -87.3365479f, high = 88.7228394f;
  const float v = x < low ? low : (x > high ? high : x);
  const float t = v * 1.44269504f + 12582912.0f;
  const float n = t - 12582912.0f;
  const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  float two;
  memcpy(&bits, &t, 4);
  bits = (bits - 0x4B400000u + 126u) << 23;
  memcpy(&two, &bits, 4);
  const float y = p * two * 2.0f;
  return x < low ? 0.0f : (x > high ? (float)INFINITY : y);
}
"""
_SIGMOID = """static inline float pj_sigmoid(float x) { return 1.0f / (1.0f + pj_exp(-x)); }
"""
_TANH = """static inline float pj_tanh(float x) {
  const float a = x < 0.0f ? -x : x, s = x * x;
  const float t = pj_exp(-2.0f * a), big = (1.0f - t) / (1.0f + t);
  float p = -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const float small = x + x * s * p;
  return a < 0.625f ? small : (x < 0.0f ? -big : big);
}
"""
_ERF = """static inline float pj_erf(float x) {
  const float a = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.5f * a);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  const float y = 1.0f - t * pj_exp(-a * a - 1.26551223f + t * p);
  return x < 0.0f ? -y : y;
}
"""
_LOG1P = """static inline float pj_softplus(float x) {
  return (x > 0.0f ? x : 0.0f) + log1pf(pj_exp(x > 0.0f ? -x : x));
}
"""

FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "pj_exp": (_EXP, ()),
        "pj_sigmoid": (_SIGMOID, ("pj_exp",)),
        "pj_tanh": (_TANH, ("pj_exp",)),
        "pj_erf": (_ERF, ("pj_exp",)),
        "pj_softplus": (_LOG1P, ("pj_exp",)),
    }
)
"""C functions of their own, each with those it calls."""

_FORMS: Mapping[str, str] = MappingProxyType(
    {
        "add": "({0} + {1})",
        "sub": "({0} - {1})",
        "mul": "({0} * {1})",
        "div": "((float){0} / (float){1})",
        "max": "({0} < {1} ? {1} : {0})",
        "min": "({0} > {1} ? {1} : {0})",
        "pow": "powf({0}, {1})",
        "fmod": "fmodf({0}, {1})",
        "atan2": "atan2f({0}, {1})",
        "eq": "({0} == {1})",
        "ne": "({0} != {1})",
        "lt": "({0} < {1})",
        "le": "({0} <= {1})",
        "gt": "({0} > {1})",
        "ge": "({0} >= {1})",
        "and": "(({0} != 0) & ({1} != 0))",
        "or": "(({0} != 0) | ({1} != 0))",
        "logical_not": "({0} == 0)",
        "isnan": "({0} != {0})",
        "where": "({0} != 0 ? {1} : {2})",
        "neg": "(-{0})",
        "abs": "({0} < 0 ? -{0} : {0})",
        "square": "({0} * {0})",
        "reciprocal": "(1.0f / {0})",
        "sqrt": "sqrtf({0})",
        "rsqrt": "(1.0f / sqrtf({0}))",
        "exp": "pj_exp({0})",
        "exp2": "exp2f({0})",
        "expm1": "expm1f({0})",
        "log": "logf({0})",
        "log2": "log2f({0})",
        "log10": "log10f({0})",
        "log1p": "log1pf({0})",
        "sin": "sinf({0})",
        "cos": "cosf({0})",
        "tan": "tanf({0})",
        "atan": "atanf({0})",
        "floor": "floorf({0})",
        "ceil": "ceilf({0})",
        "round": "nearbyintf({0})",
        "trunc": "truncf({0})",
        "sign": "(({0} > 0 ? 1.0f : 0.0f) - ({0} < 0 ? 1.0f : 0.0f))",
        "erf": "pj_erf({0})",
        "tanh": "pj_tanh({0})",
        "sigmoid": "pj_sigmoid({0})",
        "log_sigmoid": "(-pj_softplus(-{0}))",
        "softplus": "pj_softplus({0})",
        "softsign": "({0} / (1.0f + ({0} < 0 ? -{0} : {0})))",
        "silu": "({0} * pj_sigmoid({0}))",
        "mish": "({0} * pj_tanh(pj_softplus({0})))",
        "gelu": "(0.5f * {0} * (1.0f + pj_erf({0} * 0.707106781f)))",
        "gelu_tanh": (
            "(0.5f * {0} * (1.0f + pj_tanh(0.797884561f * ({0} + 0.044715f * {0} * {0} * {0}))))"
        ),
        "relu6": "({0} < 0 ? 0.0f : ({0} > 6.0f ? 6.0f : {0}))",
        "hardsigmoid": (
            "({0} + 3.0f < 0 ? 0.0f : ({0} + 3.0f > 6.0f ? 1.0f : ({0} + 3.0f) / 6.0f))"
        ),
        "hardswish": (
            "({0} + 3.0f < 0 ? 0.0f : ({0} + 3.0f > 6.0f ? {0} : {0} * ({0} + 3.0f) / 6.0f))"
        ),
        "leaky_relu": "({0} < 0 ? {0} * {1} : {0})",
        "elu": "({0} < 0 ? {1} * (pj_exp({0}) - 1.0f) : {0})",
        "celu": "({0} < 0 ? {1} * (pj_exp({0} / {1}) - 1.0f) : {0})",
        "selu": "({0} < 0 ? 1.758099341f * (pj_exp({0}) - 1.0f) : 1.050700987f * {0})",
    }
)


class Renderer:
    """Turns expressions into statements, each step a variable of its own.

    Args:
        prefix: Of the variables' names.
    """

    def __init__(self, prefix: str = "v") -> None:
        self.prefix = prefix
        self.lines: list[str] = []
        self.functions: dict[str, str] = {}
        self._seen: dict[Any, str] = {}
        self._types: dict[str, str] = {}

    def render(self, term: Any, inputs: list[tuple[str, str]]) -> str:
        """C expression of `term`; the statements before it are in `lines`.

        Args:
            term: An expression.
            inputs: C expression and C type of every input.

        Returns:
            A name, a constant or an input.
        """
        if term in self._seen:
            return self._seen[term]
        if term[0] == "constant":
            return number(term[1])
        if term[0] == "input":
            text, kind = inputs[term[1]]
        else:
            parts = [
                self.render(t, inputs) if isinstance(t, tuple) else number(t) for t in term[1:]
            ]
            text, kind = self._step(term, parts)
        name = f"{self.prefix}{len(self._seen)}"
        self.lines.append(f"const {kind} {name} = {text};")
        self._seen[term] = name
        self._types[name] = kind
        return name

    def type_of(self, name: str) -> str:
        """C type of what `render` gave."""
        return self._types.get(name, "float")

    def _step(self, term: Any, parts: list[str]) -> tuple[str, str]:
        kinds = {self.type_of(p) for p in parts}
        kind = "float" if "float" in kinds or term[0] not in _WHOLE else "int32_t"
        if term[0] in _TRUTH:
            kind = "int32_t"
        if term[0] == "clamp":
            return _clamp(parts[0], term[2], term[3], kind), kind
        text = _FORMS[term[0]].format(*parts)
        for name in FUNCTIONS:
            if f"{name}(" in text:
                self.functions.update(functions(name))
        if kind == "float" and term[0] in _MIXED:
            cast = [p if self.type_of(p) == "float" else f"(float){p}" for p in parts]
            text = _FORMS[term[0]].format(*cast)
        return text, kind


_TRUTH = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "logical_not", "isnan"})
_WHOLE = frozenset({"add", "sub", "mul", "max", "min", "where", "neg", "abs", "square"}) | _TRUTH
_MIXED = frozenset(
    {"add", "sub", "mul", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "pow", "fmod"}
)


def _clamp(x: str, low: float, high: float, kind: str) -> str:
    text = x
    if low > -float("inf"):
        text = f"({x} < {number(low)} ? {number(low)} : {x})"
    if high < float("inf"):
        text = f"({x} > {number(high)} ? {number(high)} : {text})"
    return text if kind == "float" else f"(float){text}"


def functions(name: str) -> dict[str, str]:
    """Text of a function and of those that it calls, in order."""
    text, before = FUNCTIONS[name]
    found: dict[str, str] = {}
    for other in before:
        found.update(functions(other))
    return {**found, name: text}


def activation_c(activation: Activation) -> tuple[str, dict[str, str]]:
    """An activation as a function `float f(float)`.

    Args:
        activation: Which.

    Returns:
        Its name, and the text of it and of what it calls, by name and in order.
    """
    renderer = Renderer("a")
    result = renderer.render((activation.kind, ("input", 0), *activation.values), [("x", "float")])
    body = " ".join(renderer.lines)
    values = "_".join(
        number(v).strip("()").replace(".", "p").replace("-", "m").replace("+", "")
        for v in activation.values
    )
    name = f"pj_act_{activation.kind}" + (f"_{values}" if values else "")
    name = "".join(c if c.isalnum() else "_" for c in name)
    text = f"static inline float {name}(float x) {{ {body} return {result}; }}\n"
    return name, {**renderer.functions, name: text}

"""C text: loops over shapes, positions by strides, functions named after what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isinf, isnan

import numpy as np

from penjing.codegen.ir import C_TYPES
from penjing.codegen.kernel import Place

NAME = "@name@"


def number(value: float) -> str:
    """A float constant that reads back to the same float32.

    Example:
        >>> number(0.1), number(3)
        ('0.100000001f', '3.0f')
    """
    value = float(np.float32(value))
    if isnan(value):
        return "(float)NAN"
    if isinf(value):
        return "(float)INFINITY" if value > 0 else "(-(float)INFINITY)"
    text = f"{value:.9g}"
    text = text if any(c in text for c in ".e") else f"{text}.0"
    return f"({text}f)" if value < 0 else f"{text}f"


def at(strides: Sequence[int], names: Sequence[str]) -> str:
    """Position of an element: the sum of index times stride.

    Example:
        >>> at((6, 0, 1), ("a", "b", "c"))
        'a * 6 + c'
    """
    terms = [
        name if stride == 1 else f"{name} * {stride}"
        for stride, name in zip(strides, names, strict=True)
        if stride and name != "0"
    ]
    return " + ".join(terms) or "0"


def index_names(shape: Sequence[int], prefix: str = "i") -> list[str]:
    """Loop variables of a shape; "0" where there is nothing to count."""
    return [f"{prefix}{d}" if size > 1 else "0" for d, size in enumerate(shape)]


def loops(
    shape: Sequence[int], body: Sequence[str], *, parallel: bool = False, prefix: str = "i"
) -> list[str]:
    """Nested loops over a shape around `body`, which counts with `index_names`."""
    lines: list[str] = []
    depth = 0
    for name, size in zip(index_names(shape, prefix), shape, strict=True):
        if size == 1:
            continue
        if parallel and depth == 0:
            lines.append("PJ_PARALLEL")
        lines.append("  " * depth + f"for (int {name} = 0; {name} < {size}; {name}++) {{")
        depth += 1
    lines += ["  " * depth + row for row in body]
    lines += ["  " * d + "}" for d in reversed(range(depth))]
    return lines


def function(kind: str, parameters: str, body: Sequence[str]) -> tuple[str, str]:
    """A static function whose name tells its text apart from any other.

    Returns:
        Name and text.
    """
    rows = "\n".join(f"  {row}" for row in body)
    text = f"static void {NAME}({parameters}) {{\n{rows}\n}}\n"
    name = f"{kind}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name, text.replace(NAME, name)


def const_of(place: Place, name: str, *, restrict: bool = True) -> str:
    """Declaration of a parameter that reads a tensor."""
    return f"const {C_TYPES[place.dtype]} *{'PJ_RESTRICT ' if restrict else ''}{name}"


def out_of(place: Place, name: str = "y", *, restrict: bool = True) -> str:
    """Declaration of a parameter that writes a tensor."""
    return f"{C_TYPES[place.dtype]} *{'PJ_RESTRICT ' if restrict else ''}{name}"


def merged(
    shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Join neighbouring dimensions that every operand walks through without a gap.

    Example:
        >>> merged((2, 3, 4), [(12, 4, 1), (24, 4, 1)])
        ((2, 12), [(12, 1), (24, 1)])
    """
    kept: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d, size in enumerate(shape):
        if size == 1 and len(shape) > 1:
            continue
        joins = kept and all(s[-1] == one[d] * size for s, one in zip(steps, strides, strict=True))
        if joins:
            kept[-1] *= size
            for s, one in zip(steps, strides, strict=True):
                s[-1] = one[d]
        else:
            kept.append(size)
            for s, one in zip(steps, strides, strict=True):
                s.append(one[d])
    if not kept:
        return (1,), [(0,) for _ in strides]
    return tuple(kept), [tuple(s) for s in steps]


def broadcast(place: Place, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an operand seen at the larger shape it broadcasts to."""
    missing = len(shape) - len(place.shape)
    return (0,) * missing + tuple(
        0 if size == 1 and wanted != 1 else stride
        for size, stride, wanted in zip(place.shape, place.strides, shape[missing:], strict=True)
    )

"""Copies that turn a tensor: neighbours in memory were strangers, and the other way round.

A square of as many vectors as lanes is turned in registers: where the half of one row and the half
of another change places, then their quarters, down to single lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Place, Site
from penjing.codegen.kernels.cover import named
from penjing.codegen.kernels.vectors import machine, mix, types
from penjing.codegen.reference.movement import copy_between
from penjing.codegen.reference.text import merged
from penjing.codegen.targets import Target

ELEMENT_NS = 0.12
"""Of one element (Zen 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Every element to other strides, in vectors where that pays."""

    @property
    def name(self) -> str:
        """Short name."""
        return "turn"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:  # noqa: ARG002 - protocol
        """Copies."""
        return layer.kind == "copy"

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:  # noqa: ARG002 - protocol
        """Nanoseconds, from the elements."""
        return ELEMENT_NS * net.tensors[layer.outputs[0]].elements

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Nothing."""
        return Needs()

    def emit(self, site: Site, /) -> Code:
        """One function per pair of layouts."""
        return turned(site.inputs[0], site.outputs[0], machine(site.target).lanes)


def turned(x: Place, y: Place, lanes: int) -> Code:
    """Copy one place to another of the same shape.

    Args:
        x: Read.
        y: Written.
        lanes: Of the machine's vectors.
    """
    shape, (of_x, of_y) = merged(y.shape, [x.strides, y.strides])
    a, b = (_neighbours(shape, strides, lanes) for strides in (of_x, of_y))
    if x.dtype != "f32" or a is None or b is None or a == b:
        return copy_between(x, y)
    name, text = _function(shape, (of_x, of_y), (a, b), lanes)
    functions = {**types(lanes), **_square(lanes), name: text}
    return Code(f"{name}({x.pointer}, {y.pointer});", functions)


def _neighbours(shape: tuple[int, ...], strides: tuple[int, ...], lanes: int) -> int | None:
    """The dimension whose elements lie side by side, if it is as long as a vector."""
    found = (d for d, n in enumerate(shape) if strides[d] == 1 and n >= lanes)
    return next(found, None)


def _square(lanes: int) -> dict[str, str]:
    """A function that turns a square of so many rows and columns; name -> text."""
    lines, step = [], lanes // 2
    while step:
        low = [i if i & step == 0 else lanes + i - step for i in range(lanes)]
        high = [i + step if i & step == 0 else lanes + i for i in range(lanes)]
        for i in range(lanes):
            if i & step == 0:
                low_is, high_is = (", ".join(map(str, v)) for v in (low, high))
                lines.append(
                    f"{{ const pj_vf{lanes} p = r{i}, q = r{i + step}; "
                    f"r{i} = pj_mix{lanes}(p, q, {low_is}); "
                    f"r{i + step} = pj_mix{lanes}(p, q, {high_is}); }}"
                )
        step //= 2
    vf = f"pj_vf{lanes}"
    loads = "\n    ".join(f"{vf} r{i} = *(const {vf} *)(x + {i} * dx);" for i in range(lanes))
    stores = "\n    ".join(f"*({vf} *)(y + {i} * dy) = r{i};" for i in range(lanes))
    mixes = "\n    ".join(lines)
    return {
        **mix(lanes),
        f"pj_square{lanes}": f"""
static inline void pj_square{lanes}(const float *x, int dx, float *y, int dy) {{
    {loads}
    {mixes}
    {stores}
}}
""",
    }


def _function(
    shape: tuple[int, ...],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    sides: tuple[int, int],
    lanes: int,
) -> tuple[str, str]:
    """All squares; the last ones are moved back so that they fit."""
    (of_x, of_y), (a, b) = strides, sides
    outer = [d for d in range(len(shape)) if d not in sides]
    loops = " ".join(f"for (int i{d} = 0; i{d} < {shape[d]}; i{d}++)" for d in outer)

    def position(of: tuple[int, ...]) -> str:
        return "".join(f" + i{d} * {of[d]}" for d in outer)

    last = [shape[d] - lanes for d in sides]
    starts = "\n        ".join(
        f"const int {n} = {n}0 < {end} ? {n}0 : {end};" for n, end in zip("ab", last, strict=True)
    )
    return named("pj_turn", f"""
static void @NAME@(const float *PJ_RESTRICT x, float *PJ_RESTRICT y) {{
    {loops}
    for (int b0 = 0; b0 < {shape[b]}; b0 += {lanes})
    for (int a0 = 0; a0 < {shape[a]}; a0 += {lanes}) {{
        {starts}
        pj_square{lanes}(x{position(of_x)} + a + b * {of_x[b]}, {of_x[b]},
            y{position(of_y)} + b + a * {of_y[a]}, {of_y[a]});
    }}
}}
""")  # fmt: skip

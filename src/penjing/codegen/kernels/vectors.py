"""C for vectors of floats in the compilers' own types, and how wide the machine's are."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from math import inf

from penjing.codegen.ir import Activation
from penjing.codegen.targets import Target

SCALAR_LANES = 4
"""Lanes where the machine has no vector unit: the compiler takes the type apart."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a kernel has to know of the processor.

    Args:
        lanes: Floats in one vector register.
        registers: Number of vector registers.
        permutes: Two registers can be looked up by index in one instruction (AVX-512).
        picks: Bytes of a register can be looked up by index, and products of four of them added in
            one instruction (AVX-512 with VBMI and VNNI).
    """

    lanes: int
    registers: int
    permutes: bool = False
    picks: bool = False


AVX512 = Machine(16, 32, permutes=True)
AVX2 = Machine(8, 16)
NEON = Machine(4, 32)
PLAIN = Machine(SCALAR_LANES, 16)


def machine(target: Target) -> Machine:
    """The machine that the target's compiler and flags build for."""
    return _machine(target.compilers, target.flags)


@cache
def _machine(compilers: tuple[str, ...], flags: tuple[str, ...]) -> Machine:
    for compiler in compilers:
        try:
            told = subprocess.run(
                [compiler, *flags, "-dM", "-E", "-x", "c", "/dev/null"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        defined = set(re.findall(r"#define (\w+)", told))
        if {"__AVX512F__", "__AVX512VL__", "__AVX512BW__", "__AVX512DQ__"} <= defined:
            return replace(AVX512, picks={"__AVX512VBMI__", "__AVX512VNNI__"} <= defined)
        if {"__AVX2__", "__FMA__"} <= defined:
            return AVX2
        return NEON if "__ARM_NEON" in defined else PLAIN
    return PLAIN


def types(lanes: int) -> dict[str, str]:
    """Vector types of so many floats, and what is used on them; name -> text."""
    size = 4 * lanes
    attribute = f"__attribute__((vector_size({size}), aligned(4), may_alias))"
    return {
        f"pj_vf{lanes}": f"""
typedef float pj_vf{lanes} {attribute};
typedef int32_t pj_vi{lanes} {attribute};
#define pj_pick{lanes}(m, a, b) \\
    ((pj_vf{lanes})(((m) & (pj_vi{lanes})(a)) | (~(m) & (pj_vi{lanes})(b))))
"""
    }


def even(lanes: int) -> dict[str, str]:
    """A function that reads every other float; name -> text."""
    index = ", ".join(str(2 * i) for i in range(lanes))
    return {
        f"pj_even{lanes}": f"""
#ifdef __clang__
#define pj_even{lanes}(x) __builtin_shufflevector(*(const pj_vf{lanes} *)(x), \\
    *(const pj_vf{lanes} *)((x) + {lanes}), {index})
#else
#define pj_even{lanes}(x) __builtin_shuffle(*(const pj_vf{lanes} *)(x), \\
    *(const pj_vf{lanes} *)((x) + {lanes}), (pj_vi{lanes}){{{index}}})
#endif
"""
    }


def mix(lanes: int) -> dict[str, str]:
    """A macro that picks the lanes of two vectors by number; name -> text."""
    return {
        f"pj_mix{lanes}": f"""
#ifdef __clang__
#define pj_mix{lanes}(p, q, ...) __builtin_shufflevector(p, q, __VA_ARGS__)
#else
#define pj_mix{lanes}(p, q, ...) __builtin_shuffle(p, q, (pj_vi{lanes}){{__VA_ARGS__}})
#endif
"""
    }


INTRINSICS = "\n#ifdef __AVX512VL__\n#include <immintrin.h>\n#endif\n"


def keep(lanes: int, count: int) -> dict[str, str]:
    """A function that stores the first `count` lanes; name -> text."""
    name = f"pj_keep{lanes}_{count}"
    intrinsic = {16: "_mm512_mask_storeu_ps(y, {m}, (__m512)*v)",
                 8: "_mm256_mask_storeu_ps(y, {m}, (__m256)*v)",
                 4: "_mm_mask_storeu_ps(y, {m}, (__m128)*v)"}[lanes]  # fmt: skip
    masked = intrinsic.format(m=f"{(1 << count) - 1}U")
    return {
        "pj_intrinsics": INTRINSICS,
        name: f"""
static inline void {name}(float *y, const pj_vf{lanes} *v) {{
#ifdef __AVX512VL__
    {masked};
#else
    for (int i = 0; i < {count}; i++) y[i] = (*v)[i];
#endif
}}
""",
    }


def number(value: float) -> str:
    """A float literal of C that reads back as the same float."""
    text = f"{float(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def activated(activation: Activation | None, lanes: int, v: str) -> str | None:
    """Statements that apply an activation to the vector variable `v`; None if it takes a function.

    A NaN stays a NaN.
    """
    if activation is None:
        return ""
    kind, values = activation.kind, activation.values
    pick, splat = f"pj_pick{lanes}", f"(pj_vf{lanes}){{0}} + "

    def clamp(x: str, low: float, high: float) -> str:
        text = ""
        if low != -inf:
            text += f"{x} = {pick}({x} < {number(low)}, {splat}{number(low)}, {x}); "
        if high != inf:
            text += f"{x} = {pick}({x} > {number(high)}, {splat}{number(high)}, {x}); "
        return text

    if kind == "clamp":
        return clamp(v, *values)
    if kind == "leaky_relu":
        return f"{v} = {pick}({v} < 0.0f, {v} * {number(values[0])}, {v}); "
    if kind in ("hardsigmoid", "hardswish"):
        start = f"pj_vf{lanes} h = {v} + 3.0f; {clamp('h', 0.0, 6.0)}h *= {number(1 / 6)}; "
        return f"{{ {start}{v} = {'h' if kind == 'hardsigmoid' else f'{v} * h'}; }} "
    return None

"""Sparse linear layers whose zeros are spread evenly along every output: n:m patterns.

Where every output has at most `steps` nonzeros in each run of 16 inputs, the runs need no lists: 16
outputs lie in the lanes, each takes its next nonzero out of the same 16 inputs, which one
instruction looks up by index (AVX-512), and two indices share a byte. 2:4 is 8 steps per run, 1:4
is 4; a weight and its place take 4.5 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob
from penjing.codegen.kernels.cover import SLACK, named
from penjing.codegen.kernels.dense_linear import (
    CACHE_BYTES,
    packed_needs,
    rows_of,
    takes_linear,
)
from penjing.codegen.kernels.finish import after_loop, finish_rows
from penjing.codegen.kernels.vectors import INTRINSICS, machine, types
from penjing.codegen.targets import Target

LANES = RUN = 16
CACHED_NS, MEMORY_NS, ROW_NS, GROUP_NS = 0.32, 0.65, 0.3, 6.0
"""Of one step whose weights lie in a cache or beyond it, of every further row, of one group of 16
outputs (Zen 5)."""
PLAIN_NS = 8.0
"""Of one step without the instruction."""


def run_steps(weight: np.ndarray) -> int:
    """Most nonzeros that an output has in a run of 16 inputs, rounded up to an even number."""
    outs, ins = (int(n) for n in weight.shape)
    wide = np.pad(weight != 0, ((0, 0), (0, -ins % RUN)))
    most = int(wide.reshape(outs, -1, RUN).sum(2).max(initial=0))
    return min(RUN, most + most % 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLinear:
    """Sparse matrix with evenly spread nonzeros times one or a few vectors at a time.

    Args:
        rows: Vectors at a time.
    """

    rows: int = 1

    @property
    def name(self) -> str:
        """Short name."""
        return "run_linear"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:  # noqa: ARG002 - protocol
        """Float linear layers with zeros in every run."""
        return (
            takes_linear(net, layer)
            and self.rows <= rows_of(net, layer)
            and 0 < run_steps(layer.weights["weight"]) < RUN
        )

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds: every run takes the same number of steps."""
        outs, ins = layer.weights["weight"].shape
        groups, passes = ceil(outs / LANES), ceil(rows_of(net, layer) / self.rows)
        steps = groups * ceil(ins / RUN) * run_steps(layer.weights["weight"])
        far = passes == 1 and steps * LANES * 4.5 > CACHE_BYTES
        each = MEMORY_NS if far else CACHED_NS
        if not machine(target).permutes:
            each = PLAIN_NS
        each += (self.rows - 1) * ROW_NS
        return float(passes * (steps * each + GROUP_NS * groups * self.rows))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed rows; the last run may reach behind them."""
        return packed_needs(net, layer, SLACK)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002
        """Flash for weights and places, fillers included."""
        outs, ins = layer.weights["weight"].shape
        runs = ceil(outs / LANES) * ceil(ins / RUN)
        return int(runs * run_steps(layer.weights["weight"]) * LANES * 9 // 2)

    def emit(self, site: Site, /) -> Code:
        """Weights and indices by group, run and step; one function per size."""
        layer = site.layer
        weight = layer.weights["weight"]
        outs, ins = weight.shape
        steps, count = run_steps(weight), prod(site.inputs[0].shape[:-1])
        values, index = _packed(weight, steps)
        functions = {**types(LANES), "pj_intrinsics": INTRINSICS, "pj_run": LOOKUP}
        calls = []
        full = count // self.rows * self.rows
        for first, last, many in ((0, full, self.rows), (full, count, 1)):
            if last > first:
                name, text = _function((outs, ins, steps), many)
                functions[name] = text
                x, y = (f"{p[0].pointer} + m * " for p in (site.inputs, site.outputs))
                calls.append(
                    f"for (int m = {first}; m < {last}; m += {many}) {name}({x}{ins}, {y}{outs}, "
                    f"{layer.name}_b, {layer.name}_w, {layer.name}_i);\n"
                )
        finish, more = finish_rows(site)
        after, loops = after_loop(site)
        kept = int(np.count_nonzero(weight))
        return Code(
            call="".join(calls) + finish + after,
            functions={**functions, **more, **loops},
            blobs=(
                Blob(f"{layer.name}_w", values, align=64),
                Blob(f"{layer.name}_i", index, "index", 16),
                bias_blob(layer, outs),
            ),
            note=f"{kept} of {weight.size} weights, {steps} of every run of {RUN} inputs, "
            f"lanes {kept / max(1, values.size):.0%} busy",
        )


def _packed(weight: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (group, run, step, lane); indices, those of two steps in one byte."""
    outs, ins = weight.shape
    wide = np.pad(weight, ((0, -outs % LANES), (0, -ins % RUN)))
    runs = wide.reshape(-1, LANES, wide.shape[1] // RUN, RUN).transpose(0, 2, 1, 3)
    order = np.argsort(runs == 0, axis=3, kind="stable")[..., :steps]
    values = np.take_along_axis(runs, order, 3)
    order = np.where(values != 0, order, 0)  # column 0 of a run is always an input
    first, second = order[..., 0::2], order[..., 1::2]
    index = (first | second << 4).transpose(0, 1, 3, 2)
    return values.transpose(0, 1, 3, 2).astype(np.float32).ravel(), index.astype(np.uint8).ravel()


LOOKUP = """
#ifdef __AVX512F__
#define PJ_INDICES(i, j, at) \\
    const __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(at))); \\
    const __m512i j = _mm512_srli_epi32(i, 4); /* the instruction reads four bits */
#define PJ_LOOK_UP(a, x, i, w) (a) += *(const pj_vf16 *)(w) * \\
    (pj_vf16)_mm512_permutexvar_ps(i, (__m512)(x));
#else
#define PJ_INDICES(i, j, at) \\
    uint8_t i[16], j[16]; \\
    for (int l = 0; l < 16; l++) \\
        i[l] = (uint8_t)((at)[l] & 15), j[l] = (uint8_t)((at)[l] >> 4);
#define PJ_LOOK_UP(a, x, i, w) \\
    for (int l = 0; l < 16; l++) (a)[l] += (w)[l] * (x)[(i)[l]];
#endif
"""


def _function(sizes: tuple[int, int, int], rows: int) -> tuple[str, str]:
    """The product of `rows` vectors with a matrix of (outputs, inputs, steps)."""
    outs, ins, steps = sizes
    full, rest = divmod(outs, LANES)
    count = f"g < {full} ? {LANES} : {rest}" if rest else str(LANES)
    begin, load, work, store = [], [], [], []
    for m in range(rows):
        begin.append(f"pj_vf16 a{m} = {{0}}, s{m} = {{0}};")
        load.append(f"const pj_vf16 x{m} = *(const pj_vf16 *)(x + c + {m * ins});")
        y = f"y + {m * outs}"
        whole = f"*(pj_vf16 *)({y}) = a{m} + s{m} + *(const pj_vf16 *)b;"
        part = f"for (int i = 0; i < ({count}); i++) ({y})[i] = b[i] + a{m}[i] + s{m}[i];"
        store.append(f"if (g < {full}) {{ {whole} }} else {{ {part} }}" if rest else whole)
    for step in range(0, steps, 2):
        looks = " ".join(
            f"PJ_LOOK_UP({sums}{m}, x{m}, {index}, w + {16 * (step + k)})"
            for k, sums, index in ((0, "a", "i"), (1, "s", "j"))
            for m in range(rows)
        )
        work.append(f"{{ PJ_INDICES(i, j, at + {8 * step}) {looks} }}")
    begins, loads, works, stores = ("\n        ".join(t) for t in (begin, load, work, store))
    return named("pj_runs", f"""
static void @NAME@(const float *x, float *y, const float *b, const float *w, const uint8_t *at) {{
    for (int g = 0; g < {full + bool(rest)}; g++, y += {LANES}, b += {LANES}) {{
        {begins}
        for (int c = 0; c < {ins}; c += {RUN}, w += {steps * LANES}, at += {steps * LANES // 2}) {{
        {loads}
        {works}
        }}
        {stores}
    }}
}}
""")  # fmt: skip

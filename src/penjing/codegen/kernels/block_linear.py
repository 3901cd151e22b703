"""Sparse linear layers whose nonzeros lie in blocks.

A block of neighbouring outputs ("down") is one vector of weights times one input; a block of
neighbouring inputs ("along") one vector of weights times one vector of inputs, whose lanes are
added at the end of each output. Lists say which blocks there are; blocks begin at whole multiples
of their length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from penjing.codegen.encodings import entries, narrowest
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
from penjing.codegen.kernels.vectors import machine, types
from penjing.codegen.targets import Target

BLOCK_NS, LIST_NS, ROW_NS = 0.45, 6.0, 0.25
"""Of one block, of one list, of one block and every further row (Zen 5)."""
BYTE_NS, FAR_BYTE_NS = 0.0065, 0.013
"""Of one byte of weights from a cache, and from beyond it."""
STRANDS = 4
"""Independent sums that hide the latency of a multiply-add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLinear:
    """Block-sparse matrix times one or a few vectors at a time.

    Args:
        lanes: Length of a block.
        along: Blocks lie along the inputs; else they go down the outputs.
        rows: Vectors at a time.
    """

    lanes: int = 16
    along: bool = False
    rows: int = 1

    @property
    def name(self) -> str:
        """Short name."""
        return "block_linear"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float linear layers that the blocks divide."""
        if not takes_linear(net, layer) or self.lanes > machine(target).lanes:
            return False
        outs, ins = layer.weights["weight"].shape
        whole = (ins if self.along else outs) % self.lanes == 0
        return whole and self.rows <= rows_of(net, layer)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:  # noqa: ARG002 - protocol
        """Nanoseconds, from the blocks and the weights' way to the core."""
        weight = layer.weights["weight"]
        blocks, lists = self._blocks(weight)
        passes, size = rows_of(net, layer) / self.rows, 4 * blocks * self.lanes
        far = passes == 1 and size > CACHE_BYTES
        each = BLOCK_NS + (self.rows - 1) * ROW_NS
        work = max(blocks * each, size * (FAR_BYTE_NS if far else BYTE_NS))
        return float(passes * (work + LIST_NS * lists * self.rows))

    def _blocks(self, weight: np.ndarray) -> tuple[int, int]:
        """Blocks that are not zero, and lists."""
        outs, ins = weight.shape
        if self.along:
            return int((weight.reshape(outs, -1, self.lanes) != 0).any(2).sum()), outs
        bundles = weight.reshape(-1, self.lanes, ins)
        return int((bundles != 0).any(1).sum()), outs // self.lanes

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed rows."""
        return packed_needs(net, layer, SLACK)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002
        """Flash for weights, places and counts."""
        blocks, lists = self._blocks(layer.weights["weight"])
        return blocks * (4 * self.lanes + 2) + 2 * lists

    def emit(self, site: Site, /) -> Code:
        """Lists of blocks, one function per size."""
        layer = site.layer
        weight = layer.weights["weight"]
        outs, ins = weight.shape
        lists, place, values = self._listed(weight)
        number = outs if self.along else outs // self.lanes
        at, counts = narrowest(place), narrowest(np.bincount(lists, minlength=number))
        count = prod(site.inputs[0].shape[:-1])
        full = count // self.rows * self.rows
        functions, calls = types(self.lanes), []
        for first, last, many in ((0, full, self.rows), (full, count, 1)):
            if last > first:
                name, text = self._function((outs, ins), many, f"{at.dtype}_t", f"{counts.dtype}_t")
                functions[name] = text
                x, y = (f"{p[0].pointer} + m * " for p in (site.inputs, site.outputs))
                arrays = ", ".join(f"{layer.name}_{key}" for key in ("b", "w", "at", "n"))
                calls.append(
                    f"for (int m = {first}; m < {last}; m += {many}) "
                    f"{name}({x}{ins}, {y}{outs}, {arrays});\n"
                )
        finish, more = finish_rows(site)
        after, loops = after_loop(site)
        kept = int(np.count_nonzero(weight))
        shape = f"1x{self.lanes}" if self.along else f"{self.lanes}x1"
        return Code(
            call="".join(calls) + finish + after,
            functions={**functions, **more, **loops},
            blobs=(
                Blob(f"{layer.name}_w", _some(values.astype(np.float32).ravel()), align=64),
                Blob(f"{layer.name}_at", _some(at), "index"),
                Blob(f"{layer.name}_n", counts, "index"),
                bias_blob(layer, outs),
            ),
            note=f"{kept} of {weight.size} weights in {len(place)} blocks {shape}, csr",
        )

    def _listed(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every block its list, the place of its first input, and its weights."""
        if not self.along:
            return entries(weight, self.lanes)
        blocks = weight.reshape(len(weight), -1, self.lanes)
        row, block = np.nonzero((blocks != 0).any(2))
        return row, block * self.lanes, blocks[row, block]

    def _function(self, sizes: tuple[int, int], rows: int, at: str, n: str) -> tuple[str, str]:
        (outs, ins), lanes = sizes, self.lanes
        kind = f"pj_vf{lanes}"
        strands = STRANDS if rows == 1 else 1
        sums = [f"a{m}_{j}" for m in range(rows) for j in range(strands)]
        begin = " ".join(f"{kind} {a} = {{0}};" for a in sums)
        many = " ".join(self._multiply(m, j, ins) for j in range(strands) for m in range(rows))
        one = " ".join(self._multiply(m, 0, ins) for m in range(rows))
        joined = [" + ".join(f"a{m}_{j}" for j in range(strands)) for m in range(rows)]
        store = " ".join(self._store(m, total, outs) for m, total in enumerate(joined))
        step = 1 if self.along else lanes
        quick = ""
        if strands > 1:
            steps = f"k -= {strands}, at += {strands}, w += {strands * lanes}"
            quick = f"for (; k >= {strands}; {steps}) {{ {many} }}"
        return named("pj_blocks", f"""
static void @NAME@(const float *x, float *y, const float *b, const float *w, const {at} *at,
                   const {n} *n) {{
    for (int o = 0; o < {outs}; o += {step}, y += {step}, b += {step}) {{
        {begin}
        unsigned k = *n++;
        {quick}
        for (; k; k--, at++, w += {lanes}) {{ {one} }}
        {store}
    }}
}}
""")  # fmt: skip

    def _multiply(self, row: int, strand: int, ins: int) -> str:
        kind = f"pj_vf{self.lanes}"
        x = f"x[at[{strand}] + {row * ins}]"
        if self.along:
            x = f"*(const {kind} *)(x + at[{strand}] + {row * ins})"
        return f"a{row}_{strand} += *(const {kind} *)(w + {strand * self.lanes}) * {x};"

    def _store(self, row: int, total: str, outs: int) -> str:
        kind = f"pj_vf{self.lanes}"
        if not self.along:
            goal, bias = f"(y + {row * outs})", f"*(const {kind} *)b"
            return f"*({kind} *){goal} = {bias} + {total};"
        return (
            f"{{ const {kind} v = {total}; float s = 0.0f; "
            f"for (int l = 0; l < {self.lanes}; l++) s += v[l]; y[{row * outs}] = *b + s; }}"
        )


def _some(values: np.ndarray) -> np.ndarray:
    """C has no empty arrays."""
    return values if len(values) else np.zeros(1, values.dtype)

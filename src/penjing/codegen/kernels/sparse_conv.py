"""Convolution that does work for nonzero weights alone.

Per filter a list of (place of the tap in the input, weight). A tile of output pixels stays in
registers; each nonzero is one broadcast and one multiply-add per vector. The input is read where it
lies ("direct": loads straddle cache lines, which costs double on most machines) or staged, see
`cover`; staged channels are taken in blocks that stay in the first-level cache, and between blocks
the sums wait in the output.

With `bundle` filters at once a tap is in the list if one of them has it, so that every vector is
loaded once for all of them: what blocks of zeros pay for. The lists are written in any of the
encodings; only csr places are what the code adds, the others cost a few instructions per tap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from penjing.codegen.encodings import Index, few_values
from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Job, Style, merged, named
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.geometry import geometry
from penjing.codegen.kernels.lists import READ_AT_ONCE, Lists
from penjing.codegen.kernels.standalone import packed_site
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

MULTIPLY_NS = 0.15
"""Of one vector's multiply-add in registers (Zen 5)."""
STAGED_NS, DIRECT_NS = 0.06, 0.19
"""More, where the vector is loaded for it alone; and where that load straddles lines."""
LIST_NS, FILTER_NS, COPY_NS, FINISH_NS = 0.3, 4.0, 0.35, 0.6
"""Of one nonzero, of one list, of one staged vector, of one finished vector."""
DECODE_NS = {"csr": 0.0, "delta": 0.4, "bitmap": 0.8}
"""Of one tap."""
SUMS = 8
"""Independent ones that hide the latency of a multiply-add."""
TOGETHER = 4
"""Nonzeros whose places are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseConv:
    """Element- and block-sparse convolution: any kernel, stride, dilation and groups.

    Args:
        style: How it goes through memory.
        bundle: Filters at once, which share their lists.
        index: How the lists say where a tap is.
        codebook: Weights are codes of one byte; for layers of few values only.
    """

    style: Style = field(default_factory=Style)
    bundle: int = 1
    index: Index = "csr"
    codebook: bool = False

    @property
    def name(self) -> str:
        """Short name."""
        return "sparse_conv" if self.bundle == 1 else "block_conv"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float convolutions in one or two dimensions, as far as the registers go."""
        sums = self.style.vectors * self.bundle + (self.style.vectors if self.bundle > 1 else 0)
        if not takes_conv(net, layer) or sums + 2 > machine(target).registers:
            return False
        g = geometry(net, layer)
        whole = g is not None and g.filters // g.groups % self.bundle == 0
        return whole and (not self.codebook or few_values(layer.weights["weight"]))

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from the vectors that are multiplied, copied and finished."""
        f = frames(net, layer, target, self.style)[-1]
        tiles, vectors = f.tiles.tiles, f.tiles.tiles * f.tiles.vectors
        taps = self._taps(layer.weights["weight"])
        load = STAGED_NS if f.staged else DIRECT_NS
        each = self.bundle * MULTIPLY_NS + (load if self.bundle == 1 else load / 4)
        decode = DECODE_NS[self.index] * taps
        bundles = f.g.filters // self.bundle * f.blocks
        lists = LIST_NS * taps + decode + FILTER_NS * bundles
        finish = FINISH_NS * vectors * f.g.filters * f.blocks
        work = each * taps * vectors + lists * tiles + COPY_NS * f.stage_vectors + finish
        return float(work * f.g.batch)

    def _taps(self, weight: np.ndarray) -> int:
        """Entries of all lists."""
        bundles = weight.reshape(len(weight) // self.bundle, self.bundle, -1)
        return int(np.count_nonzero((bundles != 0).any(1)))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels with their padding around them, and room to stage."""
        return conv_needs(net, layer, frames(net, layer, target, self.style), target)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:
        """Flash for weights, places and counts."""
        site = packed_site(self, net, layer, target)
        return self._lists(job_at(site, self.style), layer).size_bytes

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile; lists of taps and weights per layer."""
        layer = site.layer
        job = job_at(site, self.style)
        frame, lists = job.frame, self._lists(job, layer)
        name, text = _tile(job, lists)
        macros = READ_AT_ONCE if "PJ_NTH" in text else {}
        call, functions = job.blocks(name, lists.parts(layer.name))
        after, more = after_loop(site)
        shared = "" if self.bundle == 1 else f" in blocks of {self.bundle} filters"
        kept = int(np.count_nonzero(layer.weights["weight"]))
        blobs: list[Blob] = [*lists.blobs(layer.name), bias_blob(layer, frame.g.filters)]
        return Code(
            call=call + after,
            functions=merged(job.functions(), macros, {name: text}, functions, more),
            blobs=tuple(blobs),
            note=f"{kept} of {layer.weights['weight'].size} weights{shared}, "
            f"{lists.blocks[0].name}; {'staged' if frame.staged else 'direct'}, tile of "
            f"{frame.tiles.vectors} vectors, {frame.blocks} blocks",
        )

    def _lists(self, job: Job, layer: Layer) -> Lists:
        weight = layer.weights["weight"]
        return Lists.of(job, weight, self.index, bundle=self.bundle, codebook=self.codebook)


def _tile(job: Job, lists: Lists) -> tuple[str, str]:
    """The function that computes one tile for all filters."""
    many, bundle = job.frame.blocks > 1, lists.bundle
    start, again, finish, wait = [], [], [], []
    for o in range(bundle):
        y = _ahead("y", o, job.y[1])
        z = "" if job.residual is None else _ahead("z", o, job.residual[1])
        for i, row, p in job.vectors():
            a = f"a{o}_{i}"
            start.append(f"pj_vf{p.lanes} {a} = (pj_vf{p.lanes}){{0}} + b[{o}];")
            again.append(f"{a} = *(const pj_vf{p.lanes} *)({y} + {row * job.y[2] + p.column});")
            finish.append(job.finish(a, row, p, residual=z, y=y))
            wait.append(job.store(a, row, p, y))
    z = "" if job.residual is None else "const float *PJ_RESTRICT z, "
    z_step = "" if job.residual is None else f", z += {bundle * job.residual[1]}"
    flags = ", int first, int last" if many else ""
    ends = "\n        ".join(finish)
    if many:
        ends = f"if (!last) {{ {' '.join(wait)} continue; }}\n        {ends}"
        start.append(f"if (!first) {{ {' '.join(again)} }}")
    begins = "\n        ".join(start)
    return named("pj_sparse", f"""
static void @NAME@(const float *x, float *y, {z}const float *b, {lists.parameters}{flags}) {{
    for (int o = 0; o < {job.frame.g.filters}; o += {bundle}, b += {bundle},
         y += {bundle * job.y[1]}{z_step}) {{
        {begins}
        {lists.before}
        {_together(job, lists)}
        {lists.loop(_work(job, bundle))}
        {ends}
    }}
}}
""")  # fmt: skip


def _ahead(name: str, steps: int, stride: int) -> str:
    return f"{name} + {steps * stride}" if steps else name


def _work(job: Job, bundle: int) -> str:
    """The multiply-adds of one tap."""
    if bundle == 1:
        return "\n            ".join(_multiplied(job, "a0", 0))
    lines = [
        f"const pj_vf{p.lanes} v{i} = *(const pj_vf{p.lanes} *)(t0 + {job.load(row, p)});"
        for i, row, p in job.vectors()
    ]
    lines += [f"a{o}_{i} += c{o} * v{i};" for o in range(bundle) for i, _, _ in job.vectors()]
    return "\n            ".join(lines)


def _multiplied(job: Job, sums: str, entry: int) -> list[str]:
    """The multiply-adds of one nonzero."""
    return [
        f"{sums}_{i} += c{entry} * *(const pj_vf{p.lanes} *)(t{entry} + {job.load(row, p)});"
        for i, row, p in job.vectors()
    ]


def _together(job: Job, lists: Lists) -> str:
    """Several nonzeros at a time: their places are read in words instead of one by one.

    Where a tile has too few sums to hide the latency of one, every nonzero of a round has its own.
    """
    if job.site.target.board is not None or lists.bundle > 1 or lists.index != "csr":
        return ""
    strands = 1
    while strands * len(job.vectors()) < SUMS:
        strands *= 2
    count = max(TOGETHER, strands)
    names = ["a0", *(f"s{j}" for j in range(1, strands))]
    lines = [lists.places_ahead(count)]
    for j in range(count):
        lines += [lists.values(j), *_multiplied(job, names[j % strands], j)]
    own = [(name, i, p.lanes) for name in names[1:] for i, _, p in job.vectors()]
    zeros = " ".join(f"pj_vf{lanes} {name}_{i} = {{0}};" for name, i, lanes in own)
    ends = " ".join(f"a0_{i} += {name}_{i};" for name, i, _ in own)
    inside = "\n            ".join(lines)
    return f"""if (k >= {count}) {{
        {zeros}
        for (; k >= {count}; k -= {count}, at += {count}, w += {count}) {{
            {inside}
        }}
        {ends}
        }}"""

"""Convolution that does work for nonzero weights alone.

Per filter a list of (place of the tap in the input, weight). A tile of output pixels stays in
registers; each nonzero is one broadcast and one multiply-add per vector. The input is read where it
lies ("direct": loads straddle cache lines, which costs double on most machines) or staged, see
`cover`; staged channels are taken in blocks that stay in the first-level cache, and between blocks
the sums wait in the output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Job, Style, merged, named
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

STAGED_NS, DIRECT_NS = 0.21, 0.34
"""Of one vector's multiply-add with an aligned load, and with one that straddles lines (Zen 5)."""
LIST_NS, FILTER_NS, COPY_NS, FINISH_NS = 0.3, 4.0, 0.35, 0.6
"""Of one nonzero, of one list, of one staged vector, of one finished vector."""
PER_NONZERO = 6
"""Bytes of a weight and its place."""
STRANDS = 6
"""Independent sums that hide the latency of a multiply-add."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseConv:
    """Element-sparse convolution: any kernel, stride, dilation and groups.

    Args:
        style: How it goes through memory.
    """

    style: Style = field(default_factory=Style)

    @property
    def name(self) -> str:
        """Short name."""
        return "sparse_conv"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float convolutions in one or two dimensions, as far as the registers go."""
        return takes_conv(net, layer) and self.style.vectors + 2 <= machine(target).registers

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from the vectors that are multiplied, copied and finished."""
        f = frames(net, layer, target, self.style)[-1]
        kept, tiles = np.count_nonzero(layer.weights["weight"]), f.tiles.tiles
        vectors = tiles * f.tiles.vectors
        each = STAGED_NS if f.staged else DIRECT_NS
        lists = LIST_NS * kept + FILTER_NS * f.g.filters * f.blocks
        finish = FINISH_NS * vectors * f.g.filters * f.blocks
        work = each * kept * vectors + lists * tiles + COPY_NS * f.stage_vectors + finish
        return float(work * f.g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels with their padding around them, and room to stage."""
        return conv_needs(net, layer, frames(net, layer, target, self.style))

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002
        """Flash for weights, places and counts."""
        weight = layer.weights["weight"]
        return int(np.count_nonzero(weight)) * PER_NONZERO + 8 * len(weight)

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile; lists of taps and weights per layer."""
        weight = site.layer.weights["weight"]
        job = job_at(site, self.style)
        frame = job.frame
        lists = _Lists.of(job, weight)
        name, text = _tile(job, lists)
        call, functions = _call(job, lists, name)
        after, more = after_loop(site)
        return Code(
            call=call + after,
            functions=merged(job.functions(), {name: text}, functions, more),
            blobs=lists.blobs(site.layer),
            note=f"{len(lists.values)} of {weight.size} weights as {lists.places.dtype} place and "
            f"float; {'staged' if frame.staged else 'direct'}, tile of {frame.tiles.vectors} "
            f"vectors, {frame.blocks} blocks",
        )


@dataclass(frozen=True, slots=True)
class _Lists:
    """The nonzeros, block after block of input channels, filter after filter.

    Args:
        values: Weights.
        places: Elements from the tile's first pixel to the tap.
        counts: Nonzeros per block and filter.
    """

    values: np.ndarray
    places: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, job: Job, weight: np.ndarray) -> _Lists:
        f, g = job.frame, job.frame.g
        taps = weight.reshape(g.filters, -1, *g.kernel)
        o, i, row, column = np.nonzero(taps)
        channel = i + o // (g.filters // g.groups) * (g.channels // g.groups)
        block = channel // f.block
        order = np.lexsort((column, row, channel, o, block))
        counts = np.zeros((f.blocks, g.filters), np.int64)
        np.add.at(counts, (block, o), 1)
        unit = [job.tap(1, 0, 0), job.tap(0, 1, 0), job.tap(0, 0, 1)]
        places = (channel % f.block) * unit[0] + row * unit[1] + column * unit[2]
        narrow = np.uint16 if places.max(initial=0) < 1 << 16 else np.uint32
        return cls(taps[o, i, row, column][order], places[order].astype(narrow), counts)

    @property
    def starts(self) -> np.ndarray:
        """Where each block begins."""
        return np.concatenate([[0], self.counts.sum(1).cumsum()])

    def blobs(self, layer: Layer) -> tuple[Blob, ...]:
        """The arrays of the program."""
        narrow = np.uint16 if self.counts.max(initial=0) < 1 << 16 else np.uint32
        return (
            Blob(f"{layer.name}_w", _some(self.values.astype(np.float32))),
            Blob(f"{layer.name}_at", _some(self.places), "index"),
            Blob(f"{layer.name}_n", self.counts.astype(narrow).ravel(), "index"),
            bias_blob(layer, self.counts.shape[1]),
        )


def _some(values: np.ndarray) -> np.ndarray:
    """C has no empty arrays."""
    return values if len(values) else np.zeros(1, values.dtype)


def _tile(job: Job, lists: _Lists) -> tuple[str, str]:
    """The function that computes one tile for all filters."""
    many = job.frame.blocks > 1
    start, again, work, finish, wait = [], [], [], [], []
    for i, row, p in job.vectors():
        at = row * job.y[2] + p.column
        start.append(f"pj_vf{p.lanes} a{i} = (pj_vf{p.lanes}){{0}} + *b;")
        again.append(f"a{i} = *(const pj_vf{p.lanes} *)(y + {at});")
        work.append(_multiply(p.lanes, f"a{i}", job.load(row, p), 0))
        finish.append(job.finish(f"a{i}", row, p, residual="z", y="y"))
        wait.append(job.store(f"a{i}", row, p, "y"))
    z = "" if job.residual is None else "const float *PJ_RESTRICT z, "
    z_step = "" if job.residual is None else f", z += {job.residual[1]}"
    flags = ", int first, int last" if many else ""
    ends = "\n        ".join(finish)
    if many:
        ends = f"if (!last) {{ {' '.join(wait)} continue; }}\n        {ends}"
    if many:
        start.append(f"if (!first) {{ {' '.join(again)} }}")
    begins, works = "\n        ".join(start), "\n            ".join(work)
    return named("pj_sparse", f"""
static void @NAME@(const float *x, float *y, {z}const float *b,
                   const float *w, const {_c(lists.places)} *at, const {_count(lists)} *n{flags}) {{
    for (int o = 0; o < {job.frame.g.filters}; o++, b++, n++, y += {job.y[1]}{z_step}) {{
        {begins}
        unsigned k = *n;
        {_strands(job)}
        for (; k; k--) {{
            const float *t0 = x + *at++;
            const float c0 = *w++;
            {works}
        }}
        {ends}
    }}
}}
""")  # fmt: skip


def _multiply(lanes: int, name: str, at: str, strand: int) -> str:
    return f"{name} += c{strand} * *(const pj_vf{lanes} *)(t{strand} + {at});"


def _strands(job: Job) -> str:
    """Several nonzeros at a time where a tile has too few sums to hide the latency of one."""
    sums = job.vectors()
    count = STRANDS // len(sums)
    if count < 2:
        return ""
    lines, body, ends = [], [], []
    for j in range(count):
        body.append(f"const float *t{j} = x + at[{j}]; const float c{j} = w[{j}];")
        for i, row, p in sums:
            name = f"a{i}" if j == 0 else f"s{j}_{i}"
            body.append(_multiply(p.lanes, name, job.load(row, p), j))
            if j:
                lines.append(f"pj_vf{p.lanes} {name} = {{0}};")
                ends.append(f"a{i} += {name};")
    inside = "\n            ".join(body)
    return f"""if (k >= {count}) {{
        {" ".join(lines)}
        for (; k >= {count}; k -= {count}, at += {count}, w += {count}) {{
            {inside}
        }}
        {" ".join(ends)}
        }}"""


def _c(array: np.ndarray) -> str:
    return f"{array.dtype.name}_t"


def _count(lists: _Lists) -> str:
    return "uint16_t" if lists.counts.max(initial=0) < 1 << 16 else "uint32_t"


def _call(job: Job, lists: _Lists, tile: str) -> tuple[str, dict[str, str]]:
    name = job.site.layer.name
    parts = [
        f"{name}_w + {at}, {name}_at + {at}, {name}_n + {i * job.frame.g.filters}"
        for i, at in enumerate(lists.starts[:-1])
    ]
    return job.blocks(tile, parts)

"""Convolution whose two-dimensional kernels are whole, gone, or of a few shapes.

Per filter and shape a list of input channels; the taps of a shape are unrolled, so that a kernel
needs one place instead of one per tap, and a row of pixels that several taps and rows of the tile
share is loaded once. Shapes are the most frequent among the kernels of a layer; a kernel of another
shape is stored in the least one of them that holds it, with zeros.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

import numpy as np

from penjing.codegen.encodings import narrowest
from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Frame, Job, Style, merged, named
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.geometry import geometry
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

MULTIPLY_NS, LOAD_NS = 0.15, 0.15
"""Of one vector's multiply-add, of one loaded vector (Zen 5)."""
KERNEL_NS, FILTER_NS, COPY_NS, FINISH_NS = 1.0, 4.0, 0.35, 0.6
"""Of one kernel, of one list, of one staged vector, of one finished vector."""
SHAPES = 8
"""Most shapes of one layer: each is code of its own."""
UNROLLED = 700
"""Most multiply-adds in the text of one tile."""

Shape = tuple[int, ...]
"""Taps, by number along the rows of the kernel."""


def shapes_of(weight: np.ndarray) -> tuple[Shape, ...]:
    """The shapes that a layer's kernels get: the whole one last, unless none needs it."""
    taps = weight.reshape(-1, prod(weight.shape[2:]))
    kept = taps[(taps != 0).any(1)] != 0
    counted = Counter(map(tuple, kept.astype(np.uint8).tolist()))
    whole = tuple(range(taps.shape[1]))
    found = [tuple(np.flatnonzero(mask).tolist()) for mask, _ in counted.most_common()]
    if len(found) <= SHAPES:
        return tuple(found) or (whole,)
    return (*[s for s in found[: SHAPES - 1] if s != whole], whole)


def assigned(weight: np.ndarray, shapes: tuple[Shape, ...]) -> np.ndarray:
    """The shape of every kernel (filters, channels) by number, the least that holds it.

    Kernels of zeros have -1.
    """
    flat = weight.reshape(*weight.shape[:2], -1) != 0
    found = np.full(flat.shape[:2], -1)
    for i in sorted(range(len(shapes)), key=lambda i: -len(shapes[i])):
        others = [t for t in range(flat.shape[2]) if t not in shapes[i]]
        found[~flat[:, :, others].any(2)] = i
    found[~flat.any(2)] = -1
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConv:
    """Convolution of kernels that have one of a few shapes.

    Args:
        style: How it goes through memory.
    """

    style: Style = field(default_factory=Style)

    @property
    def name(self) -> str:
        """Short name."""
        return "kernel_conv"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float convolutions of more than one tap, as far as the registers go."""
        if not takes_conv(net, layer):
            return False
        g = geometry(net, layer)
        assert g is not None
        taps = prod(g.kernel)
        fits = self.style.vectors + taps + 2 <= machine(target).registers
        many = len(shapes_of(layer.weights["weight"])) * taps * self.style.vectors
        return taps > 1 and fits and many <= UNROLLED

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from the vectors that are multiplied, loaded, copied and finished."""
        f = frames(net, layer, target, self.style)[-1]
        weight = layer.weights["weight"]
        shapes = shapes_of(weight)
        which = assigned(weight, shapes)
        tiles, vectors = f.tiles.tiles, f.tiles.vectors
        each = 0.0
        for i, shape in enumerate(shapes):
            kernels = int((which == i).sum())
            work = len(shape) * vectors * MULTIPLY_NS + _loads(f, shape) * LOAD_NS
            each += kernels * (work + KERNEL_NS)
        lists = FILTER_NS * f.g.filters * f.blocks * len(shapes)
        finish = FINISH_NS * vectors * f.g.filters * f.blocks
        return float(((each + lists + finish) * tiles + COPY_NS * f.stage_vectors) * f.g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels with their padding around them, and room to stage."""
        return conv_needs(net, layer, frames(net, layer, target, self.style), target)

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002
        """Flash for weights, places and counts."""
        weight = layer.weights["weight"]
        shapes = shapes_of(weight)
        which = assigned(weight, shapes)
        values = sum(len(s) * int((which == i).sum()) for i, s in enumerate(shapes))
        return int(4 * values + 2 * (which >= 0).sum() + 2 * len(weight) * len(shapes))

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile and set of shapes."""
        layer = site.layer
        job, weight = job_at(site, self.style), layer.weights["weight"]
        shapes = shapes_of(weight)
        lists = _Lists.of(job, weight, shapes)
        name, text = _tile(job, shapes, lists)
        call, functions = job.blocks(name, lists.parts(layer.name))
        after, more = after_loop(site)
        said = ", ".join(str(len(s)) for s in shapes)
        return Code(
            call=call + after,
            functions=merged(job.functions(), {name: text}, functions, more),
            blobs=(*lists.blobs(layer.name), bias_blob(layer, job.frame.g.filters)),
            note=f"{len(lists.places)} of {weight.shape[0] * weight.shape[1]} kernels, "
            f"{len(shapes)} shapes of {said} taps; "
            f"{'staged' if job.frame.staged else 'direct'}, tile of {job.frame.tiles.vectors} "
            f"vectors, {job.frame.blocks} blocks",
        )


@dataclass(frozen=True, slots=True)
class _Lists:
    """Kernels by block of channels, filter, and shape.

    Args:
        values: Weights, kernel after kernel.
        places: Elements from the tile's first pixel to each kernel's channel.
        counts: Kernels per block, filter and shape.
        starts: Where each block begins: weights, kernels.
    """

    values: np.ndarray
    places: np.ndarray
    counts: np.ndarray
    starts: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, job: Job, weight: np.ndarray, shapes: tuple[Shape, ...]) -> _Lists:
        f, g = job.frame, job.frame.g
        which = assigned(weight, shapes)
        o, i = np.nonzero(which >= 0)
        shape = which[o, i]
        channel = i + o // (g.filters // g.groups) * (g.channels // g.groups)
        block = channel // f.block
        order = np.lexsort((channel, shape, o, block))
        counts = np.zeros((f.blocks, g.filters, len(shapes)), np.int64)
        np.add.at(counts, (block, o, shape), 1)
        flat = weight.reshape(*weight.shape[:2], -1)
        values = [flat[o[k], i[k], list(shapes[shape[k]])] for k in order]
        sizes = np.array([len(s) for s in shapes])
        weights = np.cumsum([0, *(counts.sum(1) @ sizes)[:-1]])
        kernels = np.cumsum([0, *counts.sum((1, 2))[:-1]])
        return cls(
            np.concatenate([*values, np.zeros(0 if values else 1)]).astype(np.float32),
            narrowest((channel % f.block * job.tap(1, 0, 0))[order]),
            narrowest(counts),
            tuple((int(a), int(b)) for a, b in zip(weights, kernels, strict=True)),
        )

    def blobs(self, name: str) -> tuple[Blob, ...]:
        """The arrays of the program."""
        places = self.places if len(self.places) else np.zeros(1, np.uint16)
        return (
            Blob(f"{name}_w", self.values),
            Blob(f"{name}_at", places, "index"),
            Blob(f"{name}_n", self.counts.ravel(), "index"),
        )

    def parts(self, name: str) -> list[str]:
        """Arguments for the tile, per block."""
        each = self.counts[0].size
        return [
            f"{name}_w + {w}, {name}_at + {at}, {name}_n + {i * each}"
            for i, (w, at) in enumerate(self.starts)
        ]


def _uses(job: Job, shape: Shape) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Loaded vector (its place and lanes) -> the sums that use it, each with its tap."""
    width = job.frame.g.kernel[1]
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for k, tap in enumerate(shape):
        start = job.tap(0, tap // width, tap % width)
        for i, row, p in job.vectors():
            place = (start + int(job.load(row, p)), p.lanes)
            found.setdefault(place, []).append((i, k))
    return found


def _loads(f: Frame, shape: Shape) -> int:
    """Vectors that one kernel loads: rows that touch share them."""
    rows = f.tiles.rows
    down, across = f.g.kernel[1], len(f.tiles.pieces)
    step, dilation = f.row_step, f.g.dilation[0]
    seen = {(r * step + t // down * dilation, t % down) for t in shape for r in range(rows)}
    return len(seen) * across


def _tile(job: Job, shapes: tuple[Shape, ...], lists: _Lists) -> tuple[str, str]:
    """The function that computes one tile for all filters."""
    many = job.frame.blocks > 1
    start, again, finish, wait = [], [], [], []
    for i, row, p in job.vectors():
        at = row * job.y[2] + p.column
        start.append(f"pj_vf{p.lanes} a{i} = (pj_vf{p.lanes}){{0}} + *b;")
        again.append(f"a{i} = *(const pj_vf{p.lanes} *)(y + {at});")
        finish.append(job.finish(f"a{i}", row, p, residual="z", y="y"))
        wait.append(job.store(f"a{i}", row, p, "y"))
    z = "" if job.residual is None else "const float *PJ_RESTRICT z, "
    z_step = "" if job.residual is None else f", z += {job.residual[1]}"
    flags = ", int first, int last" if many else ""
    ends = "\n        ".join(finish)
    if many:
        ends = f"if (!last) {{ {' '.join(wait)} continue; }}\n        {ends}"
        start.append(f"if (!first) {{ {' '.join(again)} }}")
    begins = "\n        ".join(start)
    loops = "\n        ".join(_loop(job, shape) for shape in shapes)
    return named("pj_kernels", f"""
static void @NAME@(const float *x, float *y, {z}const float *b, const float *w,
                   const {lists.places.dtype}_t *at, const {lists.counts.dtype}_t *n{flags}) {{
    for (int o = 0; o < {job.frame.g.filters}; o++, b++, y += {job.y[1]}{z_step}) {{
        {begins}
        {loops}
        {ends}
    }}
}}
""")  # fmt: skip


def _loop(job: Job, shape: Shape) -> str:
    """C for the kernels of one shape: every loaded vector goes to all sums that need it."""
    lines = [f"const float k{k} = w[{k}];" for k in range(len(shape))]
    for (at, lanes), uses in sorted(_uses(job, shape).items()):
        kind = f"pj_vf{lanes}"
        sums = " ".join(f"a{i} += k{k} * v;" for i, k in uses)
        lines.append(f"{{ const {kind} v = *(const {kind} *)(t + {at}); {sums} }}")
    inside = "\n            ".join(lines)
    return f"""for (unsigned k = *n++; k; k--, w += {len(shape)}) {{
            const float *t = x + *at++;
            {inside}
        }}"""

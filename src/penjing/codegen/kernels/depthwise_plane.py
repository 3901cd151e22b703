"""Depthwise convolution of whole planes: rows touch, and lanes that wrapped are masked.

A channel is copied once between rows of zeros, one channel ahead of the sums, so that no load waits
for a store. A vector of pixels may then span rows: every tap is
one load at a constant distance. What a tap beside the centre column reads across the end of a row
belongs to another row, so the sum of each such column is masked before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Room, Site
from penjing.codegen.kernels.conv import bias_blob, geometry_at, takes_conv
from penjing.codegen.kernels.cover import SLACK, merged, named, position
from penjing.codegen.kernels.finish import after_loop, in_vectors
from penjing.codegen.kernels.geometry import Geometry, Tiling, geometry, strides4, tiling
from penjing.codegen.kernels.vectors import activated, keep, machine, types
from penjing.codegen.targets import Target

TAP_NS, FINISH_NS, COPY_NS, CHANNEL_NS = 0.28, 0.8, 0.3, 5.0
"""Of one vector and tap, one finished vector, one copied vector, one channel (Zen 5)."""
LINE = 16
"""Floats of a cache line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwisePlane:
    """Convolution of every channel on its own, without stride, to a map of the same size.

    Args:
        vectors: In the text of one tile.
    """

    vectors: int = 8

    @property
    def name(self) -> str:
        """Short name."""
        return "depthwise_plane"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """As many groups as channels, stride 1, sizes kept, taps that fit the registers."""
        if not takes_conv(net, layer):
            return False
        g = geometry(net, layer)
        assert g is not None
        same = g.size == g.out and g.stride == (1, 1) and prod(g.kernel) > 1
        fits = prod(g.kernel) + 4 <= machine(target).registers
        return g.groups == g.channels and same and fits

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from vectors and taps."""
        g = geometry(net, layer)
        assert g is not None
        tiles = _tiles(g, machine(target).lanes, self.vectors)
        each = TAP_NS * prod(g.kernel) + FINISH_NS
        copied = COPY_NS * ceil(g.pixels / machine(target).lanes)
        work = tiles.tiles * tiles.vectors * each + copied + CHANNEL_NS
        return float(work * g.filters * g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Rows that touch, and room for a plane between rows of zeros."""
        g = geometry(net, layer)
        assert g is not None
        order = tuple(range(len(net.tensors[layer.inputs[0]].shape)))
        one = Room(slack=SLACK, order=order, loose=True, touching=True)
        _, size = _room(g)
        return Needs(
            inputs=tuple(one for _ in layer.inputs), outputs=(one,), scratch_bytes=8 * size
        )

    def emit(self, site: Site, /) -> Code:
        """One function per size; a table of which columns a tap can see."""
        layer, g, lanes = site.layer, geometry_at(site), machine(site.target).lanes
        tiles = _tiles(g, lanes, self.vectors)
        name, text = _function(site, g, tiles, lanes)
        masks = _masks(g, tiles)
        functions: dict[str, str] = {}
        for p in tiles.pieces:
            functions |= types(p.lanes)
            if p.keep < p.lanes:
                functions |= keep(p.lanes, p.keep)
        blobs = [
            Blob(f"{layer.name}_w", layer.weights["weight"].astype(np.float32)),
            bias_blob(layer, g.filters),
            Blob(f"{layer.name}_m", masks if masks.size else np.zeros(1, np.int32), "table"),
        ]
        arrays = f"{layer.name}_b, {layer.name}_w, {layer.name}_m, (float *)({site.scratch})"
        ends = "".join(
            f", {p.pointer} + n * {strides4(p)[0]}" for p in (*site.outputs, *site.inputs[1:])
        )
        x = f"{site.inputs[0].pointer} + n * {strides4(site.inputs[0])[0]}"
        after, more = after_loop(site)
        call = f"for (int n = 0; n < {g.batch}; n++) {name}({x}, {arrays}{ends});\n"
        return Code(
            call=call + after,
            functions=merged(types(lanes), functions, {name: text}, more),
            blobs=tuple(blobs),
            note=f"depthwise, whole planes, tile of {tiles.vectors} vectors",
        )


def _tiles(g: Geometry, lanes: int, vectors: int) -> Tiling:
    return tiling((1, g.pixels), lanes, vectors)


def _room(g: Geometry) -> tuple[int, int]:
    """Floats before the plane, and in all."""
    width = g.out[1]
    before = g.padding[0] * width + g.padding[1]
    reach = [(k - 1) * d for k, d in zip(g.kernel, g.dilation, strict=True)]
    after = max(0, reach[0] - g.padding[0]) * width + max(0, reach[1] - g.padding[1])
    start = ceil(before / LINE) * LINE
    return start, start + ceil((g.pixels + after) / LINE + 2) * LINE


def _shifts(g: Geometry) -> list[int]:
    """Pixels from the output to what each tap column reads."""
    return [c * g.dilation[1] - g.padding[1] for c in range(g.kernel[1])]


def _masks(g: Geometry, tiles: Tiling) -> np.ndarray:
    """Per shifted tap column and column of the map, going on for a tile: all bits, or none."""
    length = g.out[1] + tiles.pieces[-1].column + LINE
    column = np.arange(length) % g.out[1]
    seen = [(column + s >= 0) & (column + s < g.out[1]) for s in _shifts(g) if s]
    return -np.array(seen, np.int32).reshape(-1)


def _function(site: Site, g: Geometry, tiles: Tiling, lanes: int) -> tuple[str, str]:
    """All channels of an image."""
    start, size = _room(g)
    vf, plane = f"pj_vf{lanes}", strides4(site.inputs[0])[1]
    y_step = strides4(site.outputs[0])[1]
    z = len(site.inputs) > 1
    z_step = f", z += {strides4(site.inputs[1])[1]}" if z else ""
    each = g.filters // g.channels
    ahead = f"o + {each} < {g.filters}" + (f" && o % {each} == 0" if each > 1 else "")
    last = "" if each == 1 else f"if (o % {each} == {each - 1}) "
    weights = " ".join(f"const float k{t} = w[{t}];" for t in range(prod(g.kernel)))
    sums = "\n            ".join(_piece(site, g, tiles, i) for i in range(len(tiles.pieces)))
    lefts = tiles.lefts
    return named("pj_plane", f"""
#define PJ_COPY(e) \\
    for (int i = 0; i < {g.pixels}; i += {lanes}) \\
        *({vf} *)((e) + {start} + i) = *(const {vf} *)(x + i); \\
    for (int i = {start + g.pixels}; i < {size - LINE}; i++) (e)[i] = 0.0f;
static void @NAME@(const float *x, const float *b, const float *w, const int32_t *m, float *e,
                   float *y{", const float *z" if z else ""}) {{
    float *next = e + {size};
    for (int i = 0; i < {start}; i++) e[i] = next[i] = 0.0f;
    PJ_COPY(e)
    for (int o = 0; o < {g.filters}; o++, b++, w += {prod(g.kernel)}, y += {y_step}{z_step}) {{
        if ({ahead}) {{
            x += {plane};
            PJ_COPY(next)
        }}
        {weights}
        for (int i = 0; i < {len(lefts)}; i++) {{
            const int left = {position("i", lefts)};
            const float *t = e + {start} + left;
            const int32_t *seen = m + left % {g.out[1]};
            (void)seen;
            {sums}
        }}
        {last}{{
            float *const done = e;
            e = next;
            next = done;
        }}
    }}
}}
#undef PJ_COPY
""")  # fmt: skip


def _piece(site: Site, g: Geometry, tiles: Tiling, number: int) -> str:
    """One vector of a tile: per tap column the sum over its rows, masked where it is shifted."""
    p, length = tiles.pieces[number], g.out[1] + tiles.pieces[-1].column + LINE
    vf, vi = f"pj_vf{p.lanes}", f"pj_vi{p.lanes}"
    lines, row = [f"{vf} a = ({vf}){{0}} + *b;"], 0
    for c, shift in enumerate(_shifts(g)):
        taps = [
            f"k{r * g.kernel[1] + c} * *(const {vf} *)"
            f"(t + {(r * g.dilation[0] - g.padding[0]) * g.out[1] + shift + p.column})"
            for r in range(g.kernel[0])
        ]
        if not shift:
            lines += [f"a += {tap};" for tap in taps]
            continue
        masked = f"*(const {vi} *)(seen + {row * length + p.column})"
        adds = " ".join(f"s += {tap};" for tap in taps[1:])
        lines.append(f"{{ {vf} s = {taps[0]}; {adds} a += ({vf})({masked} & ({vi})s); }}")
        row += 1
    if len(site.inputs) > 1:
        lines.append(f"a += *(const {vf} *)(z + left + {p.column});")
    lines.append(activated(in_vectors(site.layer), p.lanes, "a") or "")
    goal = f"y + left + {p.column}"
    part = f"pj_keep{p.lanes}_{p.keep}({goal}, &a);"
    lines.append(f"*({vf} *)({goal}) = a;" if p.keep == p.lanes else part)
    return "{ " + "\n              ".join(filter(None, lines)) + " }"

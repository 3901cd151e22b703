"""Dense convolution: a tile of pixels times a few filters in registers.

Every loaded vector of pixels serves all filters of the tile and every weight all its vectors, so
that the multiply-adds are what limits it. Weights lie in the order in which they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Frame, Job, Style, merged, named
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.geometry import Geometry, geometry
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

MULTIPLY_NS, COPY_NS, FINISH_NS, TILE_NS = 0.16, 0.35, 0.6, 8.0
"""Of one vector's multiply-add, one staged vector, one finished vector, one tile (Zen 5)."""
UNROLLED = 400
"""Multiply-adds in the text of one loop body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseConv:
    """Dense convolution: any kernel, stride, dilation and groups.

    Args:
        style: How it goes through memory.
        filters: Filters at once.
    """

    style: Style = field(default_factory=lambda: Style(vectors=6, cache_bytes=128 << 10))
    filters: int = 4

    @property
    def name(self) -> str:
        """Short name."""
        return "dense_conv"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Ungrouped float convolutions in one or two dimensions, as far as the registers go."""
        needed = (self.filters + 1) * self.style.vectors + 1
        if needed > machine(target).registers or not takes_conv(net, layer):
            return False
        g = geometry(net, layer)
        assert g is not None
        unrolled = prod(g.kernel) * self.style.vectors * self.filters <= UNROLLED
        return g.groups == 1 and (unrolled or not self.style.flat or g.stride[0] == 1)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from the vectors that are multiplied, copied and finished."""
        f = frames(net, layer, target, self.style)[-1]
        vectors, each = f.tiles.tiles * f.tiles.vectors, prod(f.g.kernel) * f.g.channels
        padded = ceil(f.g.filters / self.filters) * self.filters
        work = padded * vectors * (MULTIPLY_NS * each + FINISH_NS * f.blocks)
        tiles = TILE_NS * f.tiles.tiles * padded / self.filters * f.blocks
        return float((work + tiles + COPY_NS * f.stage_vectors) * f.g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels with their padding around them, and room to stage."""
        return conv_needs(net, layer, frames(net, layer, target, self.style), target)

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile; weights packed by tile."""
        job = job_at(site, self.style)
        name, text = self._tile(job)
        packed, starts = self._packed(job.frame, site.layer.weights["weight"])
        label = f"{site.layer.name}_w"
        parts = [
            f"{label} + {at}, {min(job.frame.block, job.frame.g.channels - i * job.frame.block)}"
            for i, at in enumerate(starts)
        ]
        call, functions = job.blocks(name, parts)
        after, more = after_loop(site)
        padded = ceil(job.frame.g.filters / self.filters) * self.filters
        return Code(
            call=call + after,
            functions=merged(job.functions(), {name: text}, functions, more),
            blobs=(Blob(label, packed, align=64), bias_blob(site.layer, padded)),
            note=f"dense, tile of {job.frame.tiles.vectors} vectors x {self.filters} filters",
        )

    def _packed(self, f: Frame, weight: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Block, tile of filters, channel, tap, filter."""
        g, many = f.g, self.filters
        tiles = ceil(g.filters / many)
        wide = np.zeros((tiles * many, g.channels, prod(g.kernel)), np.float32)
        wide[: g.filters] = weight.reshape(g.filters, g.channels, -1)
        packed = wide.reshape(tiles, many, g.channels, -1).transpose(0, 2, 3, 1)
        parts = [packed[:, i : i + f.block].ravel() for i in range(0, g.channels, f.block)]
        starts = np.cumsum([0, *(len(p) for p in parts[:-1])])
        return np.concatenate(parts), [int(s) for s in starts]

    def _tile(self, job: Job) -> tuple[str, str]:
        g, many = job.frame.g, self.filters
        blocked = job.frame.blocks > 1
        z = "" if job.residual is None else "const float *z, "
        z_step = "" if job.residual is None else f", z += {many * job.residual[1]}"
        flags = ", int first, int last" if blocked else ""
        return named("pj_dense", f"""
static void @NAME@(const float *x, float *y, {z}const float *b,
                   const float *w, int channels{flags}) {{
    for (int o = 0; o < {g.filters}; o += {many}, b += {many}, y += {many * job.y[1]}{z_step}) {{
        {self._begin(job)}
        const float *t = x;
        for (int c = 0; c < channels; c++, t += {job.tap(1, 0, 0)}) {{
            {self._taps(job)}
        }}
        {self._end(job)}
    }}
}}
""")  # fmt: skip

    def _begin(self, job: Job) -> str:
        lines, again = [], []
        for o in range(self.filters):
            inside = _inside(o, self.filters, job.frame.g)
            for i, row, p in job.vectors():
                at = o * job.y[1] + row * job.y[2] + p.column
                lines.append(f"pj_vf{p.lanes} a{o}_{i} = (pj_vf{p.lanes}){{0}} + b[{o}];")
                again.append(f"{inside}a{o}_{i} = *(const pj_vf{p.lanes} *)(y + {at});")
        if job.frame.blocks > 1:
            lines.append(f"if (!first) {{ {' '.join(again)} }}")
        return "\n        ".join(lines)

    def _taps(self, job: Job) -> str:
        g = job.frame.g
        size = prod(g.kernel) * job.frame.tiles.vectors * self.filters
        if size <= UNROLLED:
            return (
                "\n            ".join(
                    self._tap(job, str(job.tap(0, r, c)), r * g.kernel[1] + c)
                    for r in range(g.kernel[0])
                    for c in range(g.kernel[1])
                )
                + f"\n            w += {prod(g.kernel) * self.filters};"
            )
        right, down = job.tap(0, 0, 1), job.tap(0, 1, 0)
        return (
            f"for (int r = 0; r < {g.kernel[0]}; r++) "
            f"for (int q = 0; q < {g.kernel[1]}; q++, w += {self.filters}) "
            + self._tap(job, f"r * {down} + q * {right}", 0)
        )

    def _tap(self, job: Job, at: str, tap: int) -> str:
        lines = [
            f"const pj_vf{p.lanes} v{i} = *(const pj_vf{p.lanes} *)(t + {at} + {job.load(row, p)});"
            for i, row, p in job.vectors()
        ]
        for o in range(self.filters):
            weight = f"w[{tap * self.filters + o}]"
            sums = " ".join(f"a{o}_{i} += k * v{i};" for i, _, _ in job.vectors())
            lines.append(f"{{ const float k = {weight}; {sums} }}")
        return "{ " + "\n              ".join(lines) + " }"

    def _end(self, job: Job) -> str:
        lines = []
        for o in range(self.filters):
            inside = _inside(o, self.filters, job.frame.g)
            y = f"y + {o * job.y[1]}"
            z = "" if job.residual is None else f"z + {o * job.residual[1]}"
            done = " ".join(
                job.finish(f"a{o}_{i}", row, p, residual=z, y=y) for i, row, p in job.vectors()
            )
            if job.frame.blocks > 1:
                wait = " ".join(job.store(f"a{o}_{i}", row, p, y) for i, row, p in job.vectors())
                done = f"if (last) {{ {done} }} else {{ {wait} }}"
            lines.append(f"{inside}{{ {done} }}")
        return "\n        ".join(lines)


def _inside(o: int, many: int, g: Geometry) -> str:
    """The condition that filter `o` of a tile exists, where that is not certain."""
    return f"if (o + {o} < {g.filters}) " if o and g.filters % many else ""

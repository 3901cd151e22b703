"""Depthwise convolution: every filter reads one channel, its taps held in registers.

On narrow maps a channel is staged with touching rows first (`flat`), so that no lane idles.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Frame, Job, Style, merged, named, pixels
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.geometry import geometry
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

TAP_NS, FINISH_NS, TILE_NS, COPY_NS = 0.2, 0.6, 4.0, 0.3
"""Of one vector and tap, one finished vector, one tile and filter, one staged vector (Zen 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise:
    """Convolution of every channel on its own, stride 1 or 2 to the right.

    Args:
        vectors: Accumulators per tile.
        flat: Stage every channel with touching rows.
    """

    vectors: int = 8
    flat: bool = False

    @property
    def name(self) -> str:
        """Short name."""
        return "depthwise"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """As many groups as channels, as far as the registers go."""
        if self.vectors + 2 > machine(target).registers or not takes_conv(net, layer):
            return False
        g = geometry(net, layer)
        assert g is not None
        several = not self.flat or g.kernel != (1, 1)
        return g.groups == g.channels and g.stride[1] <= 2 and several

    @property
    def _style(self) -> Style:
        return Style(vectors=self.vectors, flat=self.flat, cache_bytes=1)  # one channel at a time

    def _frame(self, net: Net, layer: Layer, target: Target) -> Frame:
        return frames(net, layer, target, self._style)[0]

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from vectors, taps and tiles."""
        f = self._frame(net, layer, target)
        steps = 1 if self.flat else f.g.stride[1]
        work = f.tiles.vectors * (TAP_NS * prod(f.g.kernel) * steps + FINISH_NS)
        each = (work + TILE_NS) * f.tiles.tiles * f.g.filters
        return float((each + COPY_NS * f.stage_vectors * self.flat) * f.g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels, with their padding around them unless they are staged."""
        found = conv_needs(net, layer, frames(net, layer, target, self._style), target)
        return found if self.flat else Needs(inputs=found.inputs, outputs=found.outputs)

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile."""
        job = job_at(site, self._style)
        stage = job.stage() if self.flat else None
        name, text = _tile(job, stage[0] if stage else None)
        layer = site.layer
        z = "" if job.residual is None else "z, "
        after, more = after_loop(site)
        blob = Blob(f"{layer.name}_w", layer.weights["weight"].astype(np.float32))
        own = f", {job.scratch}, left" if self.flat else ""
        return Code(
            call=job.loops(f"{name}(x, y, {z}{layer.name}_b, {layer.name}_w{own});") + after,
            functions=merged(job.functions(), dict([stage] if stage else []), {name: text}, more),
            blobs=(blob, bias_blob(layer, job.frame.g.filters)),
            note=f"depthwise, {'flat, ' if self.flat else ''}tile of {job.frame.tiles.vectors} "
            "vectors",
        )


def _tile(job: Job, stage: str | None) -> tuple[str, str]:
    """The function that computes one tile for all filters; with staging, channel by channel."""
    g = job.frame.g
    begin, work, end = [], [], []
    for i, row, p in job.vectors():
        begin.append(f"pj_vf{p.lanes} a{i} = (pj_vf{p.lanes}){{0}} + *b;")
        end.append(job.finish(f"a{i}", row, p, residual="z", y="y"))
    for tap in range(prod(g.kernel)):
        sums = " ".join(_multiply(job, tap, flat=stage is not None))
        work.append(f"{{ const float k = w[{tap}]; {sums} }}")
    z = "" if job.residual is None else "const float *z, "
    z_step = "" if job.residual is None else f", z += {job.residual[1]}"
    each = g.filters // g.channels
    step = f"x += {job.x[1]}" if each == 1 else f"if (o % {each} == {each - 1}) x += {job.x[1]}"
    begins, works, ends = ("\n        ".join(t) for t in (begin, work, end))
    own, staging = "", ""
    if stage is not None:
        own = ", float *e, int left"
        fresh = "" if each == 1 else f"if (o % {each} == 0) "
        staging = f"{fresh}{stage}(x, e, left / {g.out[1]}, 1);"
        begins += f"\n        const float *t = e + left % {g.out[1]};"
    return named("pj_depthwise", f"""
static void @NAME@(const float *x, float *y, {z}const float *b, const float *w{own}) {{
    for (int o = 0; o < {g.filters}; o++{z_step}) {{
        {staging}
        {begins}
        {works}
        {ends}
        {step};
        b++, w += {prod(g.kernel)}, y += {job.y[1]};
    }}
}}
""")  # fmt: skip


def _multiply(job: Job, tap: int, *, flat: bool) -> list[str]:
    """The multiply-adds of one tap, of staged or of lying pixels."""
    g = job.frame.g
    r, c = divmod(tap, g.kernel[1])
    sums = []
    for i, row, p in job.vectors():
        if flat:
            value = pixels(p.lanes, f"t + {job.tap(0, r, c)} + {job.load(row, p)}", 1)
        else:
            down = row * g.stride[0] + r * g.dilation[0]
            at = down * job.x[2] + p.column * g.stride[1] + c * g.dilation[1]
            value = pixels(p.lanes, f"x + {at}", g.stride[1])
        sums.append(f"a{i} += k * {value};")
    return sums

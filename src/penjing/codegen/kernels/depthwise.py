"""Depthwise convolution: every filter reads one channel, its taps held in registers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Site
from penjing.codegen.kernels.conv import bias_blob, conv_needs, frames, job_at, takes_conv
from penjing.codegen.kernels.cover import Job, Style, merged, named, pixels
from penjing.codegen.kernels.finish import after_loop
from penjing.codegen.kernels.geometry import geometry
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target

TAP_NS, FINISH_NS, TILE_NS = 0.2, 0.6, 4.0
"""Of one vector and tap, one finished vector, one tile and filter (Zen 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depthwise:
    """Convolution of every channel on its own, stride 1 or 2 to the right.

    Args:
        vectors: Accumulators per tile.
    """

    vectors: int = 8

    @property
    def name(self) -> str:
        """Short name."""
        return "depthwise"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """As many groups as channels, as far as the registers go."""
        if self.vectors + 2 > machine(target).registers or not takes_conv(net, layer):
            return False
        g = geometry(net, layer)
        return g is not None and g.groups == g.channels and g.stride[1] <= 2

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from vectors, taps and tiles."""
        f = frames(net, layer, target, Style(vectors=self.vectors))[0]
        work = f.tiles.vectors * (TAP_NS * prod(f.g.kernel) * f.g.stride[1] + FINISH_NS)
        return float((work + TILE_NS) * f.tiles.tiles * f.g.filters * f.g.batch)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Rows of neighbouring pixels with their padding around them."""
        found = conv_needs(net, layer, frames(net, layer, target, Style()))
        return Needs(inputs=found.inputs, outputs=found.outputs)

    def emit(self, site: Site, /) -> Code:
        """One function per shape of tile."""
        job = job_at(site, Style(vectors=self.vectors))
        name, text = _tile(job)
        layer = site.layer
        z = "" if job.residual is None else "z, "
        after, more = after_loop(site)
        blob = Blob(f"{layer.name}_w", layer.weights["weight"].astype(np.float32))
        return Code(
            call=job.loops(f"{name}(x, y, {z}{layer.name}_b, {layer.name}_w);") + after,
            functions=merged(job.functions(), {name: text}, more),
            blobs=(blob, bias_blob(layer, job.frame.g.filters)),
            note=f"depthwise, tile of {job.frame.tiles.vectors} vectors",
        )


def _tile(job: Job) -> tuple[str, str]:
    g = job.frame.g
    begin, work, end = [], [], []
    for i, row, p in job.vectors():
        begin.append(f"pj_vf{p.lanes} a{i} = (pj_vf{p.lanes}){{0}} + *b;")
        end.append(job.finish(f"a{i}", row, p, residual="z", y="y"))
    for r in range(g.kernel[0]):
        for c in range(g.kernel[1]):
            sums = []
            for i, row, p in job.vectors():
                down = row * g.stride[0] + r * g.dilation[0]
                at = down * job.x[2] + p.column * g.stride[1] + c * g.dilation[1]
                sums.append(f"a{i} += k * {pixels(p.lanes, f'x + {at}', g.stride[1])};")
            work.append(f"{{ const float k = w[{r * g.kernel[1] + c}]; {' '.join(sums)} }}")
    z = "" if job.residual is None else "const float *z, "
    z_step = "" if job.residual is None else f", z += {job.residual[1]}"
    each = g.filters // g.channels
    step = f"x += {job.x[1]}" if each == 1 else f"if (o % {each} == {each - 1}) x += {job.x[1]}"
    begins, works, ends = ("\n        ".join(t) for t in (begin, work, end))
    return named("pj_depthwise", f"""
static void @NAME@(const float *x, float *y, {z}const float *b, const float *w) {{
    for (int o = 0; o < {g.filters}; o++{z_step}) {{
        {begins}
        {works}
        {ends}
        {step};
        b++, w += {prod(g.kernel)}, y += {job.y[1]};
    }}
}}
""")  # fmt: skip

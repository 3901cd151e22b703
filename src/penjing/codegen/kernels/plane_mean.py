"""Sum or mean of every plane, in vectors: global pooling."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Room, Site
from penjing.codegen.kernels.cover import SLACK, named
from penjing.codegen.kernels.geometry import strides4
from penjing.codegen.kernels.vectors import machine, number, types
from penjing.codegen.targets import Target

VECTOR_NS, PLANE_NS = 0.15, 3.0
"""Of one vector, of one plane (Zen 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneMean:
    """Sum or mean over everything behind the channels."""

    @property
    def name(self) -> str:
        """Short name."""
        return "plane_mean"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:  # noqa: ARG002 - protocol
        """Float sums and means over one or two trailing dimensions of maps."""
        if layer.kind != "reduce" or layer.attributes["mode"] not in {"sum", "mean"}:
            return False
        x = net.tensors[layer.inputs[0]]
        inner = tuple(range(2, len(x.shape)))
        return x.dtype == "f32" and len(x.shape) in (3, 4) and layer.attributes["dims"] == inner

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Nanoseconds, from vectors and planes."""
        shape = net.tensors[layer.inputs[0]].shape
        each = VECTOR_NS * prod(shape[2:]) / machine(target).lanes + PLANE_NS
        return float(prod(shape[:2]) * each)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Rows that touch; a packed result."""
        x, y = (net.tensors[n[0]].shape for n in (layer.inputs, layer.outputs))
        one = Room(slack=SLACK, order=tuple(range(len(x))), loose=True, touching=True)
        return Needs(inputs=(one,), outputs=(Room(order=tuple(range(len(y)))),))

    def emit(self, site: Site, /) -> Code:
        """One function per size of plane."""
        x, lanes = site.inputs[0], machine(site.target).lanes
        count, size = prod(x.shape[:2]), prod(x.shape[2:])
        scale = 1.0 / size if site.layer.attributes["mode"] == "mean" else 1.0
        full, kind = size // lanes, f"pj_vf{lanes}"
        name, text = named("pj_mean", f"""
static float @NAME@(const float *x) {{
    {kind} a = {{0}};
    float s = 0.0f;
    for (int i = 0; i < {full}; i++) a += *(const {kind} *)(x + i * {lanes});
    for (int i = {full * lanes}; i < {size}; i++) s += x[i];
    for (int i = 0; i < {lanes}; i++) s += a[i];
    return s * {number(scale)};
}}
""")  # fmt: skip
        n, c, _, _ = strides4(x)
        channels = x.shape[1]
        at = f"i / {channels} * {n} + i % {channels} * {c}" if x.shape[0] > 1 else f"i * {c}"
        call = f"""const float *x = {x.pointer};
float *y = {site.outputs[0].pointer};
for (int i = 0; i < {count}; i++) y[i] = {name}(x + {at});
"""
        return Code(call=call, functions={**types(lanes), name: text})

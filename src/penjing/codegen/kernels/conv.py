"""What the compiler is told about a float convolution, whatever its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Needs, Room, Site
from penjing.codegen.kernels.cover import SLACK, Frame, Job, Style, flat_form
from penjing.codegen.kernels.finish import in_vectors
from penjing.codegen.kernels.flat import FlatFrame, FlatJob
from penjing.codegen.kernels.geometry import Geometry, borders, geometry
from penjing.codegen.kernels.vectors import machine
from penjing.codegen.targets import Target


def takes_conv(net: Net, layer: Layer) -> bool:
    """Whether it is a float convolution in one or two dimensions."""
    names = (*layer.inputs, *layer.outputs)
    return (
        layer.kind == "conv"
        and geometry(net, layer) is not None
        and all(net.tensors[name].dtype == "f32" for name in names)
    )


def conv_needs(net: Net, layer: Layer, forms: Sequence[Frame], target: Target) -> Needs:
    """Rows of neighbouring pixels with their padding around them, and room to stage.

    Flat forms pad by themselves; their output rows touch.
    """
    order = tuple(range(len(net.tensors[layer.inputs[0]].shape)))
    flat = isinstance(forms[-1], FlatFrame)
    x = Room(border=() if flat else borders(layer), slack=SLACK, order=order, loose=True)
    y = Room(slack=SLACK, order=order, loose=True, touching=flat)
    return Needs(
        inputs=(x, *(y for _ in layer.inputs[1:])),
        outputs=(y,),
        scratch_bytes=target.threads * max(f.scratch_bytes for f in forms),
    )


def frames(net: Net, layer: Layer, target: Target, style: Style) -> list[Frame]:
    """The frames that the layer may get, the likeliest last."""
    g = geometry(net, layer)
    assert g is not None
    lanes = machine(target).lanes
    if style.flat:
        return [FlatFrame(g, style, lanes)]
    return [Frame(form, style, lanes) for form in ([g, g.flat()] if g.pointwise else [g])]


def job_at(site: Site, style: Style) -> Job:
    """The frame that fits where the tensors lie."""
    g, lanes = geometry_at(site), machine(site.target).lanes
    act = in_vectors(site.layer)
    if style.flat:
        return FlatJob(FlatFrame(g, style, lanes), site, act)
    return Job(Frame(flat_form(g, site), style, lanes), site, act)


def geometry_at(site: Site) -> Geometry:
    """Sizes of the layer at a site."""
    places = dict(zip(site.layer.inputs, site.inputs, strict=True))
    places |= dict(zip(site.layer.outputs, site.outputs, strict=True))
    found = geometry(Net((), (), (), places), site.layer)  # type: ignore[arg-type]
    assert found is not None
    return found


def bias_blob(layer: Layer, count: int) -> Blob:
    """The bias, zeros where there is none or where filters are rounded up."""
    values = np.zeros(count, np.float32)
    if layer.weights.get("bias") is not None:
        values[: len(layer.weights["bias"])] = layer.weights["bias"]
    return Blob(f"{layer.name}_b", values, "bias")

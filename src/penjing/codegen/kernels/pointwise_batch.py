"""Pointwise convolutions over a batch: the maps of all images lie side by side, as one long row.

Small maps leave the lanes of their last vector empty, and each image reads the weights again; one
row of all images does neither. Channels are outermost in memory, which other kernels write and read
as readily.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Place, Room, Site, constant_bytes_of
from penjing.codegen.kernels.conv import takes_conv
from penjing.codegen.kernels.cover import SLACK
from penjing.codegen.kernels.dense_conv import DenseConv
from penjing.codegen.kernels.geometry import geometry
from penjing.codegen.kernels.sparse_conv import SparseConv
from penjing.codegen.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PointwiseBatch:
    """A convolution of one tap over the pixels of all images.

    Args:
        conv: Kernel of the long row.
    """

    conv: SparseConv | DenseConv = field(default_factory=SparseConv)

    @property
    def name(self) -> str:
        """Short name."""
        return f"batch_{self.conv.name}"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float convolutions of one tap and several images."""
        g = geometry(net, layer) if takes_conv(net, layer) else None
        if g is None or not g.pointwise or g.batch < 2:
            return False
        return self.conv.takes(*_row(net, layer), target)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """As the convolution of the row."""
        return self.conv.cost(*_row(net, layer), target)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """Channels outermost, nothing between rows or images."""
        rank = len(net.tensors[layer.inputs[0]].shape)
        order = (1, 0, *range(2, rank))
        one = Room(slack=SLACK, order=order, touching=True)
        return Needs(
            inputs=tuple(one for _ in layer.inputs),
            outputs=(one,),
            scratch_bytes=self.conv.needs(*_row(net, layer), target).scratch_bytes,
        )

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:
        """As the convolution of the row."""
        return constant_bytes_of(self.conv, *_row(net, layer), target)

    def emit(self, site: Site, /) -> Code:
        """The convolution of the row."""
        inner = replace(
            site,
            layer=_one_dimensional(site.layer),
            inputs=tuple(_as_row(p) for p in site.inputs),
            outputs=tuple(_as_row(p) for p in site.outputs),
        )
        code = self.conv.emit(inner)
        return replace(code, note=f"{site.inputs[0].shape[0]} images as one row; {code.note}")


def _one_dimensional(layer: Layer) -> Layer:
    attributes = {**layer.attributes, "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    weight = layer.weights["weight"]
    weights = {**layer.weights, "weight": weight.reshape(*weight.shape[:2], 1)}
    return replace(layer, attributes=attributes, weights=weights)


def _row(net: Net, layer: Layer) -> tuple[Net, Layer]:
    """The layer of the row in a net of its own."""
    tensors = {}
    for name in (*layer.inputs, *layer.outputs):
        batch, channels, *pixels = net.tensors[name].shape
        shape = (1, channels, batch * prod(pixels))
        tensors[name] = replace(net.tensors[name], shape=shape)
    one = _one_dimensional(layer)
    return replace(net, tensors=tensors, layers=(one,)), one


def _as_row(place: Place) -> Place:
    batch, channels, *pixels = place.shape
    shape = (1, channels, batch * prod(pixels))
    return replace(place, shape=shape, strides=(0, place.strides[1], 1), border=())

"""A plain kernel for one kind of layer: takes any strides, loses to every faster one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Site
from penjing.codegen.targets import Target

Emit = Callable[[Site], Code]
Asks = Callable[[Net, Layer], Needs]

SLOW = 1.0  # nanoseconds per multiply-accumulate or element, more than any kernel that is tuned


def nothing(_net: Net, _layer: Layer) -> Needs:
    """No needs at all."""
    return Needs()


def in_place(net: Net, layer: Layer) -> Needs:
    """The output may be written over any input of its shape."""
    y = net.tensors[layer.outputs[0]]
    same = [
        i
        for i, name in enumerate(layer.inputs)
        if (net.tensors[name].shape, net.tensors[name].dtype) == (y.shape, y.dtype)
    ]
    return Needs(overwrites=tuple(same))


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference kernel.

    Args:
        kind: Of the layers that it computes.
        write: Gives the C.
        asks: Gives its needs.
    """

    kind: str
    write: Emit
    asks: Asks = nothing

    @property
    def name(self) -> str:
        """As in reports."""
        return "plain"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Any layer of its kind in floats or, where data only moves, of any type."""
        del net, target
        return layer.kind == self.kind

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """One step per product, or per element that is read or written."""
        del target
        outputs = sum(net.tensors[n].elements for n in layer.outputs)
        weight = layer.weights.get("weight")
        if weight is not None and weight.ndim > 1:
            return SLOW * outputs * prod(weight.shape[1:])
        return SLOW * max(outputs, *(net.tensors[n].elements for n in layer.inputs), 1)

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:
        """What `asks` says."""
        del target
        return self.asks(net, layer)

    def emit(self, site: Site, /) -> Code:
        """What `write` gives."""
        return self.write(site)

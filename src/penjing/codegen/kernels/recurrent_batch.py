"""GRU and LSTM over a batch: the samples lie in the lanes, so that a weight is read once for all.

Whatever has features, steps and samples lies in this order, the samples innermost: a step is a
product of the weights with as many vectors as samples fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Place, Room, Site
from penjing.codegen.kernels.cover import SLACK, merged
from penjing.codegen.kernels.recurrent import (
    ALIGN,
    GATE_NS,
    gates,
    linear_layer,
    rounded,
    takes_recurrent,
)
from penjing.codegen.kernels.sparse_linear import ColumnLinear
from penjing.codegen.reference.expression import functions
from penjing.codegen.targets import Target

FEATURES_FIRST = (2, 0, 1)
"""Order of (steps, samples, features) in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentBatch:
    """All samples of one GRU or LSTM layer in one direction, step by step.

    Args:
        product: Of the weights with the hidden states; without scratch memory.
    """

    product: ColumnLinear = field(default_factory=ColumnLinear)

    @property
    def name(self) -> str:
        """Short name."""
        return f"recurrent_batch_{self.product.name}"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float GRU and LSTM layers of more than one sample."""
        if not takes_recurrent(net, layer):
            return False
        batch = net.tensors[layer.outputs[0]].shape[1]
        return batch > 1 and self.product.takes(*linear_layer(layer, batch), target)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Products and gates of all steps."""
        length, batch, hidden = net.tensors[layer.outputs[0]].shape
        product = self.product.product_cost(*linear_layer(layer, batch), target)
        return float(length * (product + GATE_NS * hidden * ALIGN * ceil(batch / ALIGN)))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Features outermost; room for the gates and the states of all samples."""
        wide, hidden = layer.weights["weight"].shape
        pitch = rounded(net.tensors[layer.outputs[0]].shape[1])
        states = tuple(Room() for _ in layer.inputs[1:])
        return Needs(
            inputs=(Room(order=FEATURES_FIRST, slack=SLACK), *states),
            outputs=(Room(order=FEATURES_FIRST), *states),
            scratch_bytes=4 * ((wide + 2 * hidden) * pitch + SLACK),
        )

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:
        """As the product, for all steps."""
        batch = net.tensors[layer.outputs[0]].shape[1]
        return self.product.constant_bytes(*linear_layer(layer, batch), target)

    def emit(self, site: Site, /) -> Code:
        """A loop over steps around the product and the gates."""
        layer, y = site.layer, site.outputs[0]
        wide, hidden = layer.weights["weight"].shape
        length, batch, _ = y.shape
        pitch = rounded(batch)
        inner = self._product(site, pitch)
        name, text = self._gates(site, pitch)
        begin, end = (
            "\n".join(
                _copied(array, place, pitch, back=back)
                for array, place in zip("hc", places[1:], strict=False)
            )
            for places, back in ((site.inputs, False), (site.outputs, True))
        )
        x = site.inputs[0]
        call = f"""float *g = (float *)({site.scratch});
float *h = g + {wide * pitch}, *c = h + {hidden * pitch};
(void)c;
{begin}
for (int k = 0; k < {length}; k++) {{
    const int at = {f"{length - 1} - k" if layer.attributes["reverse"] else "k"};
    const float *p = {x.pointer} + at * {x.strides[0]};
    {{ {inner.call} }}
    {name}(p, g, h, c);
    float *e = {y.pointer} + at * {y.strides[0]};
    for (int u = 0; u < {hidden}; u++)
        for (int i = 0; i < {batch}; i++) e[u * {y.strides[2]} + i] = h[u * {pitch} + i];
}}
{end}
"""
        more = merged(functions("pj_sigmoid"), functions("pj_tanh"))
        return Code(
            call=call,
            functions=merged(inner.functions, more, {name: text}),
            blobs=inner.blobs,
            note=f"{batch} samples at once; {inner.note}",
        )

    def _gates(self, site: Site, pitch: int) -> tuple[str, str]:
        _, batch, hidden = site.outputs[0].shape
        steps = {"p": site.inputs[0].strides[2], "g": pitch, "h": pitch, "c": pitch}
        return gates(
            site.layer.kind,
            hidden,
            lambda array, first: f"{array}[({first} + u) * {steps[array]} + i]",
            f"for (int i = 0; i < {batch}; i++) ",
        )

    def _product(self, site: Site, pitch: int) -> Code:
        """The gates g = W h + bias, and for the LSTM + p."""
        layer = site.layer
        wide, hidden = layer.weights["weight"].shape
        batch = site.outputs[0].shape[1]
        _, one = linear_layer(layer, batch)
        places = [Place("h", (batch, hidden), (1, pitch), "f32", slack=SLACK)]
        if layer.kind == "lstm":
            step = site.inputs[0].strides[2]
            places.append(Place("p", (batch, wide), (1, step), "f32", slack=SLACK))
        out = Place("g", (batch, wide), (1, pitch), "f32", slack=SLACK)
        return self.product.emit(replace(site, layer=one, inputs=tuple(places), outputs=(out,)))


def _copied(array: str, place: Place, pitch: int, *, back: bool) -> str:
    """A state from where it lies, or back."""
    batch, hidden = place.shape
    other = f"({place.pointer})[i * {place.strides[0]} + u * {place.strides[1]}]"
    own = f"{array}[u * {pitch} + i]"
    to, source = (other, own) if back else (own, other)
    return (
        f"for (int u = 0; u < {hidden}; u++)\n"
        f"    for (int i = 0; i < {batch}; i++) {to} = {source};"
    )

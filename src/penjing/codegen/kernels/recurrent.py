"""GRU and LSTM: the product with the hidden state by a linear kernel, the gates in one loop.

The products with the inputs of all steps were made before, by a linear layer of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from penjing.codegen.ir import Layer, Net, Tensor
from penjing.codegen.kernel import Code, Kernel, Needs, Place, Room, Site
from penjing.codegen.kernels.cover import SLACK, merged, named
from penjing.codegen.kernels.sparse_linear import WindowLinear
from penjing.codegen.reference.expression import functions
from penjing.codegen.targets import Target

GATE_NS = 1.5
"""Of the gates of one hidden unit."""
ALIGN = 16  # floats

GATES = {
    "gru": """const float r = pj_sigmoid(g[u] + p[u]);
        const float q = pj_sigmoid(g[{H} + u] + p[{H} + u]);
        const float n = pj_tanh(p[{H2} + u] + r * g[{H2} + u]);
        h[u] = (1.0f - q) * n + q * h[u];""",
    "lstm": """const float i = pj_sigmoid(g[u]), f = pj_sigmoid(g[{H} + u]);
        const float n = pj_tanh(g[{H2} + u]), o = pj_sigmoid(g[{H3} + u]);
        c[u] = f * c[u] + i * n;
        h[u] = o * pj_tanh(c[u]);""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """All steps of one GRU or LSTM layer in one direction.

    Args:
        product: Linear kernel for the hidden state.
    """

    product: Kernel = field(default_factory=WindowLinear)

    @property
    def name(self) -> str:
        """Short name."""
        return f"recurrent_{self.product.name}"

    def takes(self, net: Net, layer: Layer, target: Target, /) -> bool:
        """Float GRU and LSTM layers."""
        return (
            layer.kind in GATES
            and all(net.tensors[n].dtype == "f32" for n in (*layer.inputs, *layer.outputs))
            and self.product.takes(*_linear(layer), target)
        )

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Products and gates of all steps."""
        length, batch, hidden = net.tensors[layer.outputs[0]].shape
        product = self.product.cost(*_linear(layer), target)
        return float(length * batch * (product + GATE_NS * hidden))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed tensors; room for the gates and the state of one sample."""
        states = tuple(Room(order=(0, 1)) for _ in layer.inputs[1:])
        wide, hidden = layer.weights["weight"].shape
        floats = _up(wide + SLACK) + 2 * _up(hidden + SLACK)
        return Needs(
            inputs=(Room(order=(0, 1, 2), slack=SLACK), *states),
            outputs=(Room(order=(0, 1, 2)), *states),
            scratch_bytes=4 * floats,
        )

    def emit(self, site: Site, /) -> Code:
        """Loops over samples and steps around the product's own code."""
        layer = site.layer
        wide, hidden = layer.weights["weight"].shape
        inner = self._product(site, wide, hidden)
        gates, text = _gates(layer.kind, hidden)
        more = merged(functions("pj_sigmoid"), functions("pj_tanh"))
        length, batch, _ = site.outputs[0].shape
        step = f"{length - 1} - k" if layer.attributes["reverse"] else "k"
        begin = "".join(
            _copy(name, place) for name, place in zip("hc", site.inputs[1:], strict=False)
        )
        end = "".join(
            _copy(name, place, back=True)
            for name, place in zip("hc", site.outputs[1:], strict=False)
        )
        x = site.inputs[0]
        call = f"""float *g = (float *)({site.scratch});
float *h = g + {_up(wide + SLACK)}, *c = h + {_up(hidden + SLACK)};
(void)c;
for (int m_b = 0; m_b < {batch}; m_b++) {{
    {begin}
    for (int k = 0; k < {length}; k++) {{
        const int at = {step};
        const float *p = {x.pointer} + at * {x.strides[0]} + m_b * {x.strides[1]};
        {{ {inner.call} }}
        {gates}(p, g, h, c);
        {_out(site.outputs[0], hidden)}
    }}
    {end}
}}
"""
        return Code(
            call=call,
            functions=merged(inner.functions, more, {gates: text}),
            blobs=inner.blobs,
            note=inner.note,
        )

    def _product(self, site: Site, wide: int, hidden: int) -> Code:
        """The gates g = W h + bias, and for the LSTM + p."""
        layer = site.layer
        _, one = _linear(layer)
        places = [Place("h", (1, hidden), (hidden, 1), "f32", slack=SLACK)]
        if layer.kind == "lstm":
            places.append(Place("p", (1, wide), (wide, 1), "f32", slack=SLACK))
        out = Place("g", (1, wide), (wide, 1), "f32", slack=SLACK)
        return self.product.emit(replace(site, layer=one, inputs=tuple(places), outputs=(out,)))


def _linear(layer: Layer) -> tuple[Net, Layer]:
    """The product with the hidden state as a layer."""
    wide, hidden = layer.weights["weight"].shape
    names = ("h", "p") if layer.kind == "lstm" else ("h",)
    weights = {k: v for k, v in layer.weights.items() if v is not None}
    one = Layer("linear", layer.name, names, ("g",), {"activation": None}, weights)
    shapes = {"h": (1, hidden), "p": (1, wide), "g": (1, wide)}
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    return Net((), (), (one,), tensors), one


def _up(count: int) -> int:
    return -(-count // ALIGN) * ALIGN


def _gates(kind: str, hidden: int) -> tuple[str, str]:
    sizes = {f"H{i or ''}": str(hidden * (i or 1)) for i in (0, 2, 3)}
    body = GATES[kind]
    for mark, value in sizes.items():
        body = body.replace(f"{{{mark}}}", value)
    return named(f"pj_{kind}", f"""
static void @NAME@(const float *PJ_RESTRICT p, const float *PJ_RESTRICT g, float *PJ_RESTRICT h,
                   float *PJ_RESTRICT c) {{
    (void)p, (void)c;
    for (int u = 0; u < {hidden}; u++) {{
        {body}
    }}
}}
""")  # fmt: skip


def _copy(name: str, place: Place, *, back: bool = False) -> str:
    hidden = place.shape[1]
    other = f"({place.pointer})[m_b * {place.strides[0]} + u * {place.strides[1]}]"
    pair = (other, f"{name}[u]") if back else (f"{name}[u]", other)
    return f"for (int u = 0; u < {hidden}; u++) {pair[0]} = {pair[1]};\n    "


def _out(place: Place, hidden: int) -> str:
    t, b, _ = place.strides
    return (
        f"{{ float *e = {place.pointer} + at * {t} + m_b * {b}; "
        f"for (int u = 0; u < {hidden}; u++) e[u] = h[u]; }}"
    )

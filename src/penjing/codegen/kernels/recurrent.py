"""GRU and LSTM: the product with the hidden state by a linear kernel, the gates in one loop.

The products with the inputs of all steps were made before, by a linear layer of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from penjing.codegen.ir import Layer, Net, Tensor
from penjing.codegen.kernel import Code, Kernel, Needs, Place, Room, Site, constant_bytes_of
from penjing.codegen.kernels.cover import SLACK, merged, named
from penjing.codegen.kernels.sparse_linear import WindowLinear
from penjing.codegen.reference.expression import functions
from penjing.codegen.targets import Target

GATE_NS = 1.5
"""Of the gates of one hidden unit."""
ALIGN = 16  # floats

GATES = {
    "gru": """const float r = pj_sigmoid({g0} + {p0});
        const float q = pj_sigmoid({g1} + {p1});
        const float n = pj_tanh({p2} + r * {g2});
        {h} = (1.0f - q) * n + q * {h};""",
    "lstm": """const float i_in = pj_sigmoid({g0}), f = pj_sigmoid({g1});
        const float n = pj_tanh({g2}), o = pj_sigmoid({g3});
        {c} = f * {c} + i_in * n;
        {h} = o * pj_tanh({c});""",
}
"""Of one unit: projected inputs p, products g, both gate by gate, hidden state h and cell c."""


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
        return takes_recurrent(net, layer) and self.product.takes(*linear_layer(layer), target)

    def cost(self, net: Net, layer: Layer, target: Target, /) -> float:
        """Products and gates of all steps."""
        length, batch, hidden = net.tensors[layer.outputs[0]].shape
        product = self.product.cost(*linear_layer(layer), target)
        return float(length * batch * (product + GATE_NS * hidden))

    def needs(self, net: Net, layer: Layer, target: Target, /) -> Needs:  # noqa: ARG002 - protocol
        """Packed tensors; room for the gates and the state of one sample."""
        states = tuple(Room(order=(0, 1)) for _ in layer.inputs[1:])
        wide, hidden = layer.weights["weight"].shape
        floats = rounded(wide + SLACK) + 2 * rounded(hidden + SLACK)
        return Needs(
            inputs=(Room(order=(0, 1, 2), slack=SLACK), *states),
            outputs=(Room(order=(0, 1, 2)), *states),
            scratch_bytes=4 * floats,
        )

    def constant_bytes(self, net: Net, layer: Layer, target: Target, /) -> int:  # noqa: ARG002 - protocol
        """As the product, for all steps."""
        return constant_bytes_of(self.product, *linear_layer(layer), target)

    def emit(self, site: Site, /) -> Code:
        """Loops over samples and steps around the product's own code."""
        layer = site.layer
        wide, hidden = layer.weights["weight"].shape
        inner = self._product(site, wide, hidden)
        name, text = gates(layer.kind, hidden, lambda array, first: f"{array}[{first} + u]")
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
float *h = g + {rounded(wide + SLACK)}, *c = h + {rounded(hidden + SLACK)};
(void)c;
for (int m_b = 0; m_b < {batch}; m_b++) {{
    {begin}
    for (int k = 0; k < {length}; k++) {{
        const int at = {step};
        const float *p = {x.pointer} + at * {x.strides[0]} + m_b * {x.strides[1]};
        {{ {inner.call} }}
        {name}(p, g, h, c);
        {_out(site.outputs[0], hidden)}
    }}
    {end}
}}
"""
        return Code(
            call=call,
            functions=merged(inner.functions, more, {name: text}),
            blobs=inner.blobs,
            note=inner.note,
        )

    def _product(self, site: Site, wide: int, hidden: int) -> Code:
        """The gates g = W h + bias, and for the LSTM + p."""
        layer = site.layer
        _, one = linear_layer(layer)
        places = [Place("h", (1, hidden), (hidden, 1), "f32", slack=SLACK)]
        if layer.kind == "lstm":
            places.append(Place("p", (1, wide), (wide, 1), "f32", slack=SLACK))
        out = Place("g", (1, wide), (wide, 1), "f32", slack=SLACK)
        return self.product.emit(replace(site, layer=one, inputs=tuple(places), outputs=(out,)))


def linear_layer(layer: Layer, batch: int = 1) -> tuple[Net, Layer]:
    """The product with the hidden state as a layer."""
    wide, hidden = layer.weights["weight"].shape
    names = ("h", "p") if layer.kind == "lstm" else ("h",)
    weights = {k: v for k, v in layer.weights.items() if v is not None}
    one = Layer("linear", layer.name, names, ("g",), {"activation": None}, weights)
    shapes = {"h": (batch, hidden), "p": (batch, wide), "g": (batch, wide)}
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    return Net((), (), (one,), tensors), one


def takes_recurrent(net: Net, layer: Layer) -> bool:
    """Whether it is a GRU or LSTM in single precision."""
    names = (*layer.inputs, *layer.outputs)
    return layer.kind in GATES and all(net.tensors[n].dtype == "f32" for n in names)


def gates(
    kind: str, hidden: int, at: Callable[[str, int], str], inner: str = ""
) -> tuple[str, str]:
    """The function (p, g, h, c) that makes the next state of every unit u.

    Args:
        kind: Of the layer.
        hidden: Units.
        at: The C expression of an array's element: its name, and units before unit u.
        inner: Head of a loop inside the one over units.

    Returns:
        Name and text; it calls `pj_sigmoid` and `pj_tanh`.
    """
    marks = {f"{name}{i}": at(name, i * hidden) for name in "pg" for i in range(4)}
    body = GATES[kind].format(**marks, **{name: at(name, 0) for name in "hc"})
    return named(f"pj_{kind}", f"""
static void @NAME@(const float *PJ_RESTRICT p, const float *PJ_RESTRICT g, float *PJ_RESTRICT h,
                   float *PJ_RESTRICT c) {{
    (void)p, (void)c;
    for (int u = 0; u < {hidden}; u++) {inner}{{
        {body}
    }}
}}
""")  # fmt: skip


def rounded(count: int) -> int:
    """Floats up to the next whole vector."""
    return -(-count // ALIGN) * ALIGN


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

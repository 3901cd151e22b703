"""LSTM, GRU and plain recurrence in plain C, one step after the other."""

from __future__ import annotations

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Site
from penjing.codegen.reference.convolution import weights
from penjing.codegen.reference.expression import functions
from penjing.codegen.reference.products import _dot
from penjing.codegen.reference.text import at, const_of, function, out_of


def asks(net: Net, layer: Layer) -> Needs:
    """Room for the gates and both states of one sample."""
    wide = net.tensors[layer.inputs[0]].shape[-1]
    hidden = net.tensors[layer.outputs[0]].shape[-1]
    return Needs(scratch_bytes=4 * (wide + 2 * hidden))


_STEPS = {
    "lstm": [
        "const float i = pj_sigmoid(g[u]), f = pj_sigmoid(g[H + u]);",
        "const float n = pj_tanh(g[2 * H + u]), o = pj_sigmoid(g[3 * H + u]);",
        "c[u] = f * c[u] + i * n;",
        "h[u] = o * pj_tanh(c[u]);",
    ],
    "gru": [
        "const float r = pj_sigmoid(g[u] + XR), z = pj_sigmoid(g[H + u] + XZ);",
        "const float n = pj_tanh(XN + r * g[2 * H + u]);",
        "h[u] = (1.0f - z) * n + z * h[u];",
    ],
}


def recurrent(kind: str, site: Site) -> Code:
    """All steps of one layer in one direction."""
    x, y = site.inputs[0], site.outputs[0]
    length, batch, hidden = y.shape
    wide = x.shape[-1]
    reverse = site.layer.attributes["reverse"]
    lines = [
        f"float *g = s, *h = s + {wide}, *c = s + {wide + hidden};",
        "(void)c;",
        f"for (int b = 0; b < {batch}; b++) {{",
    ]
    for i, name in enumerate(("h", "c")[: len(site.inputs) - 1]):
        place = site.inputs[1 + i]
        lines.append(
            f"for (int u = 0; u < {hidden}; u++) {name}[u] = q{i}[{at(place.strides, ['b', 'u'])}];"
        )
    lines += [
        f"for (int k1 = 0; k1 < {length}; k1++) {{",
        f"const int t = {f'{length - 1} - k1' if reverse else 'k1'};",
        f"const float *p = x + ({at(x.strides[:-1], ['t', 'b'])});",
        f"for (int o = 0; o < {wide}; o++) {{",
        f"const float *v = w + o * {hidden};",
        f"float e = {_start(kind, site, x.strides[-1])};",
        *_dot("v", "h", hidden, (1, 1), "e"),
        "g[o] = e;",
        "}",
        f"for (int u = 0; u < {hidden}; u++) {{",
        *_steps(kind, site, hidden, x.strides[-1]),
        f"y[{at(y.strides, ['t', 'b', 'u'])}] = h[u];",
        "}",
        "}",
    ]
    for i, place in enumerate(site.outputs[1:]):
        name = ("h", "c")[i]
        lines.append(
            f"for (int u = 0; u < {hidden}; u++) r{i}[{at(place.strides, ['b', 'u'])}] = {name}[u];"
        )
    lines.append("}")
    return _called(kind, site, lines)


def _called(kind: str, site: Site, lines: list[str]) -> Code:
    blobs, (w, b) = weights(site, "weight", "bias")
    given = [(const_of(site.inputs[0], "x"), site.inputs[0].pointer), ("const float *w", w)]
    given += [("const float *bias", b)] if b != "0" else []
    for i, place in enumerate(site.inputs[1:]):
        given.append((const_of(place, f"q{i}", restrict=False), place.pointer))
    given.append(("float *PJ_RESTRICT s", f"(float *)({site.scratch})"))
    given.append((out_of(site.outputs[0]), site.outputs[0].pointer))
    for i, place in enumerate(site.outputs[1:]):
        given.append((out_of(place, f"r{i}", restrict=False), place.pointer))
    name, text = function(kind, ", ".join(p for p, _ in given), lines)
    extra = {**functions("pj_sigmoid"), **functions("pj_tanh")}
    used = {k: v for k, v in extra.items() if k == "pj_exp" or f"{k}(" in text}
    if not any(f"{k}(" in text for k in extra):
        used = {}
    call = f"{name}({', '.join(a for _, a in given)});"
    return Code(call, {**used, name: text}, blobs)


def _start(kind: str, site: Site, step: int) -> str:
    if kind == "gru":
        return "bias[o]" if "bias" in site.layer.weights else "0.0f"
    return f"p[{at((step,), ('o',))}]"


def _steps(kind: str, site: Site, hidden: int, step: int) -> list[str]:
    if kind == "rnn":
        plain = site.layer.attributes["activation"] == "relu"
        return ["h[u] = g[u] < 0 ? 0.0f : g[u];" if plain else "h[u] = pj_tanh(g[u]);"]
    rows = [line.replace("H", str(hidden)) for line in _STEPS[kind]]
    reads = {
        "XR": f"p[{at((step,), ('u',))}]",
        "XZ": f"p[{at((step,), (f'({hidden} + u)',))}]",
        "XN": f"p[{at((step,), (f'({2 * hidden} + u)',))}]",
    }
    for mark, text in reads.items():
        rows = [row.replace(mark, text) for row in rows]
    return rows


def lstm(site: Site) -> Code:
    """Long short-term memory."""
    return recurrent("lstm", site)


def gru(site: Site) -> Code:
    """Gated recurrent units."""
    return recurrent("gru", site)


def rnn(site: Site) -> Code:
    """One gate."""
    return recurrent("rnn", site)

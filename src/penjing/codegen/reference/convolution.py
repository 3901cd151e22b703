"""Convolutions in plain C: a row of outputs at a time, one weight after the other."""

from __future__ import annotations

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Blob, Code, Needs, Room, Site
from penjing.codegen.reference.expression import activation_c
from penjing.codegen.reference.text import at, const_of, function, index_names, out_of

CHUNK = 64  # outputs of a row that are summed at once, in registers and the first cache


def asks(net: Net, layer: Layer) -> Needs:
    """Zeros around the input as wide as the padding; the sum may replace the residual."""
    del net
    padding = tuple((max(a, 0), max(b, 0)) for a, b in layer.attributes["padding"])
    rooms = (Room(border=padding),) if any(map(any, padding)) else ()
    return Needs(inputs=rooms, overwrites=(1,) if len(layer.inputs) > 1 else ())


def finished(site: Site, value: str) -> tuple[str, dict[str, str]]:
    """The activation of the layer applied to a C expression."""
    activation = site.layer.activation
    if activation is None:
        return value, {}
    name, functions = activation_c(activation)
    return f"{name}({value})", functions


def weights(site: Site, *names: str) -> tuple[tuple[Blob, ...], list[str]]:
    """Arrays of the layer as blobs, and their names in C; "0" for those it has not."""
    blobs, said = [], []
    for name in names:
        array = site.layer.weights.get(name)
        if array is None:
            said.append("0")
        else:
            role = "bias" if name.startswith("bias") else "weight"
            blobs.append(Blob(f"{site.layer.name}_{name}", array, role))
            said.append(blobs[-1].name)
    return tuple(blobs), said


def _first_tap(site: Site, rows: list[str], taps: list[str]) -> list[str]:
    """Terms of the position that the first output of a run reads through one tap."""
    x, weight, attributes = site.inputs[0], site.layer.weights["weight"], site.layer.attributes
    rank, channels = weight.ndim - 2, weight.shape[1]
    per_group = weight.shape[0] // attributes["groups"]
    found = [
        f"n * {x.strides[0]}",
        f"(o / {per_group} * {channels} + c) * {x.strides[1]}",
    ]
    for d in range(rank):
        step, dilation = attributes["stride"][d], attributes["dilation"][d]
        line = rows[d] if d < rank - 1 else "q"
        terms = [f"{line} * {step}"] if line != "0" else []
        terms += [f"{taps[d]} * {dilation}"] if taps[d] != "0" else []
        terms += [f"{-attributes['padding'][d][0]}"]
        found.append(f"({' + '.join(terms)}) * {x.strides[2 + d]}")
    return found


def emit(site: Site) -> Code:
    """The C of a convolution."""
    layer, x, y = site.layer, site.inputs[0], site.outputs[0]
    weight, attributes = layer.weights["weight"], layer.attributes
    channels = weight.shape[1]
    outer, wide = y.shape[2:-1], y.shape[-1]
    chunk = min(wide, CHUNK)
    taps = index_names(weight.shape[2:], "k")
    rows = index_names(outer, "p")
    start = _first_tap(site, rows, taps)
    step = attributes["stride"][-1] * x.strides[-1]
    flat = f"o * {weight[0].size} + c * {weight[0, 0].size}"
    tap = at(_packed(weight.shape[2:]), taps)
    out = at(y.strides[:-1], ["n", "o", *rows])
    body = (
        [f"for (int n = 0; n < {y.shape[0]}; n++) {{"] if y.shape[0] > 1 else ["const int n = 0;"]
    )
    body += ["PJ_PARALLEL", f"for (int o = 0; o < {y.shape[1]}; o++) {{"]
    body += _open(outer, rows)
    body += [
        f"for (int q = 0; q < {wide}; q += {chunk}) {{",
        f"const int m = {wide} - q < {chunk} ? {wide} - q : {chunk};",
        f"float s[{chunk}];",
        f"for (int j = 0; j < m; j++) s[j] = {'b[o]' if 'bias' in layer.weights else '0.0f'};",
        f"for (int c = 0; c < {channels}; c++) {{",
        *_open(weight.shape[2:], taps),
        f"const float v = w[{flat} + {tap}];",
        f"const float *r = x + ({' + '.join(start)});",
        f"for (int j = 0; j < m; j++) s[j] += v * r[{at((step,), ('j',))}];",
        "}" * (1 + sum(t != "0" for t in taps)),
    ]
    residual = len(site.inputs) > 1
    parameters = [const_of(x, "x"), "const float *w"]
    value = "s[j]"
    if residual:
        z = site.inputs[1]
        position = at(z.strides, ["n", "o", *rows, "(q + j)"])
        value = f"(s[j] + z[{position}])"
        parameters.append(const_of(z, "z", restrict=False))
    result, functions = finished(site, value)
    last = at(y.strides[-1:], ["(q + j)"])
    body += [
        f"for (int j = 0; j < m; j++) y[{out} + {last}] = {result};",
        "}" * (2 + sum(r != "0" for r in rows) + (y.shape[0] > 1)),
    ]
    parameters += ["const float *b"] if "bias" in layer.weights else []
    parameters.append(out_of(y, restrict=False))
    name, text = function("conv", ", ".join(parameters), body)
    blobs, (w, b) = weights(site, "weight", "bias")
    arguments = [x.pointer, w, *([site.inputs[1].pointer] if residual else [])]
    arguments += [b] if b != "0" else []
    return Code(f"{name}({', '.join([*arguments, y.pointer])});", {**functions, name: text}, blobs)


def _packed(shape: tuple[int, ...]) -> list[int]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


def _open(shape: tuple[int, ...], names: list[str]) -> list[str]:
    return [
        f"for (int {name} = 0; {name} < {size}; {name}++) {{"
        for name, size in zip(names, shape, strict=True)
        if name != "0"
    ]


def emit_transposed(site: Site) -> Code:
    """The C of a transposed convolution: every output looks for the inputs that reach it."""
    layer, x, y = site.layer, site.inputs[0], site.outputs[0]
    weight, attributes = layer.weights["weight"], layer.attributes
    rank, per_group = weight.ndim - 2, weight.shape[1]
    channels = weight.shape[0] // attributes["groups"]
    places = [f"p{d}" for d in range(rank)]
    taps = [f"k{d}" for d in range(rank)]
    sources = [f"h{d}" for d in range(rank)]
    body = [f"for (int n = 0; n < {y.shape[0]}; n++) {{", "PJ_PARALLEL"]
    body += [f"for (int o = 0; o < {y.shape[1]}; o++) {{"]
    body += [f"for (int p{d} = 0; p{d} < {y.shape[2 + d]}; p{d}++) {{" for d in range(rank)]
    body.append(f"float s = {'b[o]' if 'bias' in layer.weights else '0.0f'};")
    for d in range(rank):
        before, step = attributes["padding"][d][0], attributes["stride"][d]
        body += [
            f"for (int k{d} = 0; k{d} < {weight.shape[2 + d]}; k{d}++) {{",
            f"const int t{d} = p{d} + {before} - k{d} * {attributes['dilation'][d]};",
            f"const int h{d} = t{d} / {step};",
            f"if (t{d} < 0 || t{d} % {step} != 0 || h{d} >= {x.shape[2 + d]}) continue;",
        ]
    at_x = at(x.strides, ["n", f"(o / {per_group} * {channels} + c)", *sources])
    at_w = at(
        _packed(weight.shape),
        [f"(o / {per_group} * {channels} + c)", f"(o % {per_group})", *taps],
    )
    result, functions = finished(
        site, "s" if len(site.inputs) == 1 else f"(s + z[{_at(site, 1, places)}])"
    )
    body += [
        f"for (int c = 0; c < {channels}; c++) s += x[{at_x}] * w[{at_w}];",
        "}" * rank,
        f"y[{at(y.strides, ['n', 'o', *places])}] = {result};",
        "}" * (rank + 2),
    ]
    blobs, (w, b) = weights(site, "weight", "bias")
    given = [(const_of(x, "x"), x.pointer), ("const float *w", w)]
    given += [(const_of(z, "z", restrict=False), z.pointer) for z in site.inputs[1:]]
    given += [("const float *b", b)] * (b != "0")
    given += [(out_of(y, restrict=False), y.pointer)]
    name, text = function("conv_transpose", ", ".join(p for p, _ in given), body)
    call = f"{name}({', '.join(a for _, a in given)});"
    return Code(call, {**functions, name: text}, blobs)


def _at(site: Site, position: int, places: list[str]) -> str:
    return at(site.inputs[position].strides, ["n", "o", *places])

"""Linear layers, matrix products and attention in plain C."""

from __future__ import annotations

from penjing.codegen.ir import Layer, Net
from penjing.codegen.kernel import Code, Needs, Place, Site
from penjing.codegen.reference.convolution import finished, weights
from penjing.codegen.reference.expression import functions
from penjing.codegen.reference.text import (
    at,
    broadcast,
    const_of,
    function,
    index_names,
    loops,
    number,
    out_of,
)

LANES = 8  # partial sums, so that the compiler may vectorise a sum of floats


def _dot(one: str, other: str, count: int, step: tuple[int, int], into: str = "s") -> list[str]:
    """Statements that add the product of two vectors to a float."""
    a, b = (at((s,), ("(k + j)",)) for s in step)
    body = [f"for (int j = 0; j < {LANES}; j++) l[j] += {one}[{a}] * {other}[{b}];"]
    lines = []
    whole = count // LANES * LANES
    if whole:
        lines = [f"float l[{LANES}] = {{0.0f}};", f"for (int k = 0; k < {whole}; k += {LANES})"]
        lines += [*body, f"for (int j = 0; j < {LANES}; j++) {into} += l[j];"]
    if whole < count:
        a, b = (at((s,), ("k",)) for s in step)
        lines.append(
            f"for (int k = {whole}; k < {count}; k++) {into} += {one}[{a}] * {other}[{b}];"
        )
    return ["{", *lines, "}"]


def linear_asks(net: Net, layer: Layer) -> Needs:
    """The sum may replace the residual."""
    del net
    return Needs(overwrites=(1,) if len(layer.inputs) > 1 else ())


def linear(site: Site) -> Code:
    """y[..., o] = sum_k x[..., k] w[o, k] + b[o]."""
    layer, x, y = site.layer, site.inputs[0], site.outputs[0]
    weight = layer.weights["weight"]
    rows = index_names(y.shape[:-1])
    residual = len(site.inputs) > 1
    value = f"(s + z[{at(site.inputs[1].strides, [*rows, 'o'])}])" if residual else "s"
    result, extra = finished(site, value)
    inner = [
        f"const float *r = x + ({at(x.strides[:-1], rows)});",
        "PJ_PARALLEL",
        f"for (int o = 0; o < {weight.shape[0]}; o++) {{",
        f"  const float *v = w + o * {weight.shape[1]};",
        f"  float s = {'b[o]' if 'bias' in layer.weights else '0.0f'};",
        *_dot("v", "r", weight.shape[1], (1, x.strides[-1])),
        f"  y[{at(y.strides, [*rows, 'o'])}] = {result};",
        "}",
    ]
    blobs, (w, b) = weights(site, "weight", "bias")
    given = [(const_of(x, "x"), x.pointer), ("const float *w", w)]
    if residual:
        given.append((const_of(site.inputs[1], "z", restrict=False), site.inputs[1].pointer))
    if b != "0":
        given.append(("const float *b", b))
    given.append((out_of(y, restrict=False), y.pointer))
    name, text = function("linear", ", ".join(p for p, _ in given), loops(y.shape[:-1], inner))
    call = f"{name}({', '.join(a for _, a in given)});"
    return Code(call, {**extra, name: text}, blobs)


def matmul(site: Site) -> Code:
    """Batched product of two tensors."""
    (a, b), y = site.inputs, site.outputs[0]
    batch = y.shape[:-2]
    m, n, k = y.shape[-2], y.shape[-1], a.shape[-1]
    names = index_names(batch)
    of_a, of_b = (_batch_strides(p, batch) for p in (a, b))
    scale = site.layer.attributes["scale"]
    factor = "" if scale == 1 else f" * {number(scale)}"
    body = [
        f"const float *p = a + ({at(of_a, names)});",
        f"const float *q = b + ({at(of_b, names)});",
        f"float *r = y + ({at(y.strides[:-2], names)});",
        "PJ_PARALLEL",
        f"for (int i = 0; i < {m}; i++) {{",
    ]
    if b.strides[-1] == 1 or n == 1:
        body += [
            f"for (int c = 0; c < {n}; c++) r[i * {y.strides[-2]} + c * {y.strides[-1]}] = 0.0f;",
            f"for (int t = 0; t < {k}; t++) {{",
            f"const float v = p[i * {a.strides[-2]} + t * {a.strides[-1]}]{factor};",
            f"for (int c = 0; c < {n}; c++)",
            f"r[i * {y.strides[-2]} + c * {y.strides[-1]}] += "
            f"v * q[t * {b.strides[-2]} + c * {b.strides[-1]}];",
            "}",
        ]
    else:
        body += [
            f"const float *u = p + i * {a.strides[-2]};",
            f"for (int c = 0; c < {n}; c++) {{",
            f"const float *v = q + c * {b.strides[-1]};",
            "float s = 0.0f;",
            *_dot("u", "v", k, (a.strides[-1], b.strides[-2])),
            f"r[i * {y.strides[-2]} + c * {y.strides[-1]}] = s{factor};",
            "}",
        ]
    body.append("}")
    parameters = f"{const_of(a, 'a')}, {const_of(b, 'b')}, {out_of(y)}"
    name, text = function("matmul", parameters, loops(batch, body))
    return Code(f"{name}({a.pointer}, {b.pointer}, {y.pointer});", {name: text})


def _batch_strides(place: Place, batch: tuple[int, ...]) -> tuple[int, ...]:
    part = Place("", place.shape[:-2], place.strides[:-2], place.dtype)
    return broadcast(part, batch)


def attention_asks(net: Net, layer: Layer) -> Needs:
    """One row of scores."""
    return Needs(scratch_bytes=4 * net.tensors[layer.inputs[1]].shape[-2])


def attention(site: Site) -> Code:
    """softmax(q k^T scale + mask) v, a row of scores at a time."""
    q, k, v = site.inputs[:3]
    y, keys, wide = site.outputs[0], site.inputs[1].shape[-2], site.inputs[2].shape[-1]
    batch = y.shape[:-1]
    names = index_names(batch)
    attributes = site.layer.attributes
    of_q, of_k, of_v = (at(_row_strides(p, batch, p is q), names) for p in (q, k, v))
    score = ["float d = 0.0f;", f"const float *h = k + ({of_k}) + t * {k.strides[-2]};"]
    score += _dot("g", "h", q.shape[-1], (q.strides[-1], k.strides[-1]), "d")
    score.append(f"d *= {number(attributes['scale'])};")
    given = [(const_of(p, n), p.pointer) for p, n in ((q, "q"), (k, "k"), (v, "v"))]
    if len(site.inputs) > 3:
        mask = site.inputs[3]
        position = at(broadcast(mask, (*batch, keys)), [*names, "t"])
        truth = mask.dtype != "f32"
        score.append(
            f"d = m[{position}] != 0 ? d : -(float)INFINITY;" if truth else f"d += m[{position}];"
        )
        given.append((const_of(mask, "m"), mask.pointer))
    limit = f"{names[-1]} + 1" if attributes["causal"] else str(keys)
    if attributes["causal"]:
        limit = f"({names[-1]} + 1 < {keys} ? {names[-1]} + 1 : {keys})"
    body = [
        f"const float *g = q + ({of_q});",
        f"const int last = {limit};",
        "float top = -(float)INFINITY, sum = 0.0f;",
        "for (int t = 0; t < last; t++) {",
        *score,
        "s[t] = d;",
        "top = d > top ? d : top;",
        "}",
        "for (int t = 0; t < last; t++) s[t] = pj_exp(s[t] - top);",
        "for (int t = 0; t < last; t++) sum += s[t];",
        f"float *r = y + ({at(y.strides[:-1], names)});",
        f"for (int c = 0; c < {wide}; c++) r[c * {y.strides[-1]}] = 0.0f;",
        "for (int t = 0; t < last; t++) {",
        "const float e = s[t] / sum;",
        f"const float *h = v + ({of_v}) + t * {v.strides[-2]};",
        f"for (int c = 0; c < {wide}; c++) r[c * {y.strides[-1]}] += e * h[c * {v.strides[-1]}];",
        "}",
    ]
    given += [("float *PJ_RESTRICT s", f"(float *)({site.scratch})"), (out_of(y), y.pointer)]
    name, text = function("attention", ", ".join(p for p, _ in given), loops(batch, body))
    call = f"{name}({', '.join(a for _, a in given)});"
    return Code(call, {**functions("pj_exp"), name: text})


def _row_strides(place: Place, batch: tuple[int, ...], query: bool) -> tuple[int, ...]:
    outer = Place("", place.shape[:-2], place.strides[:-2], place.dtype)
    return (*broadcast(outer, batch[:-1]), place.strides[-2] if query else 0)

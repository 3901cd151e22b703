"""Pooling, reductions, softmax and norms in plain C."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from penjing.codegen.kernel import Blob, Code, Place, Site
from penjing.codegen.reference.convolution import weights
from penjing.codegen.reference.expression import functions
from penjing.codegen.reference.text import (
    at,
    const_of,
    function,
    index_names,
    loops,
    number,
    out_of,
)


def _simple(
    kind: str, site: Site, body: Sequence[str], extra: dict[str, str] | None = None
) -> Code:
    x, y = site.inputs[0], site.outputs[0]
    parameters = f"{const_of(x, 'x', restrict=False)}, {out_of(y, restrict=False)}"
    name, text = function(kind, parameters, body)
    return Code(f"{name}({x.pointer}, {y.pointer});", {**(extra or {}), name: text})


def pool(site: Site) -> Code:
    """Maximum or mean over a window; what lies outside the input does not count as a maximum."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    rank = len(attributes["kernel"])
    names = index_names(y.shape)
    outer = names[: len(y.shape) - rank]
    maximum = attributes["mode"] == "max"
    body = [f"float s = {'-(float)INFINITY' if maximum else '0.0f'};"]
    counts, windows = [], []
    for d in range(rank):
        n, size = x.shape[-rank + d], attributes["kernel"][d]
        step, before = attributes["stride"][d], attributes["padding"][d]
        line = names[len(outer) + d]
        body.append(f"const int b{d} = {line} * {step} - {before};")
        windows += [
            f"for (int k{d} = 0; k{d} < {size}; k{d}++) {{",
            f"const int h{d} = b{d} + k{d} * {attributes['dilation'][d]};",
            f"if (h{d} < 0 || h{d} >= {n}) continue;",
        ]
        counts.append(_window(d, n, size, before, attributes["count_padding"]))
    body += windows
    read = f"x[{at(x.strides, [*outer, *(f'h{d}' for d in range(rank))])}]"
    body.append(f"s = {read} > s ? {read} : s;" if maximum else f"s += {read};")
    body.append("}" * rank)
    result = "s"
    if not maximum:
        divisor = attributes["divisor"]
        padded = attributes["count_padding"] or not any(attributes["padding"])
        plain = padded and _all_inside(site)
        if divisor is not None or plain:
            result = f"s * {number(1 / (divisor or prod(attributes['kernel'])))}"
        else:
            body += counts
            result = f"s / (float)({' * '.join(f'c{d}' for d in range(rank))})"
    body.append(f"y[{at(y.strides, names)}] = {result};")
    return _simple("pool", site, loops(y.shape, body, parallel=True))


def _window(d: int, n: int, size: int, before: int, padding: bool) -> str:
    """Statement that counts the positions of a window that the mean is over."""
    low, high = (-before, n + before) if padding else (0, n)
    first = f"(b{d} < {low} ? {low} : b{d})"
    last = f"(b{d} + {size} > {high} ? {high} : b{d} + {size})"
    return f"const int c{d} = {last} - {first};"


def _all_inside(site: Site) -> bool:
    """Whether no window reaches beyond the padded input, as rounding up lets the last one."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    rank = len(attributes["kernel"])
    ends = zip(
        y.shape[-rank:],
        x.shape[-rank:],
        attributes["kernel"],
        attributes["stride"],
        attributes["padding"],
        strict=True,
    )
    return all((m - 1) * s + k <= n + 2 * p for m, n, k, s, p in ends)


def adaptive(site: Site) -> Code:
    """Windows from floor(i n / m) to ceil((i + 1) n / m)."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    rank, maximum = attributes["rank"], attributes["mode"] == "max"
    names = index_names(y.shape)
    body = [f"float s = {'-(float)INFINITY' if maximum else '0.0f'};"]
    windows = []
    for d in range(rank):
        n, m = x.shape[-rank + d], y.shape[-rank + d]
        line = names[len(names) - rank + d]
        body += [
            f"const int f{d} = {line} * {n} / {m}, l{d} = (({line} + 1) * {n} + {m - 1}) / {m};",
        ]
        windows.append(f"for (int h{d} = f{d}; h{d} < l{d}; h{d}++) {{")
    body += windows
    read = f"x[{at(x.strides, [*names[:-rank], *(f'h{d}' for d in range(rank))])}]"
    body.append(f"s = {read} > s ? {read} : s;" if maximum else f"s += {read};")
    body.append("}" * rank)
    area = " * ".join(f"(l{d} - f{d})" for d in range(rank))
    body.append(f"y[{at(y.strides, names)}] = {'s' if maximum else f's / (float)({area})'};")
    return _simple("adaptive_pool", site, loops(y.shape, body, parallel=True))


def _split(x: Place, dims: Sequence[int]) -> tuple[list[int], list[int]]:
    kept = [d for d in range(len(x.shape)) if d not in dims]
    return kept, list(dims)


_STARTS = {"max": "-(float)INFINITY", "min": "(float)INFINITY", "product": "1.0f"}
_STEPS = {
    "sum": "s += v;",
    "mean": "s += v;",
    "norm": "s += v * v;",
    "max": "s = v > s ? v : s;",
    "min": "s = v < s ? v : s;",
    "product": "s *= v;",
    "argmax": "if (v > s) { s = v; at = place; }",
    "argmin": "if (v < s) { s = v; at = place; }",
}


def reduce(site: Site) -> Code:
    """Sums and the like over dimensions."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    mode, dims = attributes["mode"], attributes["dims"]
    kept, gone = _split(x, dims)
    names = [f"i{d}" if n > 1 else "0" for d, n in enumerate(x.shape)]
    outer = [x.shape[d] for d in kept]
    count = prod(x.shape[d] for d in gone)
    read = f"const float v = (float)x[{at(x.strides, names)}];"

    def inner(step: str) -> list[str]:
        lines = [
            f"for (int i{d} = 0; i{d} < {x.shape[d]}; i{d}++) {{" for d in gone if x.shape[d] > 1
        ]
        return [*lines, read, step, "}" * len(lines)]

    position = at(_kept_strides(x, y, kept), [names[d] for d in kept])
    if mode in {"variance", "std"}:
        body = ["float t = 0.0f, s = 0.0f;", *inner("t += v;"), f"t *= {number(1 / count)};"]
        body += inner("s += (v - t) * (v - t);")
        result = f"s * {number(1 / attributes['divisor'])}" if attributes["divisor"] else "s / 0.0f"
        result = f"sqrtf({result})" if mode == "std" else result
    else:
        body = [f"float s = {_STARTS.get(mode.removeprefix('arg'), '0.0f')};"]
        step = _STEPS[mode]
        if mode.startswith("arg"):
            body.append("int at = 0;")
            place = at(_packed([x.shape[d] for d in gone]), [names[d] for d in gone])
            step = step.replace("place", f"({place})")
        body += inner(step)
        result = {"mean": f"s * {number(1 / count)}", "norm": "sqrtf(s)"}.get(mode, "s")
        result = "at" if mode.startswith("arg") else result
    cast = "" if y.dtype == "f32" or mode.startswith("arg") else "(int32_t)"
    body.append(f"y[{position}] = {cast}({result});")
    lines = loops_over(kept, outer, body)
    return _simple(f"reduce_{mode}", site, lines)


def loops_over(dims: Sequence[int], sizes: Sequence[int], body: Sequence[str]) -> list[str]:
    """Loops with the variables of the given dimensions."""
    lines, depth = [], 0
    for d, size in zip(dims, sizes, strict=True):
        if size > 1:
            lines += ["PJ_PARALLEL"] if depth == 0 else []
            lines.append(f"for (int i{d} = 0; i{d} < {size}; i{d}++) {{")
            depth += 1
    return [*lines, *body, "}" * depth]


def _packed(shape: Sequence[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(list(shape)):
        strides.append(step)
        step *= size
    return strides[::-1]


def _kept_strides(x: Place, y: Place, kept: Sequence[int]) -> list[int]:
    """Strides of the output along the dimensions that stay, with or without keepdim."""
    if len(y.shape) == len(x.shape):
        return [y.strides[d] for d in kept]
    return list(y.strides)


def topk(site: Site) -> Code:
    """The largest values along a dimension, in falling order: each is put in its place."""
    x, y, dim = site.inputs[0], site.outputs[0], site.layer.attributes["dim"]
    count, names = y.shape[dim], index_names(x.shape)
    outer = [n if d != dim else 1 for d, n in enumerate(x.shape)]

    def place(of: Place, name: str) -> str:
        return at(of.strides, [name if d == dim else n for d, n in enumerate(names)])

    body = [
        f"float s[{count}];",
        "int m = 0;",
        f"for (int n = 0; n < {x.shape[dim]}; n++) {{",
        f"  const float v = x[{place(x, 'n')}];",
        f"  if (m == {count} && !(v > s[{count - 1}])) continue;",
        f"  int j = m < {count} ? m++ : {count - 1};",
        "  for (; j > 0 && s[j - 1] < v; j--) s[j] = s[j - 1];",
        "  s[j] = v;",
        "}",
        f"for (int j = 0; j < {count}; j++) y[{place(y, 'j')}] = s[j];",
    ]
    return _simple("topk", site, loops(outer, body, parallel=True))


def softmax(site: Site) -> Code:
    """exp(x - max) over its sum along one dimension, or the log of it."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    dim, log = attributes["dim"], attributes["log"]
    rows = [d for d in range(len(x.shape)) if d != dim]
    names = [f"i{d}" if n > 1 and d != dim else "0" for d, n in enumerate(x.shape)]
    n, step_x, step_y = x.shape[dim], x.strides[dim], y.strides[dim]
    body = [
        f"const float *p = x + ({at(x.strides, names)});",
        f"float *r = y + ({at(y.strides, names)});",
        "float top = -(float)INFINITY, sum = 0.0f;",
        f"for (int t = 0; t < {n}; t++) top = p[t * {step_x}] > top ? p[t * {step_x}] : top;",
    ]
    if log:
        body += [
            f"for (int t = 0; t < {n}; t++) sum += pj_exp(p[t * {step_x}] - top);",
            "const float less = top + logf(sum);",
            f"for (int t = 0; t < {n}; t++) r[t * {step_y}] = p[t * {step_x}] - less;",
        ]
    else:
        body += [
            f"for (int t = 0; t < {n}; t++) r[t * {step_y}] = pj_exp(p[t * {step_x}] - top);",
            f"for (int t = 0; t < {n}; t++) sum += r[t * {step_y}];",
            "const float factor = 1.0f / sum;",
            f"for (int t = 0; t < {n}; t++) r[t * {step_y}] *= factor;",
        ]
    lines = loops_over(rows, [x.shape[d] for d in rows], body)
    return _simple("softmax", site, lines, functions("pj_exp"))


def normalize(site: Site) -> Code:
    """(x - mean) / sqrt(variance + eps) over runs of values, then scaled and shifted."""
    x, y, attributes = site.inputs[0], site.outputs[0], site.layer.attributes
    mode, rank, eps = attributes["mode"], attributes["rank"], number(attributes["eps"])
    groups = attributes["groups"] or 1
    rows = list(range(len(x.shape) - rank))
    inner = list(x.shape[len(rows) :])
    names = [f"i{d}" for d in rows]
    each = inner[0] // groups if attributes["groups"] else inner[0]
    sizes = [each, *inner[1:]]
    columns = [f"j{d}" for d in range(rank)]
    first = f"(g * {each} + j0)" if attributes["groups"] else "j0"
    places = [*names, first, *columns[1:]]
    position_x, position_y = at(x.strides, places), at(y.strides, places)
    affine = first if attributes["groups"] else at(_packed(inner), columns)

    def over(statement: str) -> list[str]:
        opened = [f"for (int j{d} = 0; j{d} < {n}; j{d}++)" for d, n in enumerate(sizes)]
        return [" ".join(opened) + " {", f"const float v = x[{position_x}];", statement, "}"]

    body = ["float m = 0.0f, s = 0.0f;"]
    share = number(1 / prod(sizes))
    if mode != "rms":
        body += [*over("m += v;"), f"m *= {share};"]
    body += [*over("s += (v - m) * (v - m);"), f"s = 1.0f / sqrtf(s * {share} + {eps});"]
    result = "(v - m) * s"
    held = site.layer.weights
    result += f" * w[{affine}]" if "weight" in held else ""
    result += f" + b[{affine}]" if "bias" in held else ""
    body += over(f"y[{position_y}] = {result};")
    if attributes["groups"]:
        body = [f"for (int g = 0; g < {groups}; g++) {{", *body, "}"]
    blobs, (w, b) = weights(site, "weight", "bias")
    given = [(const_of(x, "x", restrict=False), x.pointer)]
    given += [("const float *w", w)] if w != "0" else []
    given += [("const float *b", b)] if b != "0" else []
    given.append((out_of(y, restrict=False), y.pointer))
    opened = [f"for (int i{d} = 0; i{d} < {x.shape[d]}; i{d}++) {{" for d in rows]
    lines = [*(["PJ_PARALLEL"] if opened else []), *opened, *body, "}" * len(opened)]
    name, text = function("normalize", ", ".join(p for p, _ in given), lines)
    return Code(f"{name}({', '.join(a for _, a in given)});", {name: text}, blobs)


def resize(site: Site) -> Code:
    """Linear interpolation: two neighbours and their weights along each dimension."""
    x, y = site.inputs[0], site.outputs[0]
    rank = len(x.shape) - 2
    names = [f"i{d}" for d in range(len(y.shape))]
    blobs, body, arguments = [], ["float s = 0.0f;"], []
    for d in range(rank):
        matrix = site.layer.weights[f"matrix{d}"]
        low = (matrix != 0).argmax(axis=1)
        high = (low + 1).clip(max=matrix.shape[1] - 1)
        rows = range(len(matrix))
        left = matrix[rows, low]
        right = (matrix.sum(axis=1) - left) * (high != low)
        for name, values in (("low", low.astype("i4")), ("left", left), ("right", right)):
            blobs.append(Blob(f"{site.layer.name}_{name}{d}", values.astype(values.dtype), "table"))
        arguments += [f"const int32_t *e{d}", f"const float *f{d}", f"const float *g{d}"]
        body += [
            f"for (int k{d} = 0; k{d} < 2; k{d}++) {{",
            f"const int h{d} = e{d}[i{2 + d}] + k{d};",
            f"const float u{d} = k{d} ? g{d}[i{2 + d}] : f{d}[i{2 + d}];",
            f"if (h{d} >= {matrix.shape[1]}) continue;",
        ]
    read = at(x.strides, [*names[:2], *(f"h{d}" for d in range(rank))])
    factor = " * ".join(f"u{d}" for d in range(rank))
    body += [f"s += {factor} * x[{read}];", "}" * rank, f"y[{at(y.strides, names)}] = s;"]
    opened = [f"for (int i{d} = 0; i{d} < {n}; i{d}++) {{" for d, n in enumerate(y.shape)]
    parameters = ", ".join([const_of(x, "x"), *arguments, out_of(y)])
    lines = ["PJ_PARALLEL", *opened, *body, "}" * len(opened)]
    name, text = function("resize", parameters, lines)
    call = f"{name}({', '.join([x.pointer, *(b.name for b in blobs), y.pointer])});"
    return Code(call, {name: text}, tuple(blobs))

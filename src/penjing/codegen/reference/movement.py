"""Copies, moves and element-wise maps in plain C."""

from __future__ import annotations

import numpy as np

from penjing.codegen.ir import C_TYPES
from penjing.codegen.kernel import Blob, Code, Place, Site
from penjing.codegen.reference.expression import Renderer
from penjing.codegen.reference.text import (
    at,
    broadcast,
    const_of,
    function,
    index_names,
    loops,
    merged,
    number,
    out_of,
)


def copy(site: Site) -> Code:
    """Every element, to other strides."""
    return copy_between(site.inputs[0], site.outputs[0])


def copy_between(x: Place, y: Place) -> Code:
    """Copy one place to another of the same shape."""
    shape, (of_x, of_y) = merged(y.shape, [x.strides, y.strides])
    names = index_names(shape)
    body = [f"y[{at(of_y, names)}] = x[{at(of_x, names)}];"]
    name, text = function("copy", f"{const_of(x, 'x')}, {out_of(y)}", loops(shape, body))
    return Code(f"{name}({x.pointer}, {y.pointer});", {name: text})


def concat(site: Site) -> Code:
    """The inputs that were not written in place already."""
    y, dim = site.outputs[0], site.layer.attributes["dim"]
    calls: list[str] = []
    functions: dict[str, str] = {}
    start = 0
    for x in site.inputs:
        offset = start * y.strides[dim]
        start += x.shape[dim]
        if x.pointer == "":
            continue
        part = Place(f"{y.pointer} + {offset}", x.shape, y.strides, y.dtype)
        code = copy_between(x, part)
        calls.append(code.call)
        functions.update(code.functions)
    return Code(" ".join(calls), functions)


def move(site: Site) -> Code:
    """Any rearrangement: loops where the positions allow it, a table of positions elsewhere."""
    x, y = site.inputs[0], site.outputs[0]
    index, fill = site.layer.attributes["index"], site.layer.attributes["fill"]
    source = physical(x)[np.maximum(index, 0)]
    source = np.where(index >= 0, source, -(2**31) + 1)
    shape, steps = nest(source.reshape(-1))
    target = _loop_strides(shape, y)
    if (index >= 0).all() and steps is not None and target is not None and len(shape) <= 8:
        base = int(source.reshape(-1)[0])
        names = index_names(shape)
        body = [f"y[{at(target, names)}] = x[{base} + {at(steps, names)}];"]
        name, text = function("move", f"{const_of(x, 'x')}, {out_of(y)}", loops(shape, body))
        return Code(f"{name}({x.pointer}, {y.pointer});", {name: text})
    return _by_table(site, source, fill)


def _by_table(site: Site, source: np.ndarray, fill: float) -> Code:
    x, y = site.inputs[0], site.outputs[0]
    low = np.where(source < -(2**30), -1, source)
    kind = np.int16 if low.max() < 2**15 else np.int32
    table = Blob(f"{site.layer.name}_index", low.astype(kind).reshape(-1), "index")
    names = index_names(y.shape)
    position = at(_packed(y.shape), names)
    value = number(fill) if y.dtype == "f32" else str(int(fill))
    body = [
        f"const int p = t[{position}];",
        f"y[{at(y.strides, names)}] = p < 0 ? {value} : x[p];",
    ]
    parameters = f"{const_of(x, 'x')}, const {np.dtype(kind).name}_t *t, {out_of(y)}"
    name, text = function("gather", parameters, loops(y.shape, body))
    return Code(f"{name}({x.pointer}, {table.name}, {y.pointer});", {name: text}, (table,))


def _packed(shape: tuple[int, ...]) -> list[int]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


def physical(place: Place) -> np.ndarray:
    """Offsets of all elements of a tensor from its first, flat, in the order of its shape."""
    found = np.zeros(place.shape, dtype=np.int64)
    for d, (size, stride) in enumerate(zip(place.shape, place.strides, strict=True)):
        shape = [1] * len(place.shape)
        shape[d] = size
        found += stride * np.arange(size).reshape(shape)
    return found.reshape(-1)


def nest(flat: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Nested loops that walk through a sequence of positions: sizes and steps, outermost first.

    Example:
        >>> nest(np.arange(6).reshape(2, 3).T.reshape(-1))
        ((3, 2), (1, 3))
    """
    sizes: list[int] = []
    steps: list[int] = []
    while flat.size > 1:
        step = int(flat[1] - flat[0])
        breaks = np.flatnonzero(np.diff(flat) != step)
        run = int(breaks[0]) + 1 if breaks.size else flat.size
        if run == 1 or flat.size % run:
            return (), None
        rows = flat.reshape(-1, run)
        if not np.array_equal(rows, rows[:, :1] + step * np.arange(run)):
            return (), None
        sizes.insert(0, run)
        steps.insert(0, step)
        flat = rows[:, 0]
    return tuple(sizes) or (1,), tuple(steps) or (0,)


def _loop_strides(shape: tuple[int, ...], y: Place) -> tuple[int, ...] | None:
    """Strides of the output under other loops over the same sequence."""
    flat = physical(y)
    if int(np.prod(shape, dtype=int)) != flat.size:
        return None
    grid = flat.reshape(shape)
    strides = []
    for d, size in enumerate(shape):
        at_one = [0] * len(shape)
        at_one[d] = min(1, size - 1)
        strides.append(int(grid[tuple(at_one)]))
    wanted = physical(Place("", shape, tuple(strides), y.dtype))
    return tuple(strides) if np.array_equal(wanted, flat) else None


def map_(site: Site) -> Code:
    """An expression, element by element."""
    y, inputs = site.outputs[0], site.inputs
    strides = [broadcast(p, y.shape) for p in inputs]
    shape, steps = merged(y.shape, [*strides, y.strides])
    names = index_names(shape)
    reads = [
        (
            f"x{i}[{at(step, names)}]" if p.dtype == "f32" else f"(int32_t)x{i}[{at(step, names)}]",
            "float" if p.dtype == "f32" else "int32_t",
        )
        for i, (p, step) in enumerate(zip(inputs, steps, strict=False))
    ]
    renderer = Renderer()
    result = renderer.render(site.layer.attributes["expression"], reads)
    if y.dtype == "f32":
        result = result if renderer.type_of(result) == "float" else f"(float){result}"
    else:
        result = f"({C_TYPES[y.dtype]})({result})"
    body = [*renderer.lines, f"y[{at(steps[-1], names)}] = {result};"]
    given = [(const_of(p, f"x{i}", restrict=False), p.pointer) for i, p in enumerate(inputs)]
    given.append((out_of(y, restrict=False), y.pointer))
    lines = loops(shape, body, parallel=True)
    name, text = function("map", ", ".join(p for p, _ in given), lines)
    call = f"{name}({', '.join(a for _, a in given)});"
    return Code(call, {**renderer.functions, name: text})


def embedding(site: Site) -> Code:
    """Rows of a table; a position outside it is brought to the nearest row."""
    x, y = site.inputs[0], site.outputs[0]
    table = site.layer.weights["weight"]
    names = index_names(y.shape[:-1])
    body = [
        f"const int32_t p = (int32_t)x[{at(x.strides, names)}];",
        f"const int32_t q = p < 0 ? 0 : (p < {len(table)} ? p : {len(table) - 1});",
        f"const float *r = w + q * {table.shape[1]};",
        f"for (int c = 0; c < {table.shape[1]}; c++)",
        f"y[{at(y.strides, [*names, 'c'])}] = r[c];",
    ]
    blob = Blob(f"{site.layer.name}_weight", table)
    parameters = f"{const_of(x, 'x')}, const float *w, {out_of(y)}"
    name, text = function("embedding", parameters, loops(y.shape[:-1], body))
    return Code(f"{name}({x.pointer}, {blob.name}, {y.pointer});", {name: text}, (blob,))

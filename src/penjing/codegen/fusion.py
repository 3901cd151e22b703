"""Passes over a net that take layers away: moves joined, norms folded, activations taken in.

Each pass is a function from a net to a net that computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from penjing.codegen.ir import Activation, Layer, Net

LINEAR = frozenset({"conv", "conv_transpose", "linear"})
"""Kinds that take in a bias, a residual and an activation."""

ACTIVATIONS: Mapping[str, int] = {
    "clamp": 2,
    "leaky_relu": 1,
    "elu": 1,
    "sigmoid": 0,
    "tanh": 0,
    "silu": 0,
    "gelu": 0,
    "gelu_tanh": 0,
    "hardswish": 0,
    "hardsigmoid": 0,
    "relu6": 0,
}
"""Expressions that are activations, with the number of their values."""

MAX_OPERANDS = 6  # of one fused expression; more streams than this gain nothing
MAX_EXPRESSION = 60  # nodes of one fused expression: it is compiled again wherever it is used


def fuse(net: Net) -> Net:
    """Apply every pass.

    Args:
        net: As lowered.

    Returns:
        A net with fewer layers that computes the same, up to the order of float sums.
    """
    for step in (
        fold_padding,
        join_moves,
        drop_identities,
        fold_affine,
        take_activations,
        merge_maps,
        take_residuals,
        take_activations,
        drop_dead,
    ):
        net = step(net)
    return net


def drop_dead(net: Net) -> Net:
    """Leave out layers, tensors and constants that nothing reads."""
    needed = {*net.outputs, *(written for _, written in net.states)}
    layers: list[Layer] = []
    for layer in reversed(net.layers):
        if needed & set(layer.outputs):
            needed |= set(layer.inputs)
            layers.append(layer)
    made = {name for layer in layers for name in layer.outputs}
    used = needed | made | set(net.inputs) | {read for read, _ in net.states}
    return replace(
        net,
        layers=tuple(reversed(layers)),
        tensors={n: t for n, t in net.tensors.items() if n in used},
        constants={n: c for n, c in net.constants.items() if n in used},
    )


def _renamed(net: Net, alias: Mapping[str, str]) -> Net:
    """Read other tensors instead; outputs of the net as well."""

    def name(n: str) -> str:
        while n in alias:
            n = alias[n]
        return n

    layers = tuple(
        replace(layer, inputs=tuple(name(n) for n in layer.inputs)) for layer in net.layers
    )
    states = tuple((read, name(written)) for read, written in net.states)
    return replace(net, layers=layers, outputs=tuple(map(name, net.outputs)), states=states)


def is_affine(index: np.ndarray) -> bool:
    """Whether strides can express the positions: base + sum of coordinate * stride."""
    return strides_of(index) is not None


def strides_of(index: np.ndarray) -> tuple[int, ...] | None:
    """Strides of positions that are affine in the coordinates, else None.

    Example:
        >>> strides_of(np.arange(6).reshape(2, 3).T)
        (1, 3)
    """
    if index.size == 0:
        return None
    base = int(index.flat[0])
    strides = []
    expected = np.full(index.shape, base, dtype=np.int64)
    for axis, size in enumerate(index.shape):
        step = 0
        if size > 1:
            at = [0] * index.ndim
            at[axis] = 1
            step = int(index[tuple(at)]) - base
            shape = [1] * index.ndim
            shape[axis] = size
            expected += step * np.arange(size).reshape(shape)
        strides.append(step)
    if int(index.min()) < 0 or not np.array_equal(index, expected):
        return None
    return tuple(strides)


def join_moves(net: Net) -> Net:
    """A move of a move reads the first one's input, where that makes no second copy."""
    readers = net.readers()
    made: dict[str, Layer] = {}
    layers = []
    for layer in net.layers:
        if layer.kind == "move":
            before = made.get(layer.inputs[0])
            while before is not None and _may_join(before, layer, readers):
                layer = _joined(before, layer)
                before = made.get(layer.inputs[0])
        if layer.kind == "move":
            made[layer.outputs[0]] = layer
        layers.append(layer)
    return drop_dead(replace(net, layers=tuple(layers)))


def _may_join(before: Layer, after: Layer, readers: Mapping[str, list[Layer]]) -> bool:
    first, second = before.attributes, after.attributes
    filled = [bool((a["index"] < 0).any()) for a in (first, second)]
    if all(filled) and first["fill"] != second["fill"]:
        return False
    return len(readers[before.outputs[0]]) == 1 or is_affine(first["index"])


def _joined(before: Layer, after: Layer) -> Layer:
    first, second = before.attributes["index"].reshape(-1), after.attributes["index"]
    index = np.where(second >= 0, first[np.maximum(second, 0)], -1)
    fill = after.attributes["fill"] if (second < 0).any() else before.attributes["fill"]
    return replace(after, inputs=before.inputs, attributes={"index": index, "fill": fill})


def drop_identities(net: Net) -> Net:
    """Moves and maps that give their input back as it is."""
    alias: dict[str, str] = {}
    for layer in net.layers:
        x, y = (net.tensors[n] for n in (layer.inputs[:1] or layer.outputs)[:1] + layer.outputs[:1])
        if (x.shape, x.dtype) != (y.shape, y.dtype) or y.name in net.outputs:
            continue
        if layer.kind == "move":
            index = layer.attributes["index"].reshape(-1)
            if np.array_equal(index, np.arange(index.size)):
                alias[y.name] = x.name
        elif layer.kind == "map" and layer.attributes["expression"] == ("input", 0):
            alias[y.name] = x.name
    return drop_dead(_renamed(net, alias))


def fold_padding(net: Net) -> Net:
    """Zero padding in front of convolutions becomes theirs."""
    made, readers = net.producers(), net.readers()

    def mine(layer: Layer) -> Layer | None:
        before = made.get(layer.inputs[0]) if layer.kind == "conv" else None
        if before is None or before.kind != "move" or not before.attributes.get("pad"):
            return None
        pads = before.attributes["pad"]
        plain = not any(map(any, pads[:2])) and all(p >= 0 for pair in pads for p in pair)
        return before if plain and len(layer.inputs) == 1 else None

    layers = []
    for layer in net.layers:
        before = mine(layer)
        if before is not None and all(map(mine, readers[layer.inputs[0]])):
            pairs = zip(layer.attributes["padding"], before.attributes["pad"][2:], strict=True)
            padding = tuple((a + c, b + d) for (a, b), (c, d) in pairs)
            attributes = {**layer.attributes, "padding": padding}
            layer = replace(layer, inputs=before.inputs, attributes=attributes)
        layers.append(layer)
    return drop_dead(replace(net, layers=tuple(layers)))


def fold_affine(net: Net) -> Net:
    """Constant scales and shifts per channel go into the weights of the layer before."""
    for _ in range(len(net.layers)):
        readers, made = net.readers(), net.producers()
        found = next(
            (
                (before, after, scale, shift)
                for after in net.layers
                if (affine := _affine(net, after)) is not None
                for x, scale, shift in [affine]
                if (before := made.get(x)) is not None
                and before.kind in LINEAR
                and before.activation is None
                and len(before.inputs) == 1
                and len(readers[x]) == 1
                and x not in net.outputs
                and _per_channel(net, before, scale, shift)
            ),
            None,
        )
        if found is None:
            return drop_dead(net)
        before, after, scale, shift = found
        net = _replaced(net, after, _with_affine(net, before, scale, shift), {before.name})
    return net


def _affine(net: Net, layer: Layer) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(x, scale, shift) of a map that is x * scale + shift with constants."""
    if layer.kind != "map":
        return None
    live = [n for n in layer.inputs if n not in net.constants]
    if len(live) != 1 or net.tensors[live[0]].dtype != "f32":
        return None
    x = layer.inputs.index(live[0])
    pair = _linear_form(layer.attributes["expression"], x, layer.inputs, net.constants)
    return None if pair is None else (live[0], pair[0], pair[1])


def _linear_form(
    term: Any, x: int, inputs: tuple[str, ...], constants: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of an expression in input `x`, in float64."""
    zero, one = np.zeros(()), np.ones(())
    if term[0] == "input":
        return (one, zero) if term[1] == x else (zero, constants[inputs[term[1]]].astype("f8"))
    if term[0] == "constant":
        return zero, np.asarray(term[1], dtype=np.float64)
    if term[0] not in {"add", "sub", "mul", "div"}:
        return None
    sides = [_linear_form(t, x, inputs, constants) for t in term[1:]]
    if sides[0] is None or sides[1] is None:
        return None
    (a, b), (c, d) = sides[0], sides[1]
    if term[0] in {"add", "sub"}:
        sign = 1 if term[0] == "add" else -1
        return a + sign * c, b + sign * d
    if term[0] == "mul" and not a.any():
        return b * c, b * d
    if not c.any() and (term[0] == "mul" or d.all()):
        return (a * d, b * d) if term[0] == "mul" else (a / d, b / d)
    return None


def _per_channel(net: Net, before: Layer, scale: np.ndarray, shift: np.ndarray) -> bool:
    """Whether the constants vary along the output channels alone."""
    shape = net.tensors[before.outputs[0]].shape
    axis = len(shape) - 1 if before.kind == "linear" else 1
    wanted = tuple(n if i == axis else 1 for i, n in enumerate(shape))
    for array in (scale, shift):
        padded = (1,) * (len(shape) - array.ndim) + array.shape
        if len(padded) != len(shape) or any(
            n not in {1, w} for n, w in zip(padded, wanted, strict=True)
        ):
            return False
    return True


def _with_affine(net: Net, layer: Layer, scale: np.ndarray, shift: np.ndarray) -> Layer:
    weight = layer.weights["weight"]
    shape = net.tensors[layer.outputs[0]].shape
    channels = shape[-1] if layer.kind == "linear" else shape[1]
    by, plus = (np.broadcast_to(v.reshape(-1), (channels,)) for v in (scale, shift))
    bias = layer.weights.get("bias", np.zeros(channels, np.float32))
    wide: tuple[int, ...] = (-1, *([1] * (weight.ndim - 1)))
    if layer.kind == "conv_transpose":
        groups = layer.attributes["groups"]
        parts = zip(np.split(weight, groups), np.split(by, groups), strict=True)
        split = [w * s.reshape(1, -1, *([1] * (weight.ndim - 2))) for w, s in parts]
        scaled = np.concatenate(split)
    else:
        scaled = weight * by.reshape(wide)
    weights = {
        "weight": np.ascontiguousarray(scaled, dtype=np.float32),
        "bias": (bias * by + plus).astype(np.float32),
    }
    return replace(layer, weights=weights)


def _replaced(net: Net, after: Layer, merged: Layer, gone: set[str]) -> Net:
    """Put `merged` where `after` was, with its outputs."""
    merged = replace(merged, name=after.name, outputs=after.outputs)
    layers = tuple(
        merged if layer is after else layer for layer in net.layers if layer.name not in gone
    )
    return replace(net, layers=layers)


def _size(term: Any) -> int:
    return 1 + sum(_size(t) for t in term[1:] if isinstance(t, tuple))


def _mapped(term: Any, change: Callable[[int], Any]) -> Any:
    """An expression with its inputs replaced."""
    if term[0] == "input":
        return change(term[1])
    return tuple(_mapped(t, change) if isinstance(t, tuple) else t for t in term)


def merge_maps(net: Net) -> Net:
    """A map that one map alone reads is computed inside it."""
    while True:
        readers, made = net.readers(), net.producers()
        pair = next(
            (
                (made[x], layer)
                for layer in net.layers
                if layer.kind == "map"
                for x in layer.inputs
                if x in made and _may_merge(net, made[x], layer, readers)
            ),
            None,
        )
        if pair is None:
            return drop_dead(net)
        net = _replaced(net, pair[1], _inlined(*pair), {pair[0].name})


def _may_merge(net: Net, before: Layer, after: Layer, readers: Mapping[str, list[Layer]]) -> bool:
    x, y = net.tensors[before.outputs[0]], net.tensors[after.outputs[0]]
    terms = [layer.attributes.get("expression") for layer in (before, after)]
    if before.kind != "map" or x.shape != y.shape or x.dtype != "f32" or x.name in net.outputs:
        return False
    uses = str(terms[1]).count(f"('input', {after.inputs.index(x.name)})")
    cheap = _size(terms[0]) == 1 or uses == 1
    return (
        len(readers[x.name]) == 1
        and cheap
        and len({*before.inputs, *after.inputs}) <= MAX_OPERANDS + 1
        and _size(terms[0]) + _size(terms[1]) <= MAX_EXPRESSION
    )


def _inlined(before: Layer, after: Layer) -> Layer:
    gone = after.inputs.index(before.outputs[0])
    inputs = list(dict.fromkeys([n for n in after.inputs if n != before.outputs[0]]))
    inputs += [n for n in before.inputs if n not in inputs]
    inner = _mapped(
        before.attributes["expression"], lambda i: ("input", inputs.index(before.inputs[i]))
    )
    term = _mapped(
        after.attributes["expression"],
        lambda i: inner if i == gone else ("input", inputs.index(after.inputs[i])),
    )
    return replace(after, inputs=tuple(inputs), attributes={"expression": term})


def take_activations(net: Net) -> Net:
    """An activation after a convolution or a linear layer is computed with it."""
    readers, made = net.readers(), net.producers()
    for after in net.layers:
        if after.kind != "map":
            continue
        activation = as_activation(after.attributes["expression"])
        before = made.get(after.inputs[0])
        if activation is None or before is None or before.kind not in LINEAR:
            continue
        x = after.inputs[0]
        if before.activation is None and len(readers[x]) == 1 and x not in net.outputs:
            attributes = {**before.attributes, "activation": activation}
            net = _replaced(net, after, replace(before, attributes=attributes), {before.name})
            made = net.producers()
    return net


def as_activation(term: Any) -> Activation | None:
    """An expression that is one activation of its only input."""
    if len(term) < 2 or term[0] not in ACTIVATIONS or term[1] != ("input", 0):
        return None
    if term[0] == "relu6":
        return Activation("clamp", (0.0, 6.0))
    if len(term) != 2 + ACTIVATIONS[term[0]]:
        return None
    return Activation(term[0], tuple(float(v) for v in term[2:]))


def take_residuals(net: Net) -> Net:
    """The sum of a layer's output and a tensor that exists by then is computed with it."""
    made = net.producers()
    for after in net.layers:
        split = _residual(net, after)
        if split is None:
            continue
        rest, names = split
        readers = net.readers()
        order = {layer.name: i for i, layer in enumerate(net.layers)}
        ready = sorted(names, key=lambda n: -order[made[n].name] if n in made else 1)
        for name in ready:
            before = made.get(name)
            if before is None or not _may_take(net, before, name, readers):
                continue
            other = names[1 - names.index(name)]
            merged = replace(before, inputs=(*before.inputs, other))
            if rest is not None:
                attributes = {**before.attributes, "activation": rest}
                merged = replace(merged, attributes=attributes)
            net = _replaced(net, after, merged, {before.name})
            made = net.producers()
            break
    return net


def _may_take(net: Net, layer: Layer, name: str, readers: Mapping[str, list[Layer]]) -> bool:
    alone = len(readers[name]) == 1 and name not in net.outputs
    return layer.kind in LINEAR and layer.activation is None and len(layer.inputs) == 1 and alone


def _residual(net: Net, layer: Layer) -> tuple[Activation | None, tuple[str, str]] | None:
    """The two tensors of a map that is act(a + b), and the activation."""
    if layer.kind != "map" or len(layer.inputs) != 2:
        return None
    term = layer.attributes["expression"]
    activation = None
    if term[0] in ACTIVATIONS and isinstance(term[1], tuple):
        activation = as_activation((term[0], ("input", 0), *term[2:]))
        term = term[1]
        if activation is None:
            return None
    if term[0] != "add" or {t[0] for t in term[1:]} != {"input"} or term[1] == term[2]:
        return None
    tensors = [net.tensors[n] for n in (*layer.inputs, layer.outputs[0])]
    same = len({(t.shape, t.dtype) for t in tensors}) == 1 and prod(tensors[0].shape) > 0
    return (activation, (layer.inputs[0], layer.inputs[1])) if same else None

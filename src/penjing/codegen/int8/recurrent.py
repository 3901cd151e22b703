"""C of recurrent layers in integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from penjing.codegen.int8.convolutions import check_sums
from penjing.codegen.int8.text import Text
from penjing.quantization.integers import IntegerLayer


def recurrent(text: Text, layer: IntegerLayer) -> str:
    """A layer in one direction; its zero point is in the bias of the inputs."""
    source = text.net.tensors[layer.inputs[0]]
    _, steps, inputs = source.shape
    hidden = text.net.tensors[layer.output].shape[2]
    values: dict[str, Any] = {}
    for side, zero in (("input", source.zero_point), ("state", 0)):
        weight = layer.weights[side]
        bias = layer.weights[f"{side}_bias"].astype(np.int64)
        scales = [layer.weights[f"{side}_{key}"] for key in ("multiplier", "shift")]
        check_sums(text, layer, weight, bias, (scales[0], scales[1]))
        whole = bias - zero * weight.astype(np.int64).sum(1)
        values[side] = text.array(layer, side, weight)
        values[f"{side}_bias"] = text.array(layer, f"{side}_bias", whole.astype(np.int32))
        values[f"{side}_multiplier"] = text.array(layer, f"{side}_multiplier", scales[0])
        shift = (-scales[1]).astype(np.int8)
        values[f"{side}_shift"] = text.array(layer, f"{side}_shift", shift)
    for table in ("sigmoid", "tanh"):
        there = table in layer.weights
        values[table] = text.once(layer, table, layer.weights[table]) if there else "NULL"
    values |= {"steps": steps, "inputs": inputs, "hidden": hidden}
    values |= {"reverse": int(layer.attributes["reverse"])}
    values |= {"cell_bits": layer.attributes["cell_bits"]}
    places = [text.structure(layer, "recurrent", values)]
    places += [text.at(layer.inputs[0]), text.at(layer.output)]
    name = layer.attributes.get("state")
    if name is not None:
        return _streamed(layer, places, text.state(name), (steps, hidden))
    if layer.kind == "rnn":
        return f"pj_rnn({', '.join(places)}, NULL);"
    kept = text.scratch(layer.name)
    call = f"pj_{layer.kind}({', '.join(places)}, (int16_t *)(void *)({kept}), NULL);"
    return f"memset({kept}, 0, {2 * hidden});\n{call}"


def _streamed(layer: IntegerLayer, places: list[str], state: str, sizes: tuple[int, int]) -> str:
    """A layer that goes on from its state, and leaves its last one there."""
    steps, hidden = sizes
    small = state if layer.kind == "rnn" else f"{state} + {2 * hidden}"
    kept = [] if layer.kind == "rnn" else [f"(int16_t *)(void *)({state})"]
    call = f"pj_{layer.kind}({', '.join([*places, *kept, small])});"
    return f"{call}\nmemcpy({small}, {places[2]} + {(steps - 1) * hidden}, {hidden});"


def carry(text: Text, layer: IntegerLayer) -> str:
    """A piece of a sequence behind the end of the one before."""
    rows, length, channels = text.net.tensors[layer.inputs[0]].shape
    name = layer.attributes["state"]
    before = text.net.states[name].shape[1]
    places = f"{text.at(layer.inputs[0])}, {text.at(layer.output)}, {text.state(name)}"
    return f"pj_carry({places}, {rows}, {length * channels}, {before * channels});"

"""C of convolutions over volumes: a plane as any convolution has it, and how planes follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penjing.codegen.int8.convolutions import conv_structure
from penjing.codegen.int8.text import Text
from penjing.codegen.int8.weights import as_rows
from penjing.quantization.integers import IntegerLayer, Shape


def volume(text: Text, layer: IntegerLayer) -> str:
    """A convolution over volumes."""
    weight, attributes = layer.weights["weight"], layer.attributes
    source, result = (text.net.tensors[n].shape for n in (layer.inputs[0], layer.output))
    planes, groups = attributes["planes"], attributes["groups"]
    flat = np.moveaxis(weight, 1, 3).reshape(len(weight), *weight.shape[2:4], -1)
    plane = replace(
        layer,
        kind="conv",
        attributes={
            **attributes,
            **{key: attributes[key][1:] for key in ("stride", "padding", "dilation")},
        },
        weights={**layer.weights, "weight": flat},
    )
    shapes = (_plane(source, planes[0]), _plane(result, planes[1]))
    each = weight.shape[4] if groups > 1 else weight[0].size
    values = {
        "plane": conv_structure(text, plane, as_rows(weight), shapes=shapes),
        "planes": planes[0],
        "results": planes[1],
        "depth": weight.shape[1],
        "stride": attributes["stride"][0],
        "dilation": attributes["dilation"][0],
        "front": attributes["padding"][0][0],
        "spans": weight[0].size // each,
        "each": each,
        "made": len(weight) // groups,
    }
    x, y, scratch = (text.at(layer.inputs[0]), text.at(layer.output), text.scratch(layer.name))
    return f"pj_volume({text.structure(layer, 'volume', values)}, {x}, {y}, {scratch});"


def _plane(shape: Shape, planes: int) -> Shape:
    return (shape[0] // planes, shape[1], shape[2])

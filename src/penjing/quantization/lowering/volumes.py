"""Convolutions and pools over volumes in integers.

A volume lies in memory plane by plane: its rows are those of all planes, one below the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.quantization.integers import IntegerLayer, layer_scales
from penjing.quantization.lowering.builder import Builder, Value, shape_of

if TYPE_CHECKING:
    from penjing.quantization.lowering.pooling import Window


def pool(b: Builder, node: fx.Node, source: Value, window: Window) -> None:
    """A pool over the three dimensions of a volume.

    A maximum is taken along one dimension after the other. A mean is a convolution by ones, so that
    it is rounded once; it counts the padding.
    """
    if window.maximum:
        _maximum(b, node, source, window)
        return
    if any(window.padding) and not window.counted:
        raise b.refuse(node, "a mean that does not count the padding has no integer kernel")
    channels, *sizes = source.given
    results = b.given(node)
    for d, size in enumerate(sizes):
        reach = (results[d + 1] - 1) * window.stride[d] + window.kernel[d]
        if reach > size + 2 * window.padding[d]:
            raise b.refuse(node, "windows beyond its input (ceil_mode=True) have no integer kernel")
    made = b.make(node, results, channels_first=True, grid=b.grid(node))
    count = int(np.prod(window.kernel))
    scales = [b.tensors[t].scale for t in (source.tensor, made.tensor)]
    found = layer_scales(scales[0], np.ones(1), scales[1] * count, channels)
    attributes = {
        "stride": tuple(window.stride),
        "padding": tuple((p, p) for p in window.padding),
        "dilation": (1, 1, 1),
        "groups": channels,
        "planes": (sizes[0], results[1]),
    }
    weights: dict[str, NDArray[Any]] = {
        "weight": np.ones((channels, *window.kernel, 1), np.int8),
        "bias": np.zeros(channels, np.int32),
        **found,
    }
    b.add("volume", node, (source.tensor,), made.tensor, attributes, weights)


def _maximum(b: Builder, node: fx.Node, source: Value, window: Window) -> None:
    (channels, *sizes), results = source.given, b.given(node)[1:]
    at, tensor = [*sizes, channels], source.tensor
    for dim in reversed(range(len(sizes))):
        before, after = at[:dim], at[dim + 1 :]
        image = (int(np.prod(before)), at[dim], int(np.prod(after)))
        at[dim] = results[dim]
        tensor = _along(b, node, b.seen_as(tensor, image), (window, dim, results[dim]))
    given = (channels, *results)
    shape = shape_of(given, channels_first=True)
    name = b.seen_as(tensor, shape)
    b.tensors[name] = replace(b.tensors[name], given=given, channels_first=True)
    b.values[node.name] = Value(name, given, True)


def _along(b: Builder, node: fx.Node, tensor: str, what: tuple[Window, int, int]) -> str:
    """A maximum along the columns of an image."""
    window, dim, results = what
    rows, size, channels = b.tensors[tensor].shape
    kernel, stride, before = window.kernel[dim], window.stride[dim], window.padding[dim]
    if (kernel, stride, before) == (1, 1, 0):
        return tensor
    after = max(before, (results - 1) * stride + kernel - size - before)
    made = b.derived(tensor, "largest", (rows, results, channels), channels_first=False).tensor
    attributes = {
        "kernel": (1, kernel),
        "stride": (1, stride),
        "padding": ((0, 0), (before, after)),
    }
    b.layers.append(IntegerLayer("max", f"{node.name}_{dim}", (tensor,), made, attributes))
    return made

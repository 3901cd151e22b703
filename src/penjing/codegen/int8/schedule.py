"""What an integer program does in which order: kernels chosen, additions fused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penjing.codegen.int8.choice import Choice, choose, dense_kernel, is_host
from penjing.codegen.int8.kernels_16 import is_wide, kernel_16, pitch_16
from penjing.codegen.int8.parts import shared
from penjing.codegen.int8.steps import (
    FRAMED,
    LANED,
    WINDOWED,
    WORD,
    Frame,
    Optimize,
    Step,
    is_direct,
    is_plain,
    window_columns,
)
from penjing.codegen.targets import Target
from penjing.quantization.integers import IntegerLayer, IntegerNet


def schedule(net: IntegerNet, target: Target, optimize: Optimize) -> tuple[Step, ...]:
    """Choose kernels and fuse additions.

    Args:
        net: The network.
        target: What is compiled for.
        optimize: What counts most.

    Returns:
        Steps in the order of the layers.
    """
    partners = _partners(net)
    fused = {conv: add for add, conv in partners.items()}
    steps = []
    lanes = LANED if is_host(target) and optimize == "latency" else {}
    chosen = choose(net, target, optimize)
    for layer in net.layers:
        if is_wide(net, layer):
            kernel = kernel_16(layer, dense_kernel(layer, target, "flash"))
            steps.append(Step(layer, kernel, pitch=pitch_16(net, layer, kernel)))
        elif layer.name in fused.values():
            convolution = next(la for la in net.layers if partners[layer.name] == la.name)
            steps.append(_conv(net, convolution, chosen, layer))
        elif layer.name in fused:
            continue
        elif layer.kind == "conv":
            steps.append(_conv(net, layer, chosen, None))
        elif layer.kind == "volume":
            channels = net.tensors[layer.inputs[0]].shape[2]
            taps = int(np.prod(layer.weights["weight"].shape[1:4]))
            steps.append(Step(layer, "volume", pitch=taps * channels))
        else:
            steps.append(Step(layer, layer.kind + lanes.get(layer.kind, "")))
    threads = 1 if target.board is not None else target.threads
    return tuple(shared(net, step, threads) for step in steps)


def _partners(net: IntegerNet) -> dict[str, str]:
    """Addition -> the convolution that is its last operand and has no other reader."""
    made = {layer.output: n for n, layer in enumerate(net.layers)}
    readers: dict[str, int] = {}
    for layer in net.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    found = {}
    for layer in net.layers:
        if layer.kind != "add":
            continue
        last = max(layer.inputs, key=lambda name: made.get(name, -1))
        maker = net.layers[made[last]] if last in made else None
        alone = readers[last] == 1 and last not in net.outputs
        narrow = not is_wide(net, layer)
        if narrow and maker is not None and alone and maker.kind == "conv" and is_plain(maker):
            found[layer.name] = maker.name
    return found


def _conv(
    net: IntegerNet,
    layer: IntegerLayer,
    chosen: Mapping[str, Choice],
    add: IntegerLayer | None,
) -> Step:
    if not is_plain(layer):
        return Step(layer, "grouped")
    kernel, listed = chosen[layer.name].kernel, chosen[layer.name].listed
    frame = _frame(net, layer) if kernel in FRAMED else None
    depth = layer.weights["weight"][0].size
    direct = frame is not None or is_direct(net, layer, kernel)
    pitch = 0 if direct else -(-depth // WORD) * WORD
    if kernel in WINDOWED and not direct:
        pitch = window_columns(layer) * net.tensors[layer.inputs[0]].shape[2]
    if add is None:
        return Step(layer, kernel, pitch=pitch, frame=frame, listed=listed)
    residual = next(name for name in add.inputs if name != layer.output)
    return Step(layer, kernel, add, residual, pitch, frame, listed)


def _frame(net: IntegerNet, layer: IntegerLayer) -> Frame:
    """The frame of a convolution; where each pixel is its own column, all pixels are one row."""
    shape, (rows, columns, _) = net.tensors[layer.inputs[0]].shape, net.tensors[layer.output].shape
    tall, across = layer.weights["weight"].shape[1:3]
    (down, right), (apart, _) = layer.attributes["stride"], layer.attributes["dilation"]
    if is_direct(net, layer, "wide") and (tall, across) == (1, 1):
        pixels = shape[0] * shape[1]
        return Frame((1, pixels, shape[2]), (1, pixels), 1, pixels, 1)
    framed = ((rows - 1) * down + (tall - 1) * apart + 1, (columns - 1) * right + across)
    return Frame(shape, framed, rows, columns, right)

"""From a quantized network to its integer form: channels last, pads and clamps fused.

What only renames positions costs nothing: views, squeezes and permutations are run once on numbered
positions, and where the order in memory stays the same, the result is the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx

from penjing.graph.call import Call, op_name
from penjing.graph.folding import is_layer
from penjing.quantization.integers import IntegerNet, IntegerTensor
from penjing.quantization.lowering import (
    layers,
    movement,
    pointwise,
    pooling,
    products,
    recurrent,
)
from penjing.quantization.lowering.batches import Batch
from penjing.quantization.lowering.builder import Builder, Value
from penjing.quantization.network import CLAMPS, MASK, QuantizedNetwork
from penjing.quantization.placement import EMBEDDING
from penjing.quantization.recurrence import GATES

__all__ = ["integers"]


def integers(network: QuantizedNetwork) -> IntegerNet:
    """The integer form of a quantized network.

    Args:
        network: All of it must run in integers.

    Returns:
        The form that `reference` executes and the compiler writes as C.

    Raises:
        ExportError: A node is computed in floats, has no form here, or reads weights that are NaN
            or infinite; the message names it, its source line and the reason.
    """
    builder, program = Builder(network), network.program
    for node in program.graph.nodes:
        if node.name in network.fallbacks:
            raise builder.refuse(node, network.fallbacks[node.name])
    outputs: list[str] = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in program.inputs:
            _input(builder, node)
        elif node.op == "call_function":
            _visit(builder, node)
        elif node.op == "output":
            for source in node.args[0]:
                outputs.append(_output(builder, source, node))
                builder.shown.add(outputs[-1])
    return builder.net([builder.values[name].tensor for name in program.inputs], outputs)


_READ_LAST = frozenset({"linear", "layer_norm", "rms_norm", *GATES})
_NUMBER_BYTES = 4


def _input(builder: Builder, node: fx.Node) -> None:
    at = builder.network.program.inputs.index(node.name)
    builder.batches[node.name] = Batch(builder.batch_dims[at])
    if any(op_name(user) == EMBEDDING for user in node.users):
        _numbers(builder, node)
        return
    value = builder.make(
        node, builder.given(node), channels_first=not _is_read_last(node), grid=builder.grid(node)
    )
    builder.tensors[value.tensor] = replace(
        builder.tensors[value.tensor], batch=builder.batch_dims[at]
    )


def _numbers(builder: Builder, node: fx.Node) -> None:
    """An input of 32-bit numbers, which name rows of tables."""
    given, program = builder.given(node), builder.network.program
    tables = [Call(u).arg("weight") for u in node.users if op_name(u) == EMBEDDING]
    count = int(np.prod(given))
    builder.tensors[node.name] = IntegerTensor(
        node.name, (1, count, _NUMBER_BYTES), 1.0, 0, given, False,
        batch=builder.batches[node.name].dim, numbers=min(int(program.shape(t)[0]) for t in tables),
    )  # fmt: skip
    builder.values[node.name] = Value(node.name, given, False)


def _is_read_last(node: fx.Node) -> bool:
    """Whether what computes with a value first, a linear layer say, takes its last dimension."""
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop(0).users:
            if is_layer(user) or op_name(user) in _READ_LAST:
                return op_name(user) in _READ_LAST
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def _output(builder: Builder, source: Any, node: fx.Node) -> str:
    """The tensor of a result, which knows the shape and the batch that the network gives it."""
    value = builder.real(builder.value(source, node))
    batch, tensor = builder.batch(source), builder.tensors[value.tensor]
    if batch.share > 1:
        raise builder.refuse(source, "its result has samples and positions in one dimension")
    wanted = (value.given, value.channels_first and len(value.given) > 1, batch.dim)
    if (tensor.given, tensor.channels_first, tensor.batch) == wanted:
        return value.tensor
    if value.tensor in builder.shown or tensor.name in builder.network.program.inputs:
        index = np.arange(int(np.prod(tensor.shape)))
        first = wanted[1]
        value = builder.moved(value.tensor, index, value.given, channels_first=first, node=source)
        tensor = builder.tensors[value.tensor]
    builder.tensors[value.tensor] = replace(
        tensor, given=wanted[0], channels_first=wanted[1], batch=wanted[2]
    )
    return value.tensor


def _visit(builder: Builder, node: fx.Node) -> None:
    value, network, name = node.meta.get("val"), builder.network, op_name(node)
    if name in GATES:
        recurrent.lower(builder, node)
        return
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return
    if name == "getitem":
        _part(builder, node)
        return
    if recurrent.state(builder, node):
        return
    if name == "expand" and node.name in network.activations:
        source = node.all_input_nodes[0]
        if source.name in network.program.stored:
            pointwise.spread(builder, node, source)
            return
    if not any(n.name in builder.values for n in node.all_input_nodes):
        return
    builder.check_stored(node)
    builder.inherit(node)
    if name in CLAMPS and network.fused.get(node.all_input_nodes[0].name) == node.name:
        builder.values[node.name] = builder.value(node.all_input_nodes[0], node)
    elif is_layer(node):
        layers.lower(builder, node)
    else:
        _HANDLERS.get(name, pointwise.table)(builder, node)


def _part(builder: Builder, node: fx.Node) -> None:
    """One of several results."""
    maker = node.all_input_nodes[0]
    if op_name(maker) in GATES:
        recurrent.part(builder, node)
    elif op_name(maker).startswith("adaptive_max_pool"):
        pooling.adaptive(builder, node)
    else:
        movement.part(builder, node)


_HANDLERS: Mapping[str, Callable[[Builder, fx.Node], None]] = {
    **dict.fromkeys(movement.MOVES, movement.move),
    "add": pointwise.binary,
    "mul": pointwise.binary,
    "sub": pointwise.binary,
    "mean": pooling.mean,
    "sum": pooling.mean,
    "amax": pooling.largest,
    **dict.fromkeys((f"adaptive_avg_pool{d}d" for d in (1, 2, 3)), pooling.adaptive),
    **dict.fromkeys((f"{k}_pool{d}d" for k in ("avg", "max") for d in (1, 2, 3)), pooling.pool),
    "upsample_linear1d": pooling.resize,
    "upsample_bilinear2d": pooling.resize,
    "prelu": pointwise.prelu,
    EMBEDDING: pointwise.embedding,
    "group_norm": products.group_norm,
    "instance_norm": products.group_norm,
    "layer_norm": products.norm,
    "rms_norm": products.norm,
    "matmul": products.matmul,
    "bmm": products.matmul,
    "softmax": products.softmax,
    MASK: products.mask,
    "cat": movement.cat,
    "concat": movement.cat,
    "concatenate": movement.cat,
    "stack": movement.stack,
    "pad": movement.pad,
    "constant_pad_nd": movement.pad,
}

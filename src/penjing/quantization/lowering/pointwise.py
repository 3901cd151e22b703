"""Sums, products and functions of one value in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, op_name
from penjing.quantization.formats import Grid
from penjing.quantization.integers import (
    HIGH,
    LOW,
    WIDE,
    IntegerTensor,
    Scale,
    add_scales,
    scale_of,
    table_of,
    table_of_16,
)
from penjing.quantization.lowering.builder import Builder, Value, in_memory


def binary(b: Builder, node: fx.Node) -> None:
    """A sum, a difference or a product, of two values or of a value and a number."""
    if len(node.all_input_nodes) == 1 and not all(isinstance(a, fx.Node) for a in node.args[:2]):
        table(b, node)
        return
    name, grid, given = op_name(node), b.grid(node), b.given(node)
    operands: Sequence[Any] = node.args[:2]
    values = [b.real(b.values[n.name]) for n in operands if n.name in b.values]
    first = max(values, key=lambda v: b.tensors[v.tensor].size_bytes).channels_first
    reads = tuple(_operand(b, node, n, first) for n in operands)
    if name == "mul" and b.tensors[reads[0]].size_bytes < b.tensors[reads[1]].size_bytes:
        reads = reads[::-1]
    made = b.make(node, given, channels_first=first, grid=grid)
    left, right = (b.tensors[r].scale for r in reads)
    scales: Mapping[str, Any] = (
        {"result": scale_of(left * right / float(grid.scale))}
        if name == "mul"
        else add_scales(left, right, float(grid.scale), grid.bits)
    )
    if name == "sub":
        scales = {**scales, "right": _negative(scales["right"])}
    kind = "mul" if name == "mul" else "add"
    b.add(kind, node, reads, made.tensor, {**scales, **b.clamp(node, grid)})


def _negative(scale: Scale) -> Scale:
    return -scale[0], scale[1]


def _operand(b: Builder, node: fx.Node, operand: fx.Node, channels_first: bool) -> str:
    """An operand in the shape of the result; of a product also one number per channel."""
    given = b.given(node)
    if operand.name not in b.values:
        fqn = b.network.program.stored[operand.name]
        batch, rank = b.batch(node), len(b.network.program.shape(node))
        alone = batch.dim - (rank - len(b.network.program.shape(operand)))
        drop = alone if batch.share == 1 and alone >= 0 else None
        return b.constant(fqn, node, given, channels_first=channels_first, alone=drop)
    value = b.arranged(b.values[operand.name], channels_first=channels_first)
    shape, result = b.tensors[value.tensor].shape, _shape(value, given)
    per_channel = op_name(node) == "mul" and shape == (1, 1, result[-1]) and len(given) > 1
    if value.given == given or (per_channel and _lies_along(value, given)):
        return value.tensor
    spread = np.broadcast_to(b.positions(value), (1, *given))
    laid = in_memory(spread, channels_first=channels_first)
    return b.moved(value.tensor, laid, given, channels_first=channels_first, node=node).tensor


def _shape(value: Value, given: tuple[int, ...]) -> tuple[int, ...]:
    return (*given[1:], given[0]) if value.channels_first else given


def _lies_along(value: Value, given: tuple[int, ...]) -> bool:
    """Whether a value of one number per channel meets the channels of the result."""
    wanted = value.given[0] if value.channels_first else value.given[-1]
    return wanted == (given[0] if value.channels_first else given[-1])


def spread(b: Builder, node: fx.Node, stored: fx.Node) -> None:
    """Stored numbers, the same for every sample, such as the token of a class."""
    given, shape = b.given(node), b.network.program.shape(node)
    if shape[0] != b.samples:
        raise b.refuse(node, "its first dimension does not hold the samples")
    fqn = b.network.program.stored[stored.name]
    b.values[node.name] = Value(
        b.constant(fqn, node, given, channels_first=False), given, channels_first=False
    )


def prelu(b: Builder, node: fx.Node) -> None:
    """What is negative times a slope per channel; one slope for all is a table."""
    call, program = Call(node), b.network.program
    slopes = program.tensors[program.stored[call.arg("weight").name]].detach().double()
    source = b.real(b.value(call.arg("self"), node))
    if slopes.numel() > 1:
        b.check_images(node, call.arg("self"))
        source = b.arranged(source, channels_first=len(source.given) > 1)
    grid, tensor = b.grid(node), b.tensors[source.tensor]
    made = b.make(node, source.given, channels_first=source.channels_first, grid=grid)
    if slopes.numel() == 1:
        slope = float(slopes)

        def bent(x: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(x < 0, slope * x, x)

        values: NDArray[Any] = (
            table_of_16(bent, tensor.scale, float(grid.scale))
            if grid.bits == WIDE
            else table_of(bent, tensor, float(grid.scale), grid.zero_point)
        )
        b.add("lookup", node, (source.tensor,), made.tensor, weights={"table": values})
        return
    ratio = tensor.scale / float(grid.scale)
    found = [scale_of(abs(float(s)) * ratio) for s in slopes]
    signs = [-1 if s < 0 else 1 for s in slopes.tolist()]
    weights = {
        "multiplier": np.array([s * m for s, (m, _) in zip(signs, found, strict=True)], np.int32),
        "shift": np.array([shift for _, shift in found], np.int32),
    }
    b.add("prelu", node, (source.tensor,), made.tensor, {"positive": scale_of(ratio)}, weights)


def embedding(b: Builder, node: fx.Node) -> None:
    """Rows of a table on the grid of the result, by number."""
    call, grid = Call(node), b.grid(node)
    fqn = b.network.program.stored[call.arg("weight").name]
    if fqn not in b.network.weights:
        raise b.refuse(node, f"its table {fqn!r} is not held in integers")
    rows = b.network.weights[fqn].dequantize(b.network.integers(fqn), torch.float64)
    source = b.value(call.arg("indices"), node)
    made = b.make(node, b.given(node), channels_first=False, grid=grid)
    table = grid.quantize(rows).numpy().astype(np.int8)
    b.add("embedding", node, (source.tensor,), made.tensor, weights={"table": table})


def table(b: Builder, node: fx.Node) -> None:
    """A function of one value, as a table over all of its integers."""
    sources = [n for n in node.all_input_nodes if n.name in b.values]
    pointwise = isinstance(node.target, torch._ops.OpOverload) and (
        node.name in b.network.activations and len(node.all_input_nodes) == 1
    )
    source = b.real(b.value(sources[0], node)) if sources else None
    if source is None or not pointwise or b.given(node) != source.given:
        raise b.refuse(node, "it has no integer kernel yet")
    grid, tensor = b.grid(node), b.tensors[source.tensor]
    made = b.make(node, source.given, channels_first=source.channels_first, grid=grid)
    values = (_points if grid.bits == WIDE else _entries)(node, sources[0], tensor, grid)
    b.add("lookup", node, (source.tensor,), made.tensor, weights={"table": values})


def _entries(node: fx.Node, read: fx.Node, tensor: IntegerTensor, grid: Grid) -> NDArray[np.int8]:
    """One result per integer."""
    own = Grid(scale=torch.tensor(tensor.scale).double(), zero_point=tensor.zero_point)
    inputs = own.dequantize(torch.arange(LOW, HIGH + 1))
    results = Call(node).run(lambda n: n, {read: inputs})
    return np.asarray(grid.quantize(results).numpy()).astype(np.int8)


def _points(node: fx.Node, read: fx.Node, tensor: IntegerTensor, grid: Grid) -> NDArray[np.int16]:
    """Points with lines between them."""

    def function(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(Call(node).run(lambda n: n, {read: torch.from_numpy(x)}).numpy())

    return table_of_16(function, tensor.scale, float(grid.scale))

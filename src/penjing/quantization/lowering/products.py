"""Matrix products of two values, softmax and layer norm in integers."""

from __future__ import annotations

import numpy as np
from torch import fx

from penjing.graph.call import Call
from penjing.quantization.integers import norm_scales, scale_of, softmax_scales
from penjing.quantization.lowering.builder import Builder, Value


def matmul(b: Builder, node: fx.Node) -> None:
    """Products of matrices, one per position of the first dimension."""
    operands = [n for n in node.args[:2] if isinstance(n, fx.Node)]
    reads = [_matrix(b, node, n) for n in operands]
    (many, rows, inner), (other, again, columns) = (b.tensors[r].shape for r in reads)
    if many != other or inner != again:
        raise b.refuse(node, f"matrices {rows}x{inner} and {again}x{columns} do not pair off")
    grid = b.grid(node)
    made = b.make(node, b.given(node), channels_first=False, grid=grid, shape=(many, rows, columns))
    left, right = (b.tensors[r].scale for r in reads)
    result = {"result": scale_of(left * right / float(grid.scale))}
    b.add("matmul", node, (reads[0], reads[1]), made.tensor, result)


def _matrix(b: Builder, node: fx.Node, operand: fx.Node) -> str:
    if operand.name in b.values:
        return b.arranged(b.values[operand.name], channels_first=False).tensor
    fqn = b.network.program.stored[operand.name]
    given = tuple(b.network.program.shape(operand))
    return b.constant(fqn, node, given, channels_first=False)


def _last(b: Builder, node: fx.Node, dim: int) -> Value:
    """The input with one of its dimensions last in memory."""
    value = b.real(b.value(node.all_input_nodes[0], node))
    wanted = dim % value.rank
    if wanted not in {1, value.rank - 1}:
        raise b.refuse(node, "it works on a dimension that is neither the channels nor the last")
    return b.arranged(value, channels_first=wanted == 1 and value.rank > 2)


def softmax(b: Builder, node: fx.Node) -> None:
    """Softmax along one dimension."""
    source = _last(b, node, Call(node).arg("dim"))
    made = b.make(node, source.given, channels_first=source.channels_first, grid=b.grid(node))
    b.add(
        "softmax",
        node,
        (source.tensor,),
        made.tensor,
        softmax_scales(b.tensors[source.tensor].scale),
    )


def layer_norm(b: Builder, node: fx.Node) -> None:
    """Layer norm over the last dimension."""
    call = Call(node)
    if len(call.arg("normalized_shape")) != 1:
        raise b.refuse(node, "only a norm over the last dimension has an integer kernel")
    source, grid = _last(b, node, -1), b.grid(node)
    channels = b.tensors[source.tensor].shape[2]
    made = b.make(node, source.given, channels_first=False, grid=grid)
    stored = {
        key: np.full(channels, default) if call.arg(key) is None else
        b.network.program.tensors[b.network.program.stored[call.arg(key).name]].detach().double().numpy()
        for key, default in (("weight", 1.0), ("bias", 0.0))
    }  # fmt: skip
    attributes, weights = norm_scales(
        b.tensors[source.tensor].scale, float(grid.scale), float(call.arg("eps")),
        stored["weight"], stored["bias"],
    )  # fmt: skip
    b.add("layer_norm", node, (source.tensor,), made.tensor, attributes, weights)

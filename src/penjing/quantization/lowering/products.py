"""Matrix products of two values, softmax and norms in integers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from penjing.graph.call import Call, op_name
from penjing.quantization.attention import constant
from penjing.quantization.integers import (
    LOW,
    WIDE,
    norm_scales,
    scale_of,
    softmax_scales,
    softmax_scales_16,
)
from penjing.quantization.lowering.builder import Builder, Value

SHARES = {8: (1 / 256, LOW), WIDE: (2.0**-15, 0)}
"""Step and zero point of what a softmax gives, by its bits."""

_MOST_NORMED = {8: (2**31 - 1) // 255**2, WIDE: 2**13}
"""Values that a norm may run over: squares of 8 bits are summed in 32 bits, of 16 bits in 64."""
_LARGEST_EPSILON = 2**61


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
    source, grid = _last(b, node, Call(node).arg("dim")), b.grid(node)
    step, zero = SHARES[grid.bits]
    if (float(grid.scale), grid.zero_point) != (step, zero):
        said = f"shares have steps of 1/{1 / step:.0f} from 0 up, not {float(grid.scale):.4g}"
        raise b.refuse(node, said)
    made = b.make(node, source.given, channels_first=source.channels_first, grid=grid)
    (read,) = node.all_input_nodes
    seen = b.masks.get(read.name)
    weights = {} if seen is None else {"mask": _rows(b, node, seen, source)}
    logits = b.tensors[source.tensor]
    if grid.bits == WIDE:
        scales, tables = softmax_scales_16(logits.scale)
        b.add("softmax", node, (source.tensor,), made.tensor, scales, {**weights, **tables})
    else:
        found = softmax_scales(logits.scale)
        b.add("softmax", node, (source.tensor,), made.tensor, found, weights)


def mask(b: Builder, node: fx.Node) -> None:
    """Positions that the softmax behind does not see."""
    scores = node.all_input_nodes[0]
    if b.given(node) != b.given(scores):
        raise b.refuse(node, "its mask has more positions than what it hides")
    b.values[node.name] = b.value(scores, node)
    b.masks[node.name] = ~np.asarray(constant(b.network.program, Call(node).arg("mask")).numpy())


def _rows(b: Builder, node: fx.Node, seen: NDArray[np.bool_], source: Value) -> NDArray[np.int8]:
    """One row of the mask per run of the softmax; fewer where they repeat."""
    if source.channels_first:
        raise b.refuse(node, "a mask along channels has no integer kernel")
    shape = b.tensors[source.tensor].shape
    samples = np.broadcast_to(seen, np.broadcast_shapes(seen.shape, (1, *source.given)))
    if not (samples == samples[:1]).all():
        raise b.refuse(node, "its mask differs between the samples of a batch")
    planes = samples[0].reshape(shape)
    alike = bool((planes == planes[:1]).all())
    return np.ascontiguousarray(planes[:1] if alike else planes).astype(np.int8)


def norm(b: Builder, node: fx.Node) -> None:
    """Layer norm or RMS norm over the last dimension."""
    call, centred = Call(node), op_name(node) == "layer_norm"
    if len(call.arg("normalized_shape")) != 1:
        raise b.refuse(node, "only a norm over the last dimension has an integer kernel")
    source, grid = _last(b, node, -1), b.grid(node)
    channels = b.tensors[source.tensor].shape[2]
    made = b.make(node, source.given, channels_first=False, grid=grid)
    stored = {
        key: np.full(channels, default) if not call.has(key) or call.arg(key) is None else
        b.network.program.tensors[b.network.program.stored[call.arg(key).name]].detach().double().numpy()
        for key, default in (("weight", 1.0), ("bias", 0.0))
    }  # fmt: skip
    eps = torch.finfo(torch.float32).eps if call.arg("eps") is None else float(call.arg("eps"))
    scales = (b.tensors[source.tensor].scale, float(grid.scale))
    attributes, weights = norm_scales(*scales, eps, stored["weight"], stored["bias"])
    attributes["centred"] = int(centred)
    if channels > _MOST_NORMED[grid.bits] or attributes["epsilon"] > _LARGEST_EPSILON:
        said = f"over {channels} values in steps of {scales[0]:.3g} its sums may overflow"
        raise b.refuse(node, said)
    b.add("layer_norm", node, (source.tensor,), made.tensor, attributes, weights)

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

_MOST_CENTRED = {8: (2**31 - 1) // 2**14, WIDE: 2**13}
"""The same for a layer norm, whose squares are of integers as they are."""

_MOST_GROUPED = 2**20
"""The same for a group norm, which sums in 64 bits."""

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
    wanted = b.dim(node.all_input_nodes[0], dim) + 1
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
    """Layer norm or RMS norm over the last dimensions."""
    call, centred = Call(node), op_name(node) == "layer_norm"
    value = b.real(b.value(node.all_input_nodes[0], node))
    for dim in range(-len(call.arg("normalized_shape")), 0):
        b.dim(node, dim)
    source = b.arranged(value, channels_first=False)
    count = int(np.prod([int(s) for s in call.arg("normalized_shape")]))
    made = b.make(node, source.given, channels_first=False, grid=b.grid(node))
    most = (_MOST_CENTRED if centred else _MOST_NORMED)[b.grid(node).bits]
    attributes, weights = _norm_scales(b, node, (source.tensor, made.tensor), count, count, most)
    attributes["centred"] = int(centred)
    b.add("layer_norm", node, (source.tensor,), made.tensor, attributes, weights)


def group_norm(b: Builder, node: fx.Node) -> None:
    """Group norm, or instance norm, whose groups are the channels."""
    call = Call(node)
    b.check_images(node, call.arg("input"))
    source = b.real(b.value(call.arg("input"), node))
    source = b.arranged(source, channels_first=len(source.given) > 1)
    height, width, channels = b.tensors[source.tensor].shape
    groups = int(call.arg("num_groups", channels))
    made = b.make(node, source.given, channels_first=True, grid=b.grid(node))
    count = height * width * channels // groups
    pair = (source.tensor, made.tensor)
    attributes, weights = _norm_scales(b, node, pair, count, channels, _MOST_GROUPED)
    attributes["groups"] = groups
    b.add("group_norm", node, (source.tensor,), made.tensor, attributes, weights)


def _norm_scales(
    b: Builder, node: fx.Node, pair: tuple[str, str], count: int, gains: int, most: int
) -> tuple[dict[str, int], dict[str, NDArray[np.int32]]]:
    """Fixed-point numbers of a norm over `count` values, of which `gains` have a gain each."""
    call, program = Call(node), b.network.program
    stored = {}
    for key, default in (("weight", 1.0), ("bias", 0.0)):
        given = call.arg(key) if call.has(key) else None
        values = None if given is None else program.tensors[program.stored[given.name]]
        stored[key] = (
            np.full(gains, default)
            if values is None
            else values.detach().double().reshape(-1).numpy()
        )
    eps = torch.finfo(torch.float32).eps if call.arg("eps") is None else float(call.arg("eps"))
    source, result = (b.tensors[name].scale for name in pair)
    found = norm_scales(source, result, eps, stored["weight"], stored["bias"], count)
    if count > most or found[0]["epsilon"] > _LARGEST_EPSILON:
        said = f"over {count} values in steps of {source:.3g} its sums may overflow"
        raise b.refuse(node, said)
    return found

"""Cross-layer equalization: neighbouring layers share out the ranges of their channels.

A channel between two layers may be made smaller in the first by any factor and larger in the second
by the same one, as long as only a ReLU or nothing lies between. Then no channel is much wider than
the others, and one grid fits all.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.folding import TRANSPOSED, is_layer, like, stored_names

ROUNDS = 10

_PASSES = frozenset({"relu", "leaky_relu"})


@torch.no_grad()
def equalize(folded: Program, rounds: int = ROUNDS) -> Program:
    """Equalize every pair of layers that allows it.

    Args:
        folded: A folded program; only read.
        rounds: Passes over all pairs; a chain of layers settles after some.

    Returns:
        A program that computes the same up to rounding; weights that are zero stay zero.

    Source:
        Nagel et al. 2019, arXiv:1906.04721, equation 11. A clamp above (ReLU6) does not allow it.
        The bias counts in the range of the first layer's channel: else a channel that is nearly
        constant is blown up until nothing else is seen on its grid.
    """
    tensors = dict(folded.tensors)
    found = list(pairs(folded))
    for _ in range(rounds):
        for first, second in found:
            _equalize_pair(folded, tensors, first, second)
    return replace(folded, tensors=tensors)


def pairs(folded: Program) -> list[tuple[fx.Node, fx.Node]]:
    """Layers with nothing but a ReLU between them, and only each other as reader."""
    found = []
    for node in folded.graph.nodes:
        if not _simple(folded, node):
            continue
        reader = _only(node)
        if reader is not None and op_name(reader) in _PASSES:
            reader = _only(reader)
        if reader is not None and _simple(folded, reader):
            found.append((node, reader))
    return found


def _only(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _simple(folded: Program, node: fx.Node) -> bool:
    """A layer with a weight of its own that is not transposed."""
    if not is_layer(node) or op_name(node) in TRANSPOSED:
        return False
    call = Call(node)
    given = [n for n in (call.arg("weight"), call.arg("bias")) if n is not None]
    return all(n.name in folded.stored and len(n.users) == 1 for n in given)


def _equalize_pair(
    folded: Program, tensors: dict[str, Tensor], first: fx.Node, second: fx.Node
) -> None:
    one, other = stored_names(folded, first), stored_names(folded, second)
    groups = int(Call(second).arg("groups", 1)) if op_name(second) != "linear" else 1
    w1, w2 = tensors[one["weight"]], tensors[other["weight"]]
    channels = len(w1)
    if w2.shape[1] * groups != channels:
        return
    r1 = w1.flatten(1).abs().amax(1)
    if "bias" in one:
        r1 = torch.maximum(r1, tensors[one["bias"]].abs())
    w2_GVcK = w2.reshape(groups, len(w2) // groups, w2.shape[1], -1)
    r2 = w2_GVcK.abs().amax((1, 3)).flatten()
    product = (r1 * r2).sqrt()
    scale = torch.where((product > 0) & (r2 > 0), product / r2.clamp_min(1e-30), 1.0)
    scale = scale.clamp(1e-4, 1e4)
    tensors[one["weight"]] = like(w1, w1 / scale.view(-1, *(1,) * (w1.dim() - 1)))
    if "bias" in one:
        tensors[one["bias"]] = like(tensors[one["bias"]], tensors[one["bias"]] / scale)
    scaled = w2_GVcK * scale.view(groups, 1, -1, 1)
    tensors[other["weight"]] = like(w2, scaled.reshape(w2.shape))

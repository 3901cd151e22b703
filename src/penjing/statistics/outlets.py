"""Outlets: where a layer's output goes: a batch norm, an addition, a clipping activation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.norms import Norm, stored_norm
from penjing.statistics.grams import Layer

MATRIX = 2  # dimensions of an output (samples, channels)

_PASSES = {
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "contiguous",
    "clone",
    "alias",
}  # change no value in eval mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """What follows a layer.

    Args:
        norm: The batch norm that alone reads the layer's output.
        add: Node of the addition that alone reads what comes before it.
        other: Node of the addition's other operand.
        low: Values below are clipped by the activation that alone reads what comes before it.
        high: Values above are clipped likewise.
    """

    norm: Norm | None = None
    add: str | None = None
    other: str | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def clips(self) -> bool:
        """Whether an activation hides part of the values."""
        return self.low > -math.inf or self.high < math.inf


def outlets(program: Program, layers: Mapping[str, Layer]) -> dict[str, Outlet]:
    """Look behind every layer.

    Args:
        program: The graph they stand in.
        layers: Layers by node name.

    Returns:
        Outlets by node name. Norm and addition are None where there is none, it is shared, or
        something else reads the value too.
    """
    own = norms(program)
    return {name: _outlet(program, layer, own) for name, layer in layers.items()}


def norms(program: Program) -> dict[str, Norm]:
    """Every batch norm in eval mode whose running statistics nothing else reads, by node name."""
    ties = tied(program)
    found = {
        n.name: _norm(program, n, ties) for n in program.graph.nodes if op_name(n) == "batch_norm"
    }
    return {name: norm for name, norm in found.items() if norm is not None}


def tied(program: Program) -> frozenset[str]:
    """Qualified names of stored tensors that are read twice or share memory with another name."""
    placeholders = [(program.nodes[name], fqn) for name, fqn in program.stored.items()]
    memory = Counter(
        t.data_ptr() for t in (program.tensors[fqn] for fqn in program.stored.values()) if t.numel()
    )
    return frozenset(
        fqn
        for node, fqn in placeholders
        if len(node.users) > 1 or memory[program.tensors[fqn].data_ptr()] > 1
    )


def _outlet(program: Program, layer: Layer, own: Mapping[str, Norm]) -> Outlet:
    node = program.nodes[layer.node]
    reader = _only_reader(node)
    norm = None
    if reader is not None and op_name(reader) == "batch_norm":
        norm = own.get(reader.name)
        if norm is None or not (layer.kernel or len(program.shape(node)) == MATRIX):
            return Outlet()
        node, reader = reader, _only_reader(reader)
    if reader is None or op_name(reader) != "add" or Call(reader).arg("alpha", 1) != 1:
        low, high = _clip(reader)
        return Outlet(norm=norm, low=low, high=high)
    others = [n for n in reader.all_input_nodes if _source(n) is not _source(node)]
    if len(others) != 1 or program.shape(others[0]) != program.shape(node):
        return Outlet(norm=norm)
    low, high = _clip(_only_reader(reader))
    return Outlet(norm=norm, add=reader.name, other=others[0].name, low=low, high=high)


def _clip(reader: fx.Node | None) -> tuple[float, float]:
    """Range that an activation lets through; everything when it is not a clipping one."""
    name = "" if reader is None else op_name(reader)
    if reader is None or name not in {"relu", "relu6", "hardtanh"}:
        return -math.inf, math.inf
    if name == "hardtanh":
        return float(Call(reader).arg("min_val")), float(Call(reader).arg("max_val"))
    return 0.0, 6.0 if name == "relu6" else math.inf


def _norm(program: Program, node: fx.Node, ties: frozenset[str]) -> Norm | None:
    """Describe a batch norm in eval mode, unless its tensors are missing, computed or tied."""
    norm = stored_norm(program.stored, node)
    return None if norm is None or not ties.isdisjoint(norm.names) else norm


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The one node that reads `node`, looking through what changes no value."""
    readers = list(node.users)
    if len(readers) != 1 or readers[0].op != "call_function":
        return None
    reader = readers[0]
    if op_name(reader) in _PASSES and not Call(reader).arg("train", False):
        return _only_reader(reader)
    return reader


def _source(node: fx.Node) -> fx.Node:
    """What `node` repeats, looking backwards through what changes no value."""
    while op_name(node) in _PASSES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def per_channel(values: Tensor, layer: Layer, dims: int) -> Tensor:
    """A vector of channels, shaped to broadcast against an output of `dims` dimensions."""
    return values.view(-1, *(1,) * len(layer.kernel)) if layer.kernel and dims > 1 else values


@torch.no_grad()
def folded(value: Tensor, layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor]) -> Tensor:
    """Output of a layer after its norm."""
    if norm is None:
        return value
    scale, shift = (
        per_channel(v.to(value.dtype), layer, value.dim()) for v in norm.affine(tensors)
    )
    return value * scale + shift


def energy_per_position(
    values: Iterable[Tensor], layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor]
) -> float:
    """Mean over positions of the sum of squares over channels, of what a layer feeds.

    Args:
        values: Chunks of its output, or of the sum that it is added to.
        layer: Says where the channels are.
        norm: Applied first; None where the values lie behind it.
        tensors: Stored tensors, for the norm.

    Returns:
        The energy; 0 without values.
    """
    total = rows = 0.0
    for raw in values:
        value = folded(raw, layer, norm, tensors)
        channels = value.shape[layer.channel_dim] if value.dim() > 1 else value.numel()
        total += float(value.double().square().sum())
        rows += value.numel() / channels
    return total / max(rows, 1.0)

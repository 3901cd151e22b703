"""Peak memory of the activations, by liveness over the graph.

A tensor is live from the node that makes it to the last node that reads it or a view of it; inputs
from the start, outputs to the end. Views take nothing. An element-wise op or a norm whose input
dies with it and is as large writes over it, as every runtime that fuses does; inputs of the network
are never written over. Weights, and what is computed from weights alone, take nothing. A `reshape`
of a tensor that is not contiguous counts as a copy. Scratch memory inside an op is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from penjing.counts.macs import input_free
from penjing.counts.sizes import Shape, Sizes
from penjing.graph.call import op_name
from penjing.graph.capture import Program, concrete_size
from penjing.graph.functional import is_view

_COPIES_WHEN_SCATTERED = frozenset({"reshape", "flatten", "contiguous", "view_as", "unflatten"})
_SIZE_READERS = frozenset({"sym_size", "sym_numel", "sym_stride", "sym_storage_offset"})
_OVERWRITES = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})
_IDENTITIES = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


@dataclass(frozen=True, slots=True)
class Peak:
    """Where memory is highest.

    Args:
        ram_bytes: Bytes of all live activations at that point, batch one.
        node: Name of the graph node that runs there.
        live: Bytes of the tensors that are live there, by the node that made each.
    """

    ram_bytes: int
    node: str
    live: dict[str, int]


@dataclass(slots=True)
class _Buffer:
    """Memory of one tensor and of those written over it."""

    makers: list[fx.Node]
    start: int
    end: int
    given: bool = False
    readers: set[fx.Node] = field(default_factory=set)


class Liveness:
    """Lifetimes of all activations of a program; the graph is walked once, at the start.

    Args:
        program: A captured network.

    Example:
        >>> from torch import nn
        >>> from penjing.graph.capture import capture
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> Liveness(capture(net, torch.ones(2, 4))).peak().ram_bytes  # (4 + 8) float32
        48
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sizes = Sizes(program)
        self.order = list(program.graph.nodes)
        self.buffers = _lifetimes(program, self.order)

    def peak(self, shape: Shape | None = None) -> Peak:
        """Highest sum of the live activations at batch one.

        Args:
            shape: Shape of a node at the sizes of the example, for instance after a cut; None for
                the program as it is.

        Returns:
            Bytes, place and what is live there.
        """
        sizes = [max(self._bytes(maker, shape) for maker in b.makers) for b in self.buffers]
        change = [0] * (len(self.order) + 1)
        for buffer, size in zip(self.buffers, sizes, strict=True):
            change[buffer.start] += size
            change[buffer.end + 1] -= size
        best, at, live = 0, 0, 0
        for step, difference in enumerate(change):
            live += difference
            if live > best:
                best, at = live, step
        alive = {
            b.makers[0].name: size
            for b, size in zip(self.buffers, sizes, strict=True)
            if b.start <= at <= b.end and size
        }
        return Peak(best, self.order[at].name, alive)

    def _bytes(self, node: fx.Node, shape: Shape | None) -> int:
        value = node.meta.get("val")
        values = value if isinstance(value, (tuple, list)) else [value]
        widths = [v.element_size() for v in values if isinstance(v, Tensor)]
        shapes = self.sizes.outputs(node, shape)
        return sum(prod(s) * w for s, w in zip(shapes, widths, strict=True))


def peak_bytes(program: Program, shape: Shape | None = None) -> int:
    """Peak activation bytes of a program at batch one; see `Liveness` for where it is.

    Args:
        program: A captured network.
        shape: Shape of a node at the sizes of the example; None for the program as it is.

    Returns:
        Bytes, inputs and outputs included, weights not.
    """
    return Liveness(program).peak(shape).ram_bytes


def _lifetimes(program: Program, order: Sequence[fx.Node]) -> list[_Buffer]:
    constant = input_free(program)
    step = {node: i for i, node in enumerate(order)}
    first = min((step[program.nodes[name]] for name in program.inputs), default=0)
    held: dict[fx.Node, _Buffer] = {}
    buffers: list[_Buffer] = []
    for node in order:
        if node in constant or not _has_tensor(node):
            continue
        source = _source(node)
        if source is not None and (source in held or source in constant):
            if source in held:
                held[node] = held[source]
        elif (reused := _dying_twin(node, held, step)) is not None:
            reused.makers.append(node)
            held[node] = reused
        else:
            given = node.op == "placeholder"
            start = first if given else step[node]
            held[node] = _Buffer([node], start, start, given)
            buffers.append(held[node])
        if node in held:
            readers = [user for user in node.users if op_name(user) not in _SIZE_READERS]
            held[node].readers.update(readers)
            held[node].end = max([held[node].end, step[node], *(step[r] for r in readers)])
    return buffers


def _has_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return node.op != "output" and any(isinstance(v, Tensor) for v in values)


def _source(node: fx.Node) -> fx.Node | None:
    """The node whose memory `node` shares without writing to it, if any."""
    first = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(first, fx.Node):
        return None
    name = op_name(node)
    if name in _IDENTITIES:
        return first
    if not is_view(node):
        return None
    if name in _COPIES_WHEN_SCATTERED and not _is_contiguous(first.meta["val"]):
        return None
    if name == "to" and _differs(node.meta["val"], first.meta["val"]):
        return None
    return first


def _is_contiguous(value: Tensor) -> bool:
    expected = 1
    pairs = [
        (concrete_size(s), concrete_size(t))
        for s, t in zip(value.shape, value.stride(), strict=True)
    ]
    for size, stride in reversed(pairs):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _differs(one: Any, other: Any) -> bool:
    return bool(one.dtype != other.dtype or one.device != other.device)


def _dying_twin(
    node: fx.Node, held: dict[fx.Node, _Buffer], step: dict[fx.Node, int]
) -> _Buffer | None:
    """A buffer that `node` may write over: as large, not given by the caller, read last here."""
    if not _may_overwrite(node):
        return None
    value = node.meta["val"]
    for source in node.all_input_nodes:
        buffer = held.get(source)
        if buffer is None or buffer.given or any(step[r] > step[node] for r in buffer.readers):
            continue
        twin = buffer.makers[-1].meta["val"]
        if (
            isinstance(twin, Tensor)
            and _same_memory(value, twin)
            and _same_memory(value, source.meta["val"])
        ):
            return buffer
    return None


def _may_overwrite(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return torch.Tag.pointwise in node.target.tags or op_name(node) in _OVERWRITES


def _same_memory(one: Tensor, other: Tensor) -> bool:
    sizes = [[concrete_size(s) for s in t.shape] for t in (one, other)]
    return prod(sizes[0]) == prod(sizes[1]) and one.element_size() == other.element_size()

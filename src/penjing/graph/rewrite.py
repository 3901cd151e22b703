"""A cut graph: the same nodes, every size constant recomputed from the labels.

Never by arithmetic on the constant itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Dim
from penjing.graph.call import Call, Draft, op_name, output_shapes, size_value

Kept = Callable[[Dim], Tensor | None]
"""Positions of a dimension that stay; None when all do."""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Rewrites the calls of one graph.

    Args:
        analysis: Labels of the original graph.
        kept: Positions that stay.
    """

    analysis: Analysis
    kept: Kept

    def graph(self) -> fx.Graph:
        """The whole cut graph; node names are the original's."""
        new = fx.Graph()
        twins: dict[fx.Node, fx.Node] = {}
        for old in self.analysis.program.graph.nodes:
            twin = new.node_copy(old, lambda n: twins[n])
            twin.name = old.name
            twins[old] = twin
            if old.op == "call_function":
                self.rewrite(old, twin)
            twin.meta = (
                {**old.meta, "val": self._value(old)} if old.op != "output" else dict(old.meta)
            )
        return new

    def alone(self, old: fx.Node) -> Call:
        """One rewritten call that is in no graph; its arguments are those of the original."""
        draft: Any = Draft(old.target, tuple(old.args), dict(old.kwargs))
        self.rewrite(old, draft)
        return Call(draft)

    def count(self, dim: Dim) -> int:
        """How many positions stay."""
        kept = self.kept(dim)
        return len(dim) if kept is None else len(kept)

    def changed(self, dim: Dim) -> bool:
        """Whether a dimension loses positions."""
        return self.kept(dim) is not None

    def rewrite(self, old: fx.Node, twin: fx.Node) -> None:
        """Recompute the size constants of `twin`, the copy of `old`, in place."""
        touched = [
            dims for n in [*old.all_input_nodes, old] for dims in self.analysis.all_labels(n)
        ]
        if not any(self.changed(dim) for dims in touched for dim in dims):
            if op_name(old) == "view" and Call(old).has("size"):
                _reshape(twin)
            return
        rule = _RULES.get(op_name(old))
        if rule is not None:
            rule(self, Call(old), Call(twin))

    def _value(self, old: fx.Node) -> Any:
        value, labels = old.meta.get("val"), self.analysis.all_labels(old)
        if isinstance(value, Tensor):
            return self._resized(value, labels[0])
        if isinstance(value, (list, tuple)):
            return type(value)(
                [
                    self._resized(v, d) if isinstance(v, Tensor) else v
                    for v, d in zip(value, labels, strict=True)
                ]
            )
        return value

    def _resized(self, value: Tensor, labels: Sequence[Dim]) -> Tensor:
        if not any(self.changed(dim) for dim in labels):
            return value
        sizes = list(value.shape)  # symbols of a dynamic batch stay
        for axis, dim in enumerate(labels):
            if self.changed(dim):
                whole = isinstance(sizes[axis], int)
                sizes[axis] = (
                    self.count(dim) if whole else sizes[axis] * self.count(dim) // len(dim)
                )
        return value.new_empty(sizes)

    def labels(self, node: Any) -> list[Dim]:
        """Labels of a node's dimensions."""
        return self.analysis.labels(node)


Rewrite = Callable[[Rewriter, Call, Call], None]


def _sizes(
    rewriter: Rewriter, given: Sequence[Any], dims: Sequence[Dim], twin: fx.Node | Draft
) -> list[Any]:
    """Sizes with those of cut dimensions replaced; a symbolic size keeps its symbol, scaled."""
    out: list[Any] = []
    for size, dim in zip(given, dims, strict=True):
        if not rewriter.changed(dim) or size == -1:
            out.append(size)
        elif isinstance(size, fx.Node):
            out.append(_scaled(size, rewriter.count(dim), len(dim), twin))
        else:
            out.append(rewriter.count(dim))
    return out


def _scaled(
    size: fx.Node, numerator: int, denominator: int, twin: fx.Node | Draft
) -> fx.Node | int:
    """Compute size * numerator // denominator before `twin`, under names that no ATen op has."""
    value = size_value(size)
    if isinstance(twin, Draft):
        return int(value * numerator // denominator)
    with twin.graph.inserting_before(twin):
        product = twin.graph.create_node(
            "call_function", operator.mul, (size, numerator), name="kept_product"
        )
        product.meta["val"] = value * numerator
        quotient = twin.graph.create_node(
            "call_function", operator.floordiv, (product, denominator), name="kept_size"
        )
        quotient.meta["val"] = int(value * numerator // denominator)
    return quotient


def _reshape(twin: fx.Node) -> None:
    """Reshape in place of a view: kernels for other sizes may lay out memory in other ways."""
    size = Call(twin).arg("size")
    twin.target, twin.args, twin.kwargs = torch.ops.aten.reshape.default, (twin.args[0], size), {}


def _view(rewriter: Rewriter, old: Call, twin: Call) -> None:
    name = "size" if old.has("size") else "shape"
    sizes = _sizes(rewriter, twin.arg(name), rewriter.labels(old.node), twin.node)
    twin.node.target = torch.ops.aten.reshape.default
    twin.node.args, twin.node.kwargs = (twin.node.args[0], sizes), {}


def _unflatten(rewriter: Rewriter, old: Call, twin: Call) -> None:
    axis = old.arg("dim") % len(rewriter.labels(old.tensors[0]))
    given = twin.arg("sizes")
    dims = rewriter.labels(old.node)[axis : axis + len(given)]
    twin.set_arg("sizes", _sizes(rewriter, given, dims, twin.node))


def _made(rewriter: Rewriter, old: Call, twin: Call) -> None:
    twin.set_arg("size", _sizes(rewriter, twin.arg("size"), rewriter.labels(old.node), twin.node))


def _repeat(rewriter: Rewriter, old: Call, twin: Call) -> None:
    times, dims = list(twin.arg("repeats")), rewriter.labels(old.node)
    source = rewriter.labels(old.tensors[0])
    missing = len(dims) - len(source)
    for axis, dim in enumerate(dims):
        fresh = axis < missing or len(source[axis - missing]) == 1
        if fresh and rewriter.changed(dim):
            times[axis] = rewriter.count(dim)
    twin.set_arg("repeats", times)


def _before(rewriter: Rewriter, dim: Dim, position: int) -> int:
    """How many kept positions lie before `position`."""
    position = min(max(position + len(dim) if position < 0 else position, 0), len(dim))
    return rewriter.count(dim[:position])


def _slice(rewriter: Rewriter, old: Call, twin: Call) -> None:
    dim = rewriter.labels(old.tensors[0])[old.arg("dim", 0)]
    if not rewriter.changed(dim):
        return
    if old.has("step") and old.arg("step", 1) > 1:
        _strided(rewriter, old, twin)
        return
    for name in ("start", "end", "index"):
        bound = old.arg(name) if old.has(name) else None
        if isinstance(bound, int) and bound != 0:
            twin.set_arg(name, _before(rewriter, dim, bound))
    if old.has("length"):
        start = old.arg("start")
        twin.set_arg(
            "length",
            _before(rewriter, dim, start + old.arg("length")) - _before(rewriter, dim, start),
        )


def _strided(rewriter: Rewriter, old: Call, twin: Call) -> None:
    """Where the positions that a step picks lie among those that stay; evenly, or it is refused."""
    dim = rewriter.labels(old.tensors[0])[old.arg("dim", 0)]
    kept = rewriter.kept(dim)
    assert kept is not None  # the caller asked
    picked = range(len(dim))[slice(old.arg("start"), old.arg("end"), old.arg("step"))]
    there = [place for place, position in enumerate(kept.tolist()) if position in picked]
    steps = {b - a for a, b in pairwise(there)} or {1}
    twin.set_arg("start", there[0] if there else 0)
    twin.set_arg("end", there[-1] + 1 if there else 0)
    twin.set_arg("step", min(steps))


def _squeeze(rewriter: Rewriter, old: Call, twin: Call) -> None:
    """A dimension of which one position is left stays: it was none of size one."""
    dims = rewriter.labels(old.tensors[0])
    given = old.arg("dim", range(len(dims)))
    axes = given if isinstance(given, Sequence) else [given]
    if any(rewriter.changed(dims[axis]) and rewriter.count(dims[axis]) == 1 for axis in axes):
        left = [axis for axis in axes if not rewriter.changed(dims[axis])]
        twin.node.target = torch.ops.aten.squeeze.dims
        twin.node.args, twin.node.kwargs = (twin.node.args[0], left), {}


def _split(rewriter: Rewriter, old: Call, twin: Call) -> None:
    axis = old.arg("dim", 0)
    parts = rewriter.analysis.all_labels(old.node)
    if not any(rewriter.changed(part[axis]) for part in parts):
        return
    twin.node.target = torch.ops.aten.split_with_sizes.default
    sizes = [rewriter.count(part[axis]) for part in parts]
    twin.node.args, twin.node.kwargs = (twin.node.args[0], sizes, axis), {}


def _pad(rewriter: Rewriter, old: Call, twin: Call) -> None:
    amounts, dims = list(twin.arg("pad")), rewriter.labels(old.node)
    for axis, dim in enumerate(dims):
        place = 2 * (len(dims) - 1 - axis)
        if place + 1 < len(amounts) and rewriter.changed(dim):
            low, high = amounts[place], amounts[place + 1]
            amounts[place] = rewriter.count(dim[:low])
            amounts[place + 1] = rewriter.count(dim[len(dim) - high :])
    twin.set_arg("pad", amounts)


def _groups_left(rewriter: Rewriter, dim: Dim, groups: int) -> int:
    """How many of `groups` equal runs of a dimension keep any position."""
    kept = rewriter.kept(dim)
    return groups if kept is None else len(torch.unique(kept // (len(dim) // groups)))


def _convolution(rewriter: Rewriter, old: Call, twin: Call) -> None:
    groups = old.arg("groups", 1)
    if groups > 1:
        x, weight = rewriter.labels(old.arg("input")), rewriter.labels(old.arg("weight"))
        twin.set_arg("groups", _groups_left(rewriter, x[len(x) - len(weight) + 1], groups))


def _group_norm(rewriter: Rewriter, old: Call, twin: Call) -> None:
    channels = rewriter.labels(old.arg("input"))[1]
    twin.set_arg("num_groups", _groups_left(rewriter, channels, old.arg("num_groups")))


def _channel_shuffle(rewriter: Rewriter, old: Call, twin: Call) -> None:
    channels = rewriter.labels(old.arg("self"))[1]
    twin.set_arg("groups", _groups_left(rewriter, channels, old.arg("groups")))


def _layer_norm(rewriter: Rewriter, old: Call, twin: Call) -> None:
    shape = twin.arg("normalized_shape")
    dims = rewriter.labels(old.arg("input"))[-len(shape) :]
    twin.set_arg("normalized_shape", _sizes(rewriter, shape, dims, twin.node))


def _attention(rewriter: Rewriter, old: Call, twin: Call) -> None:
    if old.arg("scale") is None:  # the default depends on the size that is cut
        twin.set_arg("scale", 1 / math.sqrt(len(rewriter.labels(old.arg("query"))[-1])))


def _one_hot(rewriter: Rewriter, old: Call, twin: Call) -> None:
    twin.set_arg("num_classes", rewriter.count(rewriter.labels(old.node)[-1]))


_RULES: dict[str, Rewrite] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    **dict.fromkeys(
        (
            "expand",
            "zeros",
            "ones",
            "full",
            "empty",
            "new_zeros",
            "new_ones",
            "new_full",
            "new_empty",
            "broadcast_to",
        ),
        _made,
    ),
    **dict.fromkeys(("slice", "narrow", "select", "slice_scatter"), _slice),
    **dict.fromkeys(
        ("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"),
        _split,
    ),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        _convolution,
    ),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "squeeze": _squeeze,
    "one_hot": _one_hot,
    "unflatten": _unflatten,
    "repeat": _repeat,
    "group_norm": _group_norm,
    "channel_shuffle": _channel_shuffle,
    "scaled_dot_product_attention": _attention,
}


def sliced(value: Tensor, dims: Sequence[Dim], kept: Kept) -> Tensor:
    """The positions of a tensor that stay."""
    for axis, dim in enumerate(dims):
        positions = kept(dim)
        if positions is not None:
            value = value.index_select(axis, positions.to(value.device))
    return value


def renumbered(value: Tensor, dim: Dim, kept: Kept) -> Tensor:
    """Numbers of positions of a dimension as they are once it is cut; -1 for those that go."""
    positions = kept(dim)
    if positions is None:
        return value
    new = torch.full((len(dim),), -1)
    new[positions] = torch.arange(len(positions))
    return new[value.long()].to(value.dtype)


def masked(value: Tensor, dims: Sequence[Dim], kept: Kept) -> Tensor:
    """A tensor with the positions that go set to zero; the tensor itself when none do."""
    for axis, dim in enumerate(dims):
        positions = kept(dim)
        if positions is not None:
            gone = torch.ones(len(dim), dtype=torch.bool)
            gone[positions] = False
            value = value.index_fill(axis, torch.nonzero(gone).flatten().to(value.device), 0)
    return value


def shape_after(analysis: Analysis, kept: Kept, node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's (first) output after the cut, at the example's sizes."""
    original = output_shapes(node)[0] or ()
    positions = [kept(dim) for dim in analysis.labels(node)]
    return tuple(size if p is None else len(p) for size, p in zip(original, positions, strict=True))

"""Trial cuts: whether the rewritten form of every data movement does what the original did.

Whether it does depends on the op, its arguments, and how the units of groups lie in the dimensions
around it. Identical blocks of a network agree in all of these, so each *situation* is tried once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Dim
from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.groups import Units
from penjing.graph.movement import movable
from penjing.graph.rewrite import Kept, Rewriter, sliced
from penjing.graph.routes import tensors

PASSES = 3
"""Trial cuts in a row that must be proved: a rolled dimension passes one in eight by chance."""

TURNS = frozenset(("transpose", "permute", "t", "unsqueeze", "movedim", "swapaxes"))
"""Ops whose arguments name axes, never sizes or positions."""

SIZED = frozenset(("view", "reshape", "_unsafe_view", "flatten", "unflatten"))
"""Ops whose arguments are the sizes of their output, rewritten from its labels and nothing else."""

ALONG_ONE = frozenset(("select", "slice", "narrow", "squeeze"))
"""Ops that do nothing to any axis but `dim`."""

_EXACT_BELOW = 2**24  # integers that float32 holds


class KeptPositions:
    """Positions of a dimension that stay; remembered, since a dimension is asked for often.

    Args:
        resolve: Labels of a dimension in free atoms.
        gone: Atoms that are cut.
    """

    def __init__(self, resolve: Callable[[Dim], Dim], gone: NDArray[np.bool_]) -> None:
        self._resolve, self._gone = resolve, gone
        self._seen: dict[int, tuple[Dim, Tensor | None]] = {}  # holds dimensions: ids stay taken

    def __call__(self, dim: Dim) -> Tensor | None:
        """Kept positions, int64, ascending; None when all stay."""
        if dim.shape[1] == 0:
            return None
        known = self._seen.get(id(dim))
        if known is None:
            resolved = self._resolve(dim)  # one array for many dimensions
            same = self._seen.get(id(resolved))
            kept = self._found(resolved) if same is None else same[1]
            known = self._seen[id(dim)] = (dim, kept)
            self._seen[id(resolved)] = (resolved, kept)
        return known[1]

    def _found(self, resolved: Dim) -> Tensor | None:
        gone = ((resolved >= 0) & self._gone[resolved]).any(axis=1)
        return torch.from_numpy(np.flatnonzero(~gone)) if gone.any() else None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How units lie in one dimension.

    Args:
        form: Which unit of which of the groups lies where; equal for dimensions alike.
        groups: Numbers of these groups, in the order of their first positions.
    """

    form: Hashable
    groups: tuple[int, ...]


class Trials:
    """Trials of the data movement of one network; what passed is not tried again.

    Args:
        analysis: Labels of every tensor.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._verdicts: dict[Hashable, bool] = {}

    def failed(self, units: Sequence[Units]) -> list[fx.Node]:
        """Data movement that cannot be rewritten when units of these groups go.

        Args:
            units: All groups.

        Returns:
            Nodes of the original graph, in order.
        """
        tried = [node for node in self._analysis.moves if not self._spares_cuts(node)]
        if not tried or not units:
            return []
        layouts = _Layouts(self._analysis, units)
        cuts = [_Cut(self._analysis, trial) for trial in range(PASSES)]
        failed = []
        for node in tried:
            situation, groups = self._situation(node, layouts, units)
            if not groups:
                continue
            if situation not in self._verdicts:
                self._verdicts[situation] = self._passes(node, [units[g] for g in groups], cuts)
            if not self._verdicts[situation]:
                failed.append(node)
        return failed

    def _situation(
        self, node: fx.Node, layouts: _Layouts, units: Sequence[Units]
    ) -> tuple[Hashable, list[int]]:
        """What a verdict on a node depends on, and the groups around it."""
        groups: dict[int, int] = {}
        around: list[Hashable] = []
        for neighbour in [*node.all_input_nodes, node]:
            for labels in self._analysis.all_labels(neighbour):
                for dim in labels:
                    layout = layouts.of(dim)
                    numbers = [groups.setdefault(g, len(groups)) for g in layout.groups]
                    around.append((layout.form, *numbers))
        sizes = tuple((units[g].group.units, units[g].group.least) for g in groups)
        return (self._analysis.signature(node), tuple(around), sizes), list(groups)

    def _spares_cuts(self, node: fx.Node) -> bool:
        """Whether the op gives every axis that can be cut, or its parts, as they are.

        It is then as good after any cut: what is kept of an output is the product of what is kept
        of the parts that it is made of, in the same order.

        An axis whose labels were left behind on the way is no such case.
        """
        name = op_name(node)
        if name in SIZED or name in TURNS:
            return self._analysis.is_tiled(node)
        if name not in ALONG_ONE:
            return False
        atoms, dims = self._analysis.atoms, self._analysis.labels(node.all_input_nodes[0])
        axis = Call(node).arg("dim", 0) if Call(node).has("dim") else None
        if not isinstance(axis, int) or atoms.is_live(dims[axis]):
            return False
        before, after = (
            sorted(id(dim) for dim in labels if atoms.is_live(dim))
            for labels in (dims, self._analysis.labels(node))
        )
        return before == after

    def _passes(self, node: fx.Node, around: Sequence[Units], cuts: Sequence[_Cut]) -> bool:
        """Cut a random half of every group around a node, a few times."""
        rehearsal = _Rehearsal(self._analysis, node)
        return all(rehearsal.is_alike(cut.of(around)) for cut in cuts)


class _Cut:
    """One trial cut of a network, in which groups are halved as they are asked for.

    Args:
        analysis: Labels of every tensor.
        seed: Which units go depends on it.
    """

    def __init__(self, analysis: Analysis, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._gone = np.zeros(len(analysis.atoms), bool)
        self._halved: set[str] = set()
        self._kept = KeptPositions(analysis.atoms.resolve, self._gone)

    def of(self, groups: Sequence[Units]) -> KeptPositions:
        """What stays of the dimensions that units of no other groups lie in."""
        for one in groups:
            group = one.group
            if group.name not in self._halved:
                self._halved.add(group.name)
                count = min(group.units // 2, group.units - group.least)
                self._gone[one.atoms[self._generator.permutation(group.units)[:count]]] = True
        return self._kept


class _Rehearsal:
    """A data movement that is run alone, on numbers that all differ.

    Args:
        analysis: Labels of the original graph.
        node: One of its nodes.
    """

    def __init__(self, analysis: Analysis, node: fx.Node) -> None:
        self._analysis, self._node = analysis, node
        self._values: dict[fx.Node, Any] = {}
        sources = movable(Call(node))
        first = 1  # every value differs from all others and from the zeros of padding
        for argument in node.all_input_nodes:
            if argument in sources:
                shape = analysis.program.shape(argument)
                after = first + math.prod(shape)
                exact = torch.float32 if after < _EXACT_BELOW else torch.float64
                self._values[argument] = torch.arange(first, after, dtype=exact).reshape(shape)
                first = after
            else:
                self._values[argument] = analysis.value(argument)
        self._want = tensors(Call(node).run(self._values.__getitem__))

    def is_alike(self, kept: Kept) -> bool:
        """Whether the rewritten form does to what is kept as the original did."""
        short = {
            node: sliced(value, self._analysis.labels(node), kept) if is_tensor(node) else value
            for node, value in self._values.items()
        }
        rewritten = Rewriter(self._analysis, kept).alone(self._node)
        try:
            got = tensors(rewritten.run(short.__getitem__))
        except (RuntimeError, IndexError, ValueError):
            return False
        labels = self._analysis.all_labels(self._node)
        return len(got) == len(self._want) and all(
            torch.equal(g, sliced(w, dims, kept))
            for g, w, dims in zip(got, self._want, labels, strict=True)
        )


class _Layouts:
    """Layouts of dimensions, remembered."""

    def __init__(self, analysis: Analysis, units: Sequence[Units]) -> None:
        self._atoms = analysis.atoms
        self._owner = np.full(len(self._atoms), -1)
        self._unit = np.zeros(len(self._atoms), np.int64)
        for number, one in enumerate(units):
            self._owner[one.atoms] = number
            self._unit[one.atoms] = np.arange(len(one.atoms))
        self._seen: dict[int, _Layout] = {}

    def of(self, dim: Dim) -> _Layout:
        """The layout of one dimension of the network."""
        if dim.shape[1] == 0:
            return _Layout(len(dim), ())
        if id(dim) not in self._seen:
            self._seen[id(dim)] = self._found(dim)
        return self._seen[id(dim)]

    def _found(self, dim: Dim) -> _Layout:
        resolved = self._atoms.resolve(dim)
        owner = np.where(resolved >= 0, self._owner[resolved], -1)
        if not (owner >= 0).any():
            return _Layout(len(dim), ())
        groups, first, local = np.unique(owner, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.argsort(order)[local].reshape(owner.shape)
        unit = np.where(owner >= 0, self._unit[resolved], -1)
        form = (owner.shape, np.where(owner >= 0, rank, -1).tobytes(), unit.tobytes())
        return _Layout(form, tuple(int(g) for g in groups[order] if g >= 0))

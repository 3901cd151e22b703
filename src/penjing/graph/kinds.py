"""What units are: channels, neurons, heads, dimensions of a head, an embedding, experts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Dim
from penjing.graph.call import Call, is_tensor, op_name
from penjing.graph.routing import LOOKUPS
from penjing.plan import Group, Kind

MATRIX = 2  # dimensions of a plain matrix product, which is no attention

_PRODUCTS = {"matmul", "bmm", "baddbmm"}
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
_CONVOLUTIONS |= {f"conv_transpose{n}d" for n in (1, 2, 3)}
_RECURRENT = {f"{name}{end}" for name in ("lstm", "gru") for end in ("", "_cell")}
_RECURRENT |= {f"rnn_{name}{end}" for name in ("tanh", "relu") for end in ("", "_cell")}


class Kinds:
    """What the atoms of a network meet: products, convolutions, norms, tables, routing.

    Args:
        analysis: Labels of every tensor.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._heads, self._dims, self._convolved, self._normed = (
            np.zeros(len(analysis.atoms), bool) for _ in range(4)
        )
        self._chosen = np.zeros(len(analysis.atoms), bool)
        self._recurrent: set[str] = set()
        self._tables: set[str] = set()
        self._linear: set[str] = set()
        for node in analysis.program.graph.nodes:
            if node.op == "call_function":
                self._visit(node)

    def of(self, group: Group, atoms: NDArray[np.int64]) -> Kind:
        """Kind of a group's units.

        Args:
            group: The group.
            atoms: Its units.
        """
        tensors = {part.tensor for part in group.slices}
        if any(part.tensor in self._recurrent and part.dim == 0 for part in group.slices):
            return "hidden units"
        if self._chosen[atoms].any():
            return "experts"
        if self._heads[atoms].any():
            return "heads"
        stream = group.scope == "residual"
        if self._dims[atoms].any() and (not stream or self._unread(group)):
            return "head dims"
        plain = not self._convolved[atoms].any()
        if plain and (tensors & self._tables or (stream and self._normed[atoms].any())):
            return "embedding"
        name = group.name.partition("#")[0]
        made = not {name, f"{name}.weight"}.isdisjoint(self._linear)
        return "neurons" if made and plain else "channels"

    def _unread(self, group: Group) -> bool:
        """Whether no layer reads the units: a rotation adds as a stream does, but only attends."""
        parameters = self._analysis.program.parameters
        return all(part.dim == 0 for part in group.slices if part.tensor in parameters)

    def _visit(self, node: fx.Node) -> None:
        name = op_name(node)
        numbered = self._analysis.numbers(node)
        self._mark(self._chosen, [] if numbered is None else [numbered])
        if name in _RECURRENT:
            self._recurrent |= set(self._stored(node.all_input_nodes))
        elif name == "scaled_dot_product_attention":
            call = Call(node)
            query, key, value = (
                self._analysis.labels(call.arg(n)) for n in ("query", "key", "value")
            )
            self._mark(self._heads, [*query[:-2], *key[:-2], *value[:-2]])
            self._mark(self._dims, [query[-1], value[-1]])
        elif name in _PRODUCTS and self._is_attention(node):
            left, right = (self._analysis.labels(n) for n in node.all_input_nodes[-2:])
            self._mark(self._heads, [*left[:-2], *right[:-2]])
            self._mark(self._dims, [*left[-2:], *right[-2:]])
        else:
            self._visit_layer(node, name)

    def _visit_layer(self, node: fx.Node, name: str) -> None:
        if name in _CONVOLUTIONS:
            self._mark(self._convolved, self._analysis.labels(Call(node).arg("input"))[1:2])
        elif name in {"layer_norm", "rms_norm"}:
            self._mark(self._normed, self._analysis.labels(Call(node).arg("input"))[-1:])
        elif name == "embedding":
            self._tables |= set(self._stored(node.all_input_nodes))
        elif name == "linear":
            self._linear |= set(self._stored(node.all_input_nodes))
        elif name in _PRODUCTS or name == "einsum":
            self._linear |= set(self._stored(self._table(n) for n in node.all_input_nodes))

    def _is_attention(self, node: fx.Node) -> bool:
        """Whether both operands depend on the inputs and are stacks of matrices."""
        operands = [n for n in node.all_input_nodes if is_tensor(n)][-2:]
        return len(operands) == 2 and all(
            not self._analysis.is_constant(self._table(n))
            and len(self._analysis.labels(n)) > MATRIX
            for n in operands
        )

    def _table(self, node: fx.Node) -> fx.Node:
        """What a tensor was looked up in and moved from; the node itself where it was not."""
        while (
            isinstance(source := next(iter(node.args), None), fx.Node)
            and is_tensor(source)
            and (op_name(node) in LOOKUPS or self._analysis.is_move(node))
        ):
            node = source
        return node

    def _stored(self, nodes: Iterable[fx.Node]) -> list[str]:
        stored = self._analysis.program.stored
        return [stored[n.name] for n in nodes if n.name in stored]

    def _mark(self, marks: NDArray[np.bool_], dims: Iterable[Dim]) -> None:
        for dim in dims:
            tiles = self._analysis.atoms.tiles(dim)
            for tile in tiles or ():
                marks[tile.atoms] = True
            if tiles is None:
                live = self._analysis.atoms.live(dim)
                marks[live[live >= 0]] = True

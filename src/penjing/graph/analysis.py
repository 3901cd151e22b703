"""Labels of every tensor of a captured network: one walk over the graph in order."""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch import Tensor, fx

from penjing.graph.axes import Atoms, Dim, Reason, fixed
from penjing.graph.call import Call, is_pointwise, is_tensor, output_shapes, size_value
from penjing.graph.capture import DATA_ROWS, Program, is_hinted, unbacked
from penjing.graph.movement import Move, is_movement, movable
from penjing.graph.recurrent import RECURRENT
from penjing.graph.routes import Route, Shape, Strided, by_numbers, by_strides, signature
from penjing.graph.routing import LOOKUPS, ROUTING, Numbers
from penjing.graph.rules import (
    EXPANDERS,
    MAKERS,
    RULES,
    Labels,
    Site,
    dead,
    fixed_outputs,
    locked,
    pointwise,
)

Verdicts = dict[tuple[Any, ...], bool]


class Analysis:
    """Labels of a program's tensors.

    Args:
        program: The captured network.

    Attributes:
        program: The captured network.
        atoms: The algebra with everything that the ops did to it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.atoms = Atoms()
        self._labels: dict[str, list[Labels]] = {}
        self._constant: dict[str, bool] = {}
        self._values: dict[str, Any] = {}
        self._shapes: dict[str, list[Shape | None]] = {}
        self._signatures: dict[str, Hashable] = {}
        self._moves: dict[str, fx.Node] = {}
        self._tiled: set[str] = set()
        self._numbers = Numbers(self.atoms, self._carries)
        self._verdicts: Verdicts = {}
        self._routes: dict[Hashable, list[Route] | None] = {}
        self._tied: dict[tuple[Any, ...], Labels] = {}
        for node in program.graph.nodes:
            self._visit(node)
        self._lock_unread()

    # -------------------------------------------------------------- reading

    def labels(self, node: fx.Node) -> Labels:
        """Labels of a node's dimensions; of the first output where there are several."""
        return self._labels[node.name][0] if self._labels[node.name] else []

    def all_labels(self, node: fx.Node) -> list[Labels]:
        """Labels of each of a node's outputs."""
        return self._labels[node.name]

    def is_constant(self, node: fx.Node) -> bool:
        """Whether a node does not depend on the user's inputs."""
        return self._constant[node.name]

    def numbers(self, node: fx.Node, output: int = 0) -> Dim | None:
        """The dimension whose positions a node's integers are; None where they are just data."""
        return self._numbers.of(node, output)

    def is_move(self, node: fx.Node) -> bool:
        """Whether a node was followed as data movement."""
        return node.name in self._moves

    def is_tiled(self, node: fx.Node) -> bool:
        """Whether a move takes whole dimensions apart and together, and nothing else."""
        return node.name in self._tiled

    @property
    def moves(self) -> Collection[fx.Node]:
        """Nodes that were followed as data movement, in order."""
        return self._moves.values()

    def signature(self, node: fx.Node) -> Hashable:
        """What a call does to positions depends on: equal for calls that differ in labels alone."""
        known = self._signatures.get(node.name)
        if known is None:
            known = self._signatures[node.name] = signature(Call(node), self._shape, self.value)
        return known

    def value(self, node: fx.Node) -> Any:
        """Value of a node that is a size or does not depend on the inputs, computed once.

        Raises:
            KeyError: The node depends on the inputs.
        """
        if not is_tensor(node) and not isinstance(node.meta.get("val"), (list, tuple)):
            return size_value(node)
        if node.name not in self._values:
            if node.op == "placeholder":
                self._values[node.name] = (
                    self.program.tensors[self.program.stored[node.name]].detach().cpu()
                )
            else:
                self._values[node.name] = Call(node).run(self.value)
        return self._values[node.name]

    # -------------------------------------------------------------- the walk

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "call_function":
            constant = self._constant
            constant[node.name] = all(constant[n.name] for n in node.all_input_nodes)
            self._labels[node.name] = self._call(node)
        elif node.op == "output":
            for out in node.all_input_nodes:
                numbered = self.numbers(out)
                for dim in [*self.labels(out), *([] if numbered is None else [numbered])]:
                    self.atoms.lock(dim, Reason("network output"))

    def _shapes_of(self, node: fx.Node) -> list[Shape | None]:
        """Shapes of a node's outputs at the example's sizes; asked of symbols once."""
        known = self._shapes.get(node.name)
        if known is None:
            known = self._shapes[node.name] = output_shapes(node)
        return known

    def _shape(self, node: fx.Node) -> Shape:
        return self._shapes_of(node)[0] or ()

    def _placeholder(self, node: fx.Node) -> None:
        fqn = self.program.stored.get(node.name)
        self._constant[node.name] = fqn is not None
        if fqn is None:
            shape = self._shape(node)
            dims = [self.atoms.new(size) if size > 1 else fixed(size) for size in shape]
            for dim in dims:
                self.atoms.lock(dim, Reason("network input"))
            self._labels[node.name] = [dims]
            return
        tensor = self.program.tensors[fqn]
        key = tensor.data_ptr(), tensor.shape, tensor.stride()
        if key not in self._tied or tensor.numel() == 0:
            self._tied[key] = self._stored_dims(tensor)
        self._labels[node.name] = [self._tied[key]]

    def _lock_unread(self) -> None:
        """Leave alone what only training reads: a cut of it could not be proved."""
        placeholders = [self.program.nodes[name] for name in self.program.stored]
        read = {id(self._labels[node.name][0]) for node in placeholders if node.users}
        for node in placeholders:
            if id(self._labels[node.name][0]) not in read:
                for dim in self.labels(node):
                    self.atoms.lock(dim, Reason("not read in eval mode"))

    def _stored_dims(self, tensor: Tensor) -> Labels:
        """Fresh labels; integer tensors are indices: immovable."""
        numbers = tensor.is_floating_point() or tensor.is_complex()
        new = self.atoms.new
        return [new(size) if size > 1 and numbers else fixed(size) for size in tensor.shape]

    def _call(self, node: fx.Node) -> list[Labels]:
        if node.target is operator.getitem:
            source = node.args[0]
            assert isinstance(source, fx.Node)  # getitem reads a node
            number = node.args[1]
            assert isinstance(number, int)  # of an op's output
            self._numbers.pick(node, source, number)
            return [self._labels[source.name][number]]
        shapes = self._shapes_of(node)
        known = [() if shape is None else shape for shape in shapes]
        if shapes == [None] * len(shapes):
            return []
        site = Site(Call(node), self.atoms, self.labels, self.is_constant, self.numbers, known)
        labels = self._outputs(site)
        self._numbers.visit(site)
        return labels

    def _outputs(self, site: Site) -> list[Labels]:
        """Labels of the outputs of a call."""
        node, name = site.call.node, site.call.name
        if any(DATA_ROWS in shape for shape in site.shapes) and counts_by_data(node):
            return locked(site, "gives a number of rows that depends on the data")
        if name in MAKERS or name in EXPANDERS:
            return RULES[name](site)
        if dead(site) and all(self.numbers(n) is None for n in site.call.tensors):
            return fixed_outputs(site)
        if name in LOOKUPS and any(not self.is_constant(n) for n in integers(site.call)):
            return LOOKUPS[name](site)
        rule = RULES.get(name) or RECURRENT.get(name) or ROUTING.get(name)
        if rule is not None:
            return rule(site)
        if is_pointwise(node):
            return pointwise(site)
        if name == "repeat":
            return self._repeat(site)
        return self._movement(site)

    def _repeat(self, site: Site) -> list[Labels]:
        """`repeat` of a dimension of size one is an expand; of any other, movement."""
        shape = self._shape(site.call.tensors[0])
        times = site.call.arg("repeats")
        missing = len(times) - len(shape)
        grows = [i for i, t in enumerate(times) if t != 1]
        if all(i < missing or shape[i - missing] == 1 for i in grows):
            return RULES["expand"](site)
        return self._movement(site)

    def _movement(self, site: Site) -> list[Labels]:
        sources = movable(site.call)
        indices = [n for n in site.call.tensors if n not in sources]
        if any(not self.is_constant(n) for n in indices):
            return locked(site, "gathers by data")
        routes = self._routes_of(site.call)
        if routes is None:
            return locked(site)
        self._moves[site.call.node.name] = site.call.node
        if all(isinstance(route, Strided) and route.is_bijection for route in routes):
            self._tiled.add(site.call.node.name)
        move = Move(sources, self.labels, self.atoms, site.reason, indexed=bool(indices))
        return [move.output(route) for route in routes]

    def _routes_of(self, call: Call) -> list[Route] | None:
        """Where the outputs' positions come from; None for an op that does not only move values."""
        shape = self._shape
        key = self.signature(call.node)
        if key not in self._routes:
            found = by_strides(call, shape, self.value)
            if found is None and self._verdict(call):
                found = by_numbers(call, movable(call), shape, self.value)
            self._routes[key] = found
        return self._routes[key]

    def _verdict(self, call: Call) -> bool:
        """Whether the op is data movement; one answer per op and arguments other than sizes."""
        key = (
            call.node.target,
            str([a for a in call.node.args if not isinstance(a, (fx.Node, list, tuple))]),
            str(dict(call.node.kwargs)),
        )
        if key not in self._verdicts or call.name in {"index", "index_put"}:
            self._verdicts[key] = is_movement(call, self._shape, self.value)
        return self._verdicts[key]

    def _carries(self, site: Site, node: fx.Node) -> bool:
        """Whether a call only moves the values of one of its arguments."""
        others = [n for n in site.call.tensors if n is not node]
        return all(self.is_constant(n) for n in others) and is_movement(
            site.call, self._shape, self.value, [node]
        )


def integers(call: Call) -> list[fx.Node]:
    """Tensor arguments that hold indices or masks."""
    return [n for n in call.tensors if not n.meta["val"].is_floating_point()]


def counts_by_data(node: fx.Node) -> bool:
    """Whether a size of the outputs is decided by values: by none of the sizes that go in."""
    given = {symbol for n in node.all_input_nodes for symbol in open_sizes(n)}
    return not open_sizes(node) <= given


def open_sizes(node: fx.Node) -> set[object]:
    """Symbols in the sizes of a node's outputs that have no value before the network runs."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else (value,)
    sizes = [s for part in parts for s in (part.shape if isinstance(part, Tensor) else (part,))]
    return {
        symbol
        for size in sizes
        if isinstance(size, torch.SymInt) and not is_hinted(size)
        for symbol in unbacked(size)
    }

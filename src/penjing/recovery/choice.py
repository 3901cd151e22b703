"""What a network would compute if it chose as another one does.

A cut network sends rows to its experts by scores of its own. To tell what the original would have
made of the same rows, what lies between the choice and a value is computed anew from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, fx

from penjing.graph.analysis import counts_by_data, open_sizes
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.network import Cut
from penjing.graph.routing import CHOOSERS, LOOKUPS
from penjing.statistics.stream import Chunk, Stream, evaluate


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a network chooses, and what lies between the choice and a value.

    Args:
        numbers: Node of the numbers chosen, as they come out of the choice.
        scores: Node of the scores chosen with them, if there is one.
        between: Nodes that depend on either and reach the value.
        reads: What has to be known to compute them anew.
    """

    numbers: str
    scores: str | None
    between: frozenset[str]
    reads: tuple[str, ...]

    @classmethod
    def of(cls, program: Program, numbers: str, value: str) -> Self:
        """The choice of experts by numbers.

        Args:
            program: The original.
            numbers: Node with the numbers of the experts, or a view of them.
            value: Node of the value that depends on the choice.
        """
        source = _source(program.nodes[numbers])
        return cls._between(program, source, _scores(source), value)

    @classmethod
    def of_rows(cls, program: Program, value: str) -> Self | None:
        """The choice of the rows of a value whose number depends on the data.

        Args:
            program: The original.
            value: Node of the value.

        Returns:
            The choice; None where several decide on the rows, or none.
        """
        node = program.nodes[value]
        sizes = open_sizes(node)
        before = _reaching(node, set(program.graph.nodes))
        deciding = [n for n in before if counts_by_data(n) and open_sizes(n) & sizes]
        return cls._between(program, deciding[0], None, value) if len(deciding) == 1 else None

    @classmethod
    def _between(
        cls, program: Program, numbers: fx.Node, scores: fx.Node | None, value: str
    ) -> Self:
        changed = {n.name for n in (numbers, scores) if n is not None}
        before = _reaching(program.nodes[value], _reached(numbers, scores))
        outside = {n.name for node in before for n in node.all_input_nodes if n not in before}
        kept = outside - changed - set(program.stored)
        if scores is not None:
            kept.add(Call(scores.all_input_nodes[0]).arg("self").name)
        return cls(
            numbers.name,
            None if scores is None else scores.name,
            frozenset(n.name for n in before),
            (*sorted(kept), numbers.name),
        )

    def value(self, stream: Stream, chunk: Chunk, node: str, cut: object) -> Tensor:
        """A value of the original if it chose as the cut network does.

        Args:
            stream: Original and cut network.
            chunk: Samples.
            node: Whose value.
            cut: A `Cut` says how the cut network numbers what stays.
        """
        program = stream.programs[0]
        if node not in self.between:
            known: Tensor = stream.value(chunk, node)
            return known
        numbers = self._as_before(stream.value(chunk, self.numbers, 1), cut)
        values: dict[str, Any] = {self.numbers: numbers}
        if self.scores is not None:
            values[self.scores] = self._looked_up(stream, chunk, program, numbers)

        def look(wanted: fx.Node) -> Any:
            if wanted.name not in values and wanted.name in self.between:
                values[wanted.name] = evaluate(program, wanted, look)
            return (
                values[wanted.name] if wanted.name in values else stream.value(chunk, wanted.name)
            )

        made: Tensor = look(program.nodes[node])
        return made

    def _as_before(self, numbers: Any, cut: object) -> Any:
        """The cut network's numbers as the original numbers them; rows keep theirs."""
        if not isinstance(cut, Cut):
            return numbers
        dim = cut.network.analysis.numbers(cut.dense.nodes[self.numbers])
        kept = None if dim is None else cut.kept(dim)
        return numbers if kept is None else kept.to(numbers.device)[numbers].to(numbers.dtype)

    def _looked_up(self, stream: Stream, chunk: Chunk, program: Program, numbers: Tensor) -> Tensor:
        """The original's scores of other numbers."""
        assert self.scores is not None  # the caller has looked
        call = Call(program.nodes[self.scores].all_input_nodes[0])
        scores: Tensor = stream.value(chunk, call.arg("self").name)
        axis = int(call.arg("dim", -1))
        if numbers.dim() == scores.dim():
            return scores.gather(axis, numbers)
        return scores.gather(axis, numbers.unsqueeze(axis)).squeeze(axis)


def _source(node: fx.Node) -> fx.Node:
    """Where numbers come from, looking back through what only moves them."""
    while True:
        name = op_name(node)
        moved = node.op == "call_function" and name not in {*LOOKUPS, *CHOOSERS, "getitem"}
        if not moved or len(Call(node).tensors) != 1 or not _moves(node):
            return node
        node = Call(node).tensors[0]


def _moves(node: fx.Node) -> bool:
    return Call(node).is_view or op_name(node) in {"_to_copy", "clone", "contiguous"}


def _scores(numbers: fx.Node) -> fx.Node | None:
    """The node of the scores that are chosen together with the numbers."""
    chooser = numbers.args[0] if op_name(numbers) == "getitem" else None
    if not isinstance(chooser, fx.Node) or op_name(chooser) not in CHOOSERS:
        return None
    others = [n for n in chooser.users if n is not numbers and n.args[1] == 0]
    return others[0] if others else None


def _reached(*starts: fx.Node | None) -> set[fx.Node]:
    """Every node that depends on one of some."""
    found: set[fx.Node] = set()
    todo = [n for n in starts if n is not None]
    while todo:
        for user in todo.pop().users:
            if user not in found:
                found.add(user)
                todo.append(user)
    return found


def _reaching(end: fx.Node, within: set[fx.Node]) -> set[fx.Node]:
    """The nodes of a set that a node depends on, itself included."""
    found: set[fx.Node] = set()
    todo = [end] if end in within else []
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [n for n in node.all_input_nodes if n in within]
    return found

"""Stacked experts re-solved: each answers on the rows that reach it as it did in the original.

The cut network sends rows to experts by scores of its own, so the original is asked what it would
give if it chose as the cut network does: what lies between the choice and the experts' input is
computed anew from there. An expert that saw few rows leans on the mean row of all experts.

Suffixes: R = rows, E = experts, U = inputs of an expert, V = its outputs, D = inputs of an expert
of the original.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, fx

from penjing.figures import RepairFigures
from penjing.graph.call import Call, op_name
from penjing.graph.capture import Program
from penjing.graph.network import Cut
from penjing.graph.routing import CHOOSERS, LOOKUPS
from penjing.recovery.ridge import Start, fit
from penjing.statistics.routed import Moments, Routed, routed
from penjing.statistics.stream import MEGABYTE, Chunk, Stream, evaluate

PRIOR = 1.0  # mean rows added to those of every expert, for each of its unknowns


@dataclass(frozen=True, slots=True)
class Experts:
    """One product of rows with stacked experts in a cut network.

    Args:
        cut: Says what stays; not changed.
        layer: The product in the cut network.
        choice: Where the original chooses; None where its experts are a dimension of the rows.
    """

    cut: Cut
    layer: Routed
    choice: Choice | None

    @property
    def name(self) -> str:
        """Qualified name of the stack."""
        return self.layer.weight

    @property
    def reads(self) -> Collection[str]:
        """Nodes whose values are looked at while the product is at hand, beside its own."""
        if self.choice is None or self.layer.choice is None:
            return ()
        return (*self.choice.reads, self.layer.choice)

    @property
    def changing(self) -> str:
        """The node that reads the stack."""
        return (*self.layer.taken[-1:], self.layer.node)[0]

    def forget(self, stream: Stream) -> None:
        """Let what was computed from the stack before the stop be computed anew."""
        for chunk in stream.chunks:
            for name in self.layer.taken:
                chunk.values[1].pop(name, None)

    @property
    def loses_inputs(self) -> bool:
        """Whether the experts read less than in the original."""
        return self._cut_matrices().shape[2] != self._original().shape[2]

    def obstacle(self, memory_mb: float) -> str:
        """Why the experts cannot be solved; empty when they can."""
        experts, _, inputs = self._cut_matrices().shape
        taken = 2 * Moments.bytes(experts, inputs, self._original().shape[2])
        if taken > memory_mb * MEGABYTE:
            return (
                f"its Gram matrices are too large: {experts} experts of {inputs} unknowns take "
                f"{taken / MEGABYTE:.0f} MiB of {memory_mb:g}"
            )
        return ""

    def moments(
        self, stream: Stream, rows_per_unknown: float, seed: int, held_out: int
    ) -> tuple[Moments, Moments]:
        """Sums over the rows to fit on, and over those held out.

        Args:
            stream: Original and cut network, stopped at the product.
            rows_per_unknown: Rows looked at per unknown of an expert, on average.
            seed: Of the choice of rows.
            held_out: One chunk in so many is held out.
        """
        experts, _, inputs = self._cut_matrices().shape
        most = ceil(rows_per_unknown * inputs * experts / len(stream.chunks))
        original = self._original()
        fitted, held = (
            Moments.zeros(experts, inputs, original.shape[2], original.device) for _ in range(2)
        )
        for chunk in stream.chunks:
            x, before, owner = self._rows(stream, chunk, experts)
            generator = torch.Generator().manual_seed(seed + chunk.index)
            some = torch.randperm(len(x), generator=generator)[:most].to(x.device)
            sums = held if chunk.index % held_out == held_out - 1 else fitted
            sums.add(x[some], before[some], owner[some])
        return fitted, held

    def solve(
        self, fitted: Moments, held: Moments, dampings: Sequence[float]
    ) -> tuple[dict[str, Tensor], RepairFigures]:
        """Fit every expert.

        Args:
            fitted: Sums over the rows to fit on.
            held: Sums over the rows held out.
            dampings: Ridge strengths to choose from.

        Returns:
            The new stack by name, empty when the old one is better; and what was done.
        """
        weight_EVU, original_EVD = self._cut_matrices(), self._original()
        inputs = weight_EVU.shape[2]
        shrunk = fitted.shrunk(PRIOR * inputs)
        start = _start(weight_EVU)
        solution = fit(shrunk.gram(original_EVD), held.gram(original_EVD), start, dampings)
        row = RepairFigures(
            self.name, solution.before, solution.after, solution.damping, solution.reason,
            _few(fitted.rows + held.rows, inputs),
        )  # fmt: skip
        if solution.damping is None:
            return {}, row
        stack = self.layer.stack(solution.weight)
        return {self.name: stack.to(self.cut.program.tensors[self.name].dtype)}, row

    def _cut_matrices(self) -> Tensor:
        return self.layer.matrices(self.cut.program.tensors[self.name])

    def _original(self) -> Tensor:
        """The original's matrices of what stays, with all of their inputs."""
        weight = self.cut.dense.tensors[self.name].detach()
        for dim in self.layer.order[:2]:
            kept = self.cut.keep(self._stored, dim)
            weight = weight if kept is None else weight.index_select(dim, kept.to(weight.device))
        return self.layer.matrices(weight)

    @property
    def _stored(self) -> str:
        return next(n for n, fqn in self.cut.dense.stored.items() if fqn == self.name)

    def _rows(self, stream: Stream, chunk: Chunk, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the cut network, of the original with the same experts, and these experts."""
        layer = self.layer
        x: Tensor = stream.value(chunk, layer.source, 1)
        chosen = None if layer.choice is None else stream.value(chunk, layer.choice, 1)
        sizes = layer.sizes(x, chosen, experts)
        original = self._original_source(stream, chunk)
        wide = {**sizes, layer.inner: original.shape[layer.reads.index(layer.inner)]}
        owner = layer.owners(chosen, experts, sizes).to(x.device)
        return layer.inputs(x, sizes), layer.inputs(original, wide), owner

    def _original_source(self, stream: Stream, chunk: Chunk) -> Tensor:
        """What the original's product reads, for the experts that stay."""
        layer = self.layer
        if self.choice is not None:
            return self.choice.value(stream, chunk, layer.source, self.cut)
        original: Tensor = stream.value(chunk, layer.source)
        at = layer.reads.find(layer.places)
        kept = None if at < 0 else self.cut.keep(layer.source, at)
        return original if kept is None else original.index_select(at, kept.to(original.device))


def _start(weight_EVU: Tensor) -> Start:
    experts, outputs, _ = weight_EVU.shape
    one = torch.ones(experts * outputs, dtype=torch.float64, device=weight_EVU.device)
    none = one.new_zeros(experts, outputs)
    return Start(weight_EVU.detach().double(), none, one, one - 1, free=False)


def _few(rows: Tensor, unknowns: int) -> str:
    """What is to be said of experts that saw few rows; empty when none did."""
    few = int((rows < unknowns).sum())
    if not few:
        return ""
    return (
        f"{few} of {len(rows)} experts saw fewer rows than their {unknowns} unknowns, the fewest "
        f"{int(rows.min())}: they lean on the rows of all"
    )


# ---------------------------------------------------------------- another choice


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a network chooses experts, and what lies between the choice and their input.

    Args:
        numbers: Node of the numbers chosen, as they come out of the choice.
        scores: Node of the scores chosen with them, if there is one.
        between: Nodes that depend on either and reach the experts' input.
        reads: What those read from outside.
    """

    numbers: str
    scores: str | None
    between: frozenset[str]
    reads: tuple[str, ...]

    @classmethod
    def of(cls, program: Program, layer: Routed) -> Choice:
        """The choice behind a product that looks its matrices up."""
        assert layer.choice is not None  # the caller has looked
        numbers = _source(program.nodes[layer.choice])
        scores = _scores(numbers)
        changed = {n.name for n in (numbers, scores) if n is not None}
        after = _reached(numbers, scores)
        before = _reaching(program.nodes[layer.source], after)
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

    def value(self, stream: Stream, chunk: Chunk, node: str, cut: Cut) -> Tensor:
        """A value of the original if it chose as the cut network does.

        Args:
            stream: Original and cut network.
            chunk: Samples.
            node: Whose value.
            cut: Says how the cut network numbers what stays.
        """
        program = cut.dense
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

    def _as_before(self, numbers: Tensor, cut: Cut) -> Tensor:
        """The cut network's numbers as the original numbers them."""
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


# ---------------------------------------------------------------- all of a network


def mixtures(cut: Cut) -> tuple[dict[str, Experts], dict[str, str]]:
    """Every product with stacked experts of a cut network.

    Args:
        cut: What goes.

    Returns:
        Products by node; and, by node, why other products with a stack are not solved.
    """
    found, refused = routed(cut.program)
    originals: Mapping[str, Routed] = routed(cut.dense)[0]
    made = {}
    for node, layer in found.items():
        original = originals.get(node)
        if original is None or original.order != layer.order:
            refused[node] = "the cut network computes it in another way"
            continue
        choice = None if layer.choice is None else Choice.of(cut.dense, original)
        made[node] = Experts(cut, layer, choice)
    return made, refused

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

import torch
from torch import Tensor

from penjing.figures import RepairFigures
from penjing.graph.network import Cut
from penjing.pruning.standing import standing
from penjing.recovery.choice import Choice
from penjing.recovery.ridge import Start, fit
from penjing.recovery.zeros import KEPT
from penjing.statistics.routed import Moments, Routed, routed
from penjing.statistics.stream import MEGABYTE, Chunk, Stream

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
        told = (_few(fitted.rows + held.rows, inputs), KEPT if start.support is not None else "")
        row = RepairFigures(
            self.name, solution.before, solution.after, solution.damping, solution.reason,
            "; ".join(filter(None, told)),
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
    weight, support = weight_EVU.detach().double(), standing(weight_EVU)
    return Start(weight, none, one, one - 1, free=False, support=support)


def _few(rows: Tensor, unknowns: int) -> str:
    """What is to be said of experts that saw few rows; empty when none did."""
    few = int((rows < unknowns).sum())
    if not few:
        return ""
    return (
        f"{few} of {len(rows)} experts saw fewer rows than their {unknowns} unknowns, the fewest "
        f"{int(rows.min())}: they lean on the rows of all"
    )


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
        choice = None if layer.choice is None else Choice.of(cut.dense, layer.choice, layer.source)
        made[node] = Experts(cut, layer, choice)
    return made, refused

"""Networks whose residual blocks are skipped where a sample does not need them.

In front of a block a gate looks at the stream and opens the block, or not: `x + f(x)` or `x`.
The network is a row of pieces: trunk, block, trunk, block, ..., trunk. In eval mode a block is run
for the samples alone that its gate lets in. In training and in a capture it is run for all of them,
and the gate chooses afterwards, which gives the same values.

Suffixes: B = batch, K = gated blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from penjing.adaptive.apart import mixes
from penjing.adaptive.exits import tie
from penjing.adaptive.heads import Head, layout_of, make_head
from penjing.counts.macs import count_macs
from penjing.errors import InputError, StrategyError
from penjing.graph.blocks import Block, find_blocks, without
from penjing.graph.call import is_pointwise, is_tensor
from penjing.graph.capture import Program
from penjing.graph.form import graph_form
from penjing.graph.parts import Flow, has_batch, outputs_of, part

OPEN_AT_FIRST = 2.0
"""Bias of a fresh gate: nearly every sample passes, so training begins with the network as it was
(Veit & Belongie 2018 begin at 85 % likewise)."""

END = -1
"""Among the values behind a block: the one that it made."""


@dataclass(frozen=True, slots=True)
class Site:
    """A block with a gate.

    Args:
        name: The layer that makes what the block adds.
        feature: Which of the values that cross in front of it is the stream.
        shape: Of the stream without the batch.
        behind: The values that cross behind it: numbers of those in front, `END` for its own.
        macs: What it takes to run it for one sample.
    """

    name: str
    feature: int
    shape: tuple[int, ...]
    behind: tuple[int, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Answers of a network with gated blocks.

    Args:
        outputs: As the original network gives them.
        opened: Which sample ran which block, bool, `(B, K)`.
    """

    outputs: Any
    opened: Tensor


class GatedNetwork(nn.Module):
    """A network whose residual blocks are skipped where their gates say so.

    Args:
        trunk: Pieces before, between and behind the blocks.
        branches: Blocks that run, each of what crosses in front of it.
        bypasses: What is left of each block when it is skipped, of the stream.
        gates: One per block: of the stream one logit, `(B, 1)`; above 0 the block runs.
        sites: One per block.
        macs: Of the whole network without gates, for one sample.

    Raises:
        StrategyError: Their numbers do not fit together.
    """

    def __init__(
        self,
        trunk: Sequence[nn.Module],
        branches: Sequence[nn.Module],
        bypasses: Sequence[nn.Module],
        gates: Sequence[nn.Module],
        sites: Sequence[Site],
        macs: int,
    ) -> None:
        super().__init__()
        if not len(trunk) - 1 == len(branches) == len(bypasses) == len(gates) == len(sites):
            raise StrategyError(
                f"{len(trunk)} pieces of trunk need {len(trunk) - 1} blocks, bypasses, gates and "
                f"sites, not {len(branches)}, {len(bypasses)}, {len(gates)} and {len(sites)}"
            )
        self.trunk, self.branches = nn.ModuleList(trunk), nn.ModuleList(branches)
        self.bypasses, self.gates = nn.ModuleList(bypasses), nn.ModuleList(gates)
        self.sites, self.macs = tuple(sites), macs
        self.eval()

    @classmethod
    def of(
        cls, program: Program, spans: Sequence[Span], gate: Head = "linear", seed: int = 0
    ) -> Self:
        """Put fresh gates in front of blocks of a captured network.

        Args:
            program: The network; not changed, its tensors are copied.
            spans: The blocks, in the order of the network.
            gate: What kind.
            seed: Of their weights.
        """
        pieces = list(_pieces(program, spans))
        forms = [graph_form(piece) for piece in pieces]
        tie(forms, pieces)
        trunk, branches, bypasses = forms[::3], forms[1::3], forms[2::3]
        gates, sites = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for span, branch in zip(spans, pieces[1::3], strict=True):
                feature = span.before.index(span.stream)
                stream = branch.example[feature]
                made = make_head(gate, stream, layout_of(span.stream), 1)
                _open(made)
                gates.append(made.to(stream.device, stream.dtype))
                shape = tuple(stream.shape[1:])
                macs = count_macs(branch)
                sites.append(Site(span.block.name, feature, shape, span.behind, macs))
        return cls(trunk, branches, bypasses, gates, sites, count_macs(program))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives, every block as its gate says for each sample.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            As the original network. In training mode gates are drawn at random around their logits,
            and gradients reach them straight through the decision.
        """
        whole = self.training or torch.compiler.is_exporting()
        run = self._masked if whole else self._skipping
        values = self.trunk[0](*args, **kwargs)
        for index in range(len(self.sites)):
            end, _ = run(index, values)
            values = self._behind(index, values, end)
        return values

    @torch.no_grad()
    def infer(self, *args: Any, **kwargs: Any) -> Skipped:
        """Answers, and which sample ran which block; run this in eval mode.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Raises:
            StrategyError: The network is in training mode.
        """
        if self.training:
            raise StrategyError("the network is in training mode; call .eval() before .infer()")
        values, opened = self.trunk[0](*args, **kwargs), []
        for index in range(len(self.sites)):
            end, taken = self._skipping(index, values)
            opened.append(taken)
            values = self._behind(index, values, end)
        return Skipped(values, torch.stack(opened, 1))

    def macs_of(self, opened: Tensor) -> Tensor:
        """MACs of each sample; those of the gates, a few hundred each, are left out.

        Args:
            opened: Which sample ran which block, `(B, K)`.

        Returns:
            float64, `(B,)`.
        """
        costs = opened.new_tensor([site.macs for site in self.sites], dtype=torch.float64)
        return self.macs - (~opened.bool()).double() @ costs

    def original(self) -> nn.Module:
        """The network without gates: every block runs; its parts are shared, not copied."""
        return Ungated(self)

    def _behind(self, index: int, values: Sequence[Tensor], end: Tensor) -> Any:
        """What the next piece of trunk gives."""
        places = self.sites[index].behind
        return self.trunk[index + 1](*(end if at == END else values[at] for at in places))

    def _masked(self, index: int, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A block run for every sample, and chosen for some."""
        stream = values[self.sites[index].feature]
        logits = self.gates[index](stream)
        (ran,), (left,) = self.branches[index](*values), self.bypasses[index](stream)
        taken = decide(logits, noisy=True) if self.training else logits > 0
        wide = taken.reshape(-1, *[1] * (ran.dim() - 1))
        if self.training:
            return wide * ran + (1 - wide) * left, taken
        return torch.where(wide, ran, left), taken.flatten()

    def _skipping(self, index: int, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A block run for the samples alone that its gate lets in."""
        stream = values[self.sites[index].feature]
        taken = (self.gates[index](stream) > 0).flatten()
        if bool(taken.all()):
            return self.branches[index](*values)[0], taken
        (left,) = self.bypasses[index](stream)
        if not bool(taken.any()):
            return left, taken
        (ran,) = self.branches[index](*(value[taken] for value in values))
        return left.index_copy(0, taken.nonzero().flatten(), ran), taken


class Ungated(nn.Module):
    """A network with gates of which every block runs.

    Args:
        network: Shared, not copied.
    """

    def __init__(self, network: GatedNetwork) -> None:
        super().__init__()
        self.trunk, self.branches = network.trunk, network.branches
        self.behind = tuple(site.behind for site in network.sites)
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run all of it.

        Args:
            args: As the original network takes them.
            kwargs: Likewise.

        Returns:
            As the original network.
        """
        values = self.trunk[0](*args, **kwargs)
        for branch, piece, places in zip(
            self.branches, list(self.trunk)[1:], self.behind, strict=True
        ):
            (end,) = branch(*values)
            values = piece(*(end if at == END else values[at] for at in places))
        return values


def decide(logits: Tensor, *, noisy: bool) -> Tensor:
    """Open or shut, 1 or 0, with the gradient of a sigmoid.

    Args:
        logits: Of the gates, of any shape.
        noisy: Draw around the logits rather than taking their sign.

    Returns:
        Like `logits`.

    Source:
        Jang et al. 2017, arXiv:1611.01144 (straight-through Gumbel-softmax, here of two classes,
        whose noises differ by a logistic one); Bengio et al. 2013, arXiv:1308.3432.
    """
    if noisy:
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        logits = logits + torch.logit(uniform)
    soft = torch.sigmoid(logits)
    return (logits > 0).to(soft) + (soft - soft.detach())  # exactly 0 or 1


@dataclass(frozen=True, slots=True)
class Span:
    """A block, and what crosses in front of it.

    Args:
        block: The residual branch.
        stream: What it starts from and is added to.
        end: What it makes: the sum, or the activation behind it.
        before: Values that cross in front of it.
        behind: See `Site.behind`.
    """

    block: Block
    stream: fx.Node
    end: fx.Node
    before: tuple[fx.Node, ...]
    behind: tuple[int, ...]


def gated_blocks(program: Program) -> tuple[Span, ...]:
    """Blocks that can be skipped sample by sample, in the order of the network.

    A block is one whose end, beside what was there before it, is all that the rest needs. What it
    gives a sample depends on no other sample of the batch, and has the dtype of the stream.

    Args:
        program: A captured network with a free batch.
    """
    flow = Flow(program)
    found: list[Span] = []
    for block in find_blocks(program):
        span = _span(program, flow, block)
        if span is None:
            continue
        apart = not found or flow.position[found[-1].end] <= flow.position[span.stream]
        if apart:
            found.append(span)
    return tuple(found)


def choose_blocks(spans: Sequence[Span], at: Sequence[str] | None) -> tuple[Span, ...]:
    """Those that were asked for.

    Args:
        spans: All that there are.
        at: Names of blocks, or of modules that hold them; None for all.

    Raises:
        InputError: There is none, or none of that name.
    """
    known = ", ".join(span.block.name for span in spans)
    if not spans:
        raise InputError(
            "the network has no block to skip: nowhere is x + f(x) all that its rest needs, with "
            "the batch free in dimension 0"
        )
    if at is None:
        return tuple(spans)
    for name in at:
        if not any(_named(span, name) for span in spans):
            raise InputError(f"there is no block at {name!r}; the blocks are {known}")
    chosen = tuple(span for span in spans if any(_named(span, name) for name in at))
    if not chosen:
        raise InputError(f"at is empty; the blocks are {known}")
    return chosen


def check_gated(model: object) -> GatedNetwork:
    """Refuse any other network.

    Raises:
        InputError: It has no gates.
    """
    if not isinstance(model, GatedNetwork):
        raise InputError(
            f"{type(model).__name__} has no gates; pj.gate_blocks puts them in front of its blocks"
        )
    return model


def _named(span: Span, name: str) -> bool:
    return f"{span.block.name}.".startswith(f"{name}.")


def _span(program: Program, flow: Flow, block: Block) -> Span | None:
    if block.whole:
        return None
    stream, end = program.nodes[block.stream], _activated(program.nodes[block.add])
    before, behind = flow.crossing(stream), flow.crossing(end)
    alone = all(node is end or node in before for node in behind)
    alike = stream.meta["val"].dtype == end.meta["val"].dtype
    batched = all(is_tensor(node) and has_batch(node) for node in (*before, *behind))
    if stream not in before or not (alone and alike and batched):
        return None
    if mixes(part(program, before, [end])):
        return None
    places = tuple(END if node is end else before.index(node) for node in behind)
    return Span(block, stream, end, tuple(before), places)


def _activated(add: fx.Node) -> fx.Node:
    """The activation that alone reads a sum, else the sum: one piece is quicker than two."""
    users = list(add.users)
    if len(users) == 1 and is_pointwise(users[0]) and users[0].all_input_nodes == [add]:
        return users[0]
    return add


def _pieces(program: Program, spans: Sequence[Span]) -> Iterator[Program]:
    """Trunk, block, bypass, trunk, block, bypass, ..., trunk."""
    start: list[fx.Node] = [program.nodes[name] for name in program.inputs]
    for span in spans:
        before = list(span.before)
        yield part(program, start, before)
        yield part(program, before, [span.end])
        skipped = without(program, [span.block])
        yield part(skipped, [skipped.nodes[span.stream.name]], [skipped.nodes[span.end.name]])
        start = [span.end if at == END else before[at] for at in span.behind]
    yield part(program, start, outputs_of(program))


def _open(gate: nn.Module) -> None:
    """Let nearly everything through at first, in place."""
    layers = [module for module in gate.modules() if isinstance(module, nn.Linear)]
    if layers and layers[-1].bias is not None:
        nn.init.constant_(layers[-1].bias, OPEN_AT_FIRST)

"""Ablation: which residual branches or whole layers the outputs miss least, on unlabelled samples.

Branches go one after the other, so they have an order. With it the number that stays is all that
an allocation decides, as for the units of any group.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.blocks import Block, find_blocks, without
from penjing.graph.capture import Program
from penjing.graph.whole import find_layers
from penjing.plan import BLOCKS, LAYERS, Group, Plan
from penjing.pruning.importance import even
from penjing.statistics.stream import Samples

SAMPLES = 256  # that an ablation looks at
AT_ONCE = 64  # samples in one run
LOST = 1.0  # relative error at which nothing of the outputs is left: the order no longer matters
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Judged:
    """Branches in the order in which they go.

    Args:
        order: The one that is missed least first.
        lost: Relative error of the outputs once each has gone, together with those before it.
        transfer: Error of the outputs per error at the addition of a branch; widths are judged
            there, so this makes the two comparable.
    """

    order: tuple[Block, ...]
    lost: tuple[float, ...]
    transfer: float


@dataclass(frozen=True, eq=False)
class Branches:
    """The residual branches of a network, or its whole layers, and which of them may go.

    Args:
        program: The network.
        every: All of its branches.
        free: Those that may go.
        samples: Unlabelled samples to judge by; None when there are none.
        name: Of their group: "blocks", or "layers" for whole ones.
        evenly: They go evenly spaced, and nothing is judged: how a shallower network begins.
    """

    program: Program
    every: tuple[Block, ...]
    free: tuple[Block, ...]
    samples: Samples | None
    name: str = BLOCKS
    evenly: bool = False

    @classmethod
    def of(
        cls,
        program: Program,
        untouched: frozenset[str] = frozenset(),
        samples: Samples | None = None,
        name: str = BLOCKS,
        *,
        evenly: bool = False,
    ) -> Branches:
        """Find the branches of a program.

        Args:
            program: A captured network.
            untouched: Layers, or tensors, that must stay: a branch that holds one does too.
            samples: Unlabelled samples, or None.
            name: "blocks" for single branches, "layers" for whole layers.
            evenly: They go evenly spaced.
        """
        every = find_layers(program) if name == LAYERS else find_blocks(program)
        held = {b.name: {f.rpartition(".")[0] for f in b.owned} | {*b.owned} for b in every}
        free = tuple(b for b in every if not held[b.name] & untouched)
        return cls(program, every, free, samples, name, evenly)

    @property
    def removable(self) -> bool:
        """Whether any may go; the last one of a network stays."""
        return bool(self.free) and len(self.every) > 1

    @property
    def group(self) -> Group:
        """The branches as the units of one group."""
        least = max(1, len(self.every) - len(self.free))
        why = "ignored_layers" if len(self.free) < len(self.every) else ""
        return Group(
            self.name,
            len(self.every),
            (),
            "residual",
            kind="blocks",
            least=least,
            least_why=why,
        )

    def chosen(self, plan: Plan) -> tuple[Block, ...]:
        """The branches that a plan removes."""
        return tuple(self.every[number] for number in plan.drop.get(self.name, ()))

    def gone(self, kept: Mapping[str, int]) -> tuple[Block, ...]:
        """The branches that go when so many stay."""
        count = len(self.every) - kept.get(self.name, len(self.every))
        return self.judged.order[:count] if count else ()

    @property
    def scores(self) -> Tensor:
        """One rising value per branch, `(units,)` float64, in the order of removal."""
        found = torch.full((len(self.every),), torch.inf, dtype=torch.float64)
        height = 0.0
        for block, lost in zip(self.judged.order, self.judged.lost, strict=True):
            height = max(lost, height * (1 + 1e-9) + TINY)
            found[self.every.index(block)] = height
        return found.nan_to_num(posinf=2 * max(height, LOST))

    @property
    def errors(self) -> Tensor:
        """Error by branches gone, `(units + 1,)` float64, on the scale of widths."""
        lost = torch.tensor([0.0, *self.judged.lost], dtype=torch.float64).cummax(0).values
        rest = lost[-1:].expand(len(self.every) + 1 - len(lost))
        return torch.cat([lost, rest]) / self.judged.transfer

    @cached_property
    def judged(self) -> Judged:
        """The order of removal.

        Raises:
            StrategyError: There is no calibration data to judge by.

        Source:
            One after another by what is measured: NetAdapt, Yang et al. 2018, arXiv:1804.03230,
            there widths and accuracy. A branch is measured again only when it is next in line:
            lazy greedy, Minoux 1978.
        """
        if self.evenly:
            return self._spaced()
        outputs = Outputs(self.program, self._batches)
        alone = [outputs.lost([block]) for block in self.free]
        sizes = added(self.program, self.free, self._batches)
        ratios = [e / s for e, s in zip(alone, sizes, strict=True) if e > TINY and s > TINY]
        order: list[Block] = []
        lost: list[float] = []
        costs = dict(zip(self.free, alone, strict=True))
        while costs:
            before = lost[-1] if lost else 0.0
            block, error = _next(outputs, costs, order, before)
            order.append(block)
            lost.append(error)
            del costs[block]
            if error >= LOST:
                break
        for block, cost in sorted(costs.items(), key=lambda item: item[1]):
            order.append(block)
            lost.append(lost[-1] + cost)
        return Judged(tuple(order), tuple(lost), statistics.median(ratios) if ratios else 1.0)

    def _spaced(self) -> Judged:
        """Branches in an order in which those that stay lie evenly; each counts alike."""
        scores = even(nn.Identity(), self.group).tolist()
        order = sorted(self.free, key=lambda block: scores[self.every.index(block)])
        lost = tuple((gone + 1) / len(order) for gone in range(len(order)))
        return Judged(tuple(order), lost, 1.0)

    @cached_property
    def _batches(self) -> list[list[Any]]:
        if self.samples is None:
            raise StrategyError(
                "which blocks go is decided by what the outputs lose; pass calibration=batches "
                "(unlabelled inputs are enough)"
            )
        size = AT_ONCE if self.program.dynamic_batch else self.program.batch
        found: list[list[Any]] = []
        for batch in self.samples.batches(size):
            flat = self.program.flatten_inputs(batch)
            whole = self.program.dynamic_batch or self.program.samples(flat) == size
            if len(found) * size < SAMPLES and whole:
                found.append(flat)
        return found


def _next(
    outputs: Outputs, costs: dict[Block, float], gone: Sequence[Block], before: float
) -> tuple[Block, float]:
    """The branch whose loss adds least error; `costs` gets what is measured on the way."""
    fresh: set[Block] = set() if gone else set(costs)
    while True:
        block = min(costs, key=lambda b: costs[b])
        if block in fresh:
            return block, before + costs[block]
        costs[block] = outputs.lost([*gone, block]) - before
        fresh.add(block)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gives on some batches, to compare with.

    Args:
        program: The network.
        batches: Flat inputs.
    """

    program: Program
    batches: Sequence[list[Any]]

    @cached_property
    def wanted(self) -> list[list[Tensor]]:
        """Its floating outputs, by batch."""
        with torch.no_grad():
            return [_floating(self.program.run(batch)) for batch in self.batches]

    @cached_property
    def energy(self) -> float:
        """Squares about the mean over the samples, summed."""
        outputs = (value for batch in self.wanted for value in batch)
        return sum(float((v - v.mean(0)).double().square().sum()) for v in outputs)

    def lost(self, gone: Sequence[Block]) -> float:
        """Squared error without some blocks, over the energy of the outputs."""
        shallow, wrong = without(self.program, gone), 0.0
        with torch.no_grad():
            for batch, want in zip(self.batches, self.wanted, strict=True):
                for mine, theirs in zip(_floating(shallow.run(batch)), want, strict=True):
                    wrong += float((mine - theirs).double().square().sum())
        return wrong / max(self.energy, TINY)


def added(program: Program, blocks: Sequence[Block], batches: Sequence[list[Any]]) -> list[float]:
    """How large what a block adds is beside the sum, squared: the error at its addition.

    Args:
        program: The network.
        blocks: Which.
        batches: Flat inputs.
    """
    parts, wholes = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0.0)
    names = {name for block in blocks for name in (block.branch, block.add, block.stream)}
    with torch.no_grad():
        for batch in batches:
            _, values = program.inner(batch, names)
            for block in blocks:
                part = values[block.branch]
                if block.whole:
                    part = part - values[block.stream]
                parts[block] += float(part.double().square().sum())
                wholes[block] += float(values[block.add].double().square().sum())
    return [parts[block] / max(wholes[block], TINY) for block in blocks]


def _floating(outputs: Sequence[Any]) -> list[Tensor]:
    return [v for v in outputs if isinstance(v, Tensor) and v.is_floating_point()]

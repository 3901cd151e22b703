"""`prune` with scope "depth": whole residual branches removed, judged by what the outputs lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from penjing.counts.macs import Counter
from penjing.counts.memory import Liveness
from penjing.errors import InfeasibleError, StrategyError
from penjing.figures import GroupFigures, RepairFigures
from penjing.graph.blocks import Block, find_blocks, without
from penjing.graph.capture import Example, Program, capture
from penjing.plan import Group, Groups, Plan, fingerprint
from penjing.pruning.allocation.protocol import Demand
from penjing.pruning.allocation.space import units_dropped
from penjing.pruning.budgets import absolute
from penjing.pruning.depth import AT_ONCE, SAMPLES, Shallower, ablated, make_shallow
from penjing.pruning.result import Made, with_tensors
from penjing.pruning.selection import matches
from penjing.pruning.surgery import write_tensors
from penjing.recovery.repair import How, repair
from penjing.report import ReportData, environment
from penjing.task import Calibration, agreement
from penjing.verbs.preparation import (
    KIB,
    Choices,
    check_finite,
    check_fits,
    program_figures,
    repair_name,
    settled,
    whole_batches,
)

BLOCKS = "blocks"
"""Name of the one group of a plan that removes blocks."""


@dataclass(frozen=True, eq=False)
class Depth:
    """A network whose blocks may go.

    Args:
        model: The user's network, on the CPU; not changed.
        program: Its capture.
        choices: How to prune.
        samples: Unlabelled samples; None when there are none.
    """

    model: nn.Module
    program: Program
    choices: Choices
    samples: Calibration | None

    @classmethod
    def of(
        cls, model: nn.Module, example: Example, choices: Choices, samples: Calibration | None
    ) -> Depth:
        """Capture a network.

        Args:
            model: The network, on the CPU.
            example: A tensor, a tuple (positional) or a dict (keywords).
            choices: How to prune.
            samples: Unlabelled samples, or None.

        Raises:
            InputError: A weight is not finite, or the data are unlike the example.
            CaptureError: The network does not export.
            StrategyError: No block can be removed.
        """
        check_finite(model)
        depth = cls(model, capture(model, example), choices, samples)
        if samples is not None:
            check_fits(samples, depth.program)
        if not depth.blocks:
            raise StrategyError(
                "no block can be removed: no `x + f(x)` whose f nothing else reads and no layer "
                "to be left alone is in; cut widths instead, scope={'inner', 'residual'}"
            )
        return depth

    @cached_property
    def every(self) -> tuple[Block, ...]:
        """All blocks of the network."""
        return find_blocks(self.program)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Those that are not to be left alone."""
        untouched: set[str] = set()
        for key in self.choices.ignored_layers:
            untouched |= matches(self.model, key)
        names = {b.name: {f.rpartition(".")[0] for f in b.owned} | {*b.owned} for b in self.every}
        return tuple(b for b in self.every if not names[b.name] & untouched)

    @cached_property
    def groups(self) -> Groups:
        """The blocks as one group, for plans."""
        print_ = fingerprint({n: tuple(t.shape) for n, t in self.program.tensors.items()})
        found = (Group(BLOCKS, len(self.every), ()),)
        return Groups(found, (), print_, Counter(self.program).params(), 0.0)

    def costs(self, blocks: Sequence[Block] = ()) -> dict[str, float]:
        """What the network costs without some blocks, by name."""
        program = without(self.program, blocks) if blocks else self.program
        counter = Counter(program)
        return {
            "macs": float(counter.macs()),
            "params": float(counter.params()),
            "ram_kb": Liveness(program).peak().ram_bytes / KIB,
        }

    def plan(self, blocks: Sequence[Block]) -> Plan:
        """A plan that removes blocks."""
        numbers = sorted(self.every.index(block) for block in blocks)
        drop = {BLOCKS: tuple(numbers)} if numbers else {}
        return Plan(drop, {BLOCKS: len(self.every)}, self.groups.fingerprint)

    def planned(self, plan: Plan) -> tuple[Block, ...]:
        """The blocks that a plan removes.

        Raises:
            PlanError: It was made for another network.
        """
        plan.check(self.groups)
        return tuple(self.every[number] for number in plan.drop.get(BLOCKS, ()))

    def choose(self, demand: Demand) -> tuple[tuple[Block, ...], dict[str, float]]:
        """Remove the block that is missed least, again and again, until the demand is met.

        Args:
            demand: A share of the blocks, budgets, or both.

        Returns:
            What goes, and what the outputs had lost when each went.

        Raises:
            StrategyError: There is no calibration data to judge by.
            InfeasibleError: The budgets cannot be met by removing blocks.
        """
        gone: list[Block] = []
        lost: dict[str, float] = {}
        wanted = units_dropped(len(self.every), demand.pruning_ratio or 0.0)
        most = min(int(len(self.every) * demand.max_pruning_ratio), len(self.every) - 1)
        while len(gone) < wanted or self._over(demand.budgets, gone):
            left = [block for block in self.blocks if block not in gone]
            if not left or len(gone) >= most:
                self._refuse(demand, gone)
            errors = ablated(self.program, left, gone, self._batches)
            number = min(range(len(left)), key=lambda i: errors[i])
            gone.append(left[number])
            lost[left[number].name] = errors[number]
        return tuple(gone), lost

    def _over(self, budgets: Mapping[str, float], gone: Sequence[Block]) -> bool:
        costs = self.costs(gone) if budgets else {}
        return any(costs[name] > bound for name, bound in budgets.items())

    def _refuse(self, demand: Demand, gone: Sequence[Block]) -> None:
        nearest = self.costs(gone)
        raise InfeasibleError(
            f"{len(gone)} of {len(self.every)} blocks may go (max_pruning_ratio="
            f"{demand.max_pruning_ratio}, {len(self.every) - len(self.blocks)} left alone), and "
            f"that is not enough: {', '.join(f'{k} {v:g}' for k, v in nearest.items())}; ask for "
            "that, or cut widths as well in a second call",
            {name: nearest[name] for name in demand.budgets},
        )

    @cached_property
    def _batches(self) -> list[list[Any]]:
        if self.samples is None:
            raise StrategyError(
                "which blocks go is decided by what the outputs lose; pass calibration=batches "
                "(unlabelled inputs are enough)"
            )
        example = next(v for v in self.program.example if isinstance(v, Tensor) and v.dim())
        size = AT_ONCE if self.program.dynamic_batch else len(example)
        found: list[list[Any]] = []
        for batch in self.samples.batches(size):
            flat = self.program.flatten_inputs(batch)
            if len(found) * size < SAMPLES and (self.program.dynamic_batch or _full(flat, size)):
                found.append(flat)
        return found


def _full(flat: Sequence[Any], size: int) -> bool:
    return all(len(v) == size for v in flat if isinstance(v, Tensor) and v.dim())


@dataclass(frozen=True, eq=False)
class Shallow:
    """A network without some blocks.

    Args:
        made: The module and its proof.
        plan: What went.
        data: For the report.
    """

    made: Made
    plan: Plan
    data: ReportData


def remove(depth: Depth, demand: Demand | None, plan: Plan | None) -> Shallow:
    """Remove blocks, prove it, repair what is left.

    Args:
        depth: The network.
        demand: How much; None with a plan.
        plan: What goes, where that was decided before.

    Returns:
        The result on the CPU.

    Raises:
        VerificationError: The result is not what it should be.
    """
    lost: dict[str, float] = {}
    if plan is not None:
        gone = depth.planned(plan)
    else:
        assert demand is not None  # the caller gives one of the two
        gone, lost = depth.choose(demand)
    change = Shallower(depth.program, gone)
    made = make_shallow(depth.model, change, depth.choices.seed)
    how = settled(depth.choices.repair, depth.samples is not None, depth.choices.seed)
    tensors: dict[str, Tensor] = {}
    rows: list[RepairFigures] = []
    if how is not None and depth.samples is not None:
        tensors, rows = repair(change, depth.samples, how)
        write_tensors(made.model, tensors)
    carried = depth.plan(gone)
    data = _report(depth, change, made, tensors, how)
    error = max(lost.values(), default=0.0) if plan is None else None
    row = GroupFigures(BLOCKS, len(depth.every), len(depth.every) - len(gone), error)
    removed = ", ".join(block.name for block in gone)
    notes = (f"removed with all before them in their branch: {removed}",)
    return Shallow(made, carried, replace(data, groups=(row,), repair=tuple(rows), notes=notes))


def _report(
    depth: Depth, change: Shallower, made: Made, tensors: Mapping[str, Tensor], how: How | None
) -> ReportData:
    alike = None
    if depth.samples is not None:
        batches = whole_batches(depth.program, depth.samples)
        alike = agreement(made.model, depth.model, batches) if batches else None
    return ReportData(
        kind="prune",
        title=type(depth.model).__name__,
        before=program_figures(depth.program),
        after=program_figures(with_tensors(change.program, tensors)),
        agreement=alike,
        proof=made.proof,
        choices={
            "importance": "ablation of the outputs",
            "repair": repair_name(how),
            "scope": "depth",
            "max_pruning_ratio": str(depth.choices.max_pruning_ratio),
            "calibration samples": str(depth.samples.samples if depth.samples else 0),
            "seed": str(depth.choices.seed),
        },
        environment=environment(),
    )


def goal_of(
    depth: Depth, ratio: float | None, constraints: Mapping[str, float | str] | None
) -> Demand:
    """What is asked of the blocks.

    Raises:
        BudgetError: A number outside its range.
    """
    return Demand(
        pruning_ratio=ratio,
        budgets=absolute(constraints or {}, depth.costs()),
        max_pruning_ratio=depth.choices.max_pruning_ratio,
    )


def is_of_blocks(plan: Plan | None) -> bool:
    """Whether a plan removes blocks."""
    return plan is not None and BLOCKS in plan.units


def check_alone(choices: Choices) -> None:
    """Refuse what does not go with the removal of blocks.

    Raises:
        StrategyError: Other places or kinds in the scope, ratios of layers, or rounding.
    """
    if choices.scope != frozenset({"depth"}):
        raise StrategyError(
            f"scope is {sorted(choices.scope)}; blocks are removed in a call of their own, "
            "scope={'depth'}: cut widths in a second one on its result"
        )
    if choices.pruning_ratio_dict or choices.round_to:
        raise StrategyError(
            "pruning_ratio_dict and round_to say nothing about blocks; ignored_layers leaves some "
            "alone"
        )

"""Preparation: everything a cut is decided from, gathered once, used for any number of budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from penjing.figures import GroupFigures
from penjing.graph.capture import Example
from penjing.graph.network import Cut, Network
from penjing.plan import WEIGHTS, WHOLE, Group, Plan
from penjing.pruning.allocation.protocol import Allocation, Cost, Demand
from penjing.pruning.allocation.space import SHARE
from penjing.pruning.depth import cut_by
from penjing.pruning.importance.protocol import HasErrors, HasReasons, Importance, Prepares
from penjing.task import Batch, Calibration
from penjing.verbs.choices import Choices
from penjing.verbs.costs import CandidateCosts
from penjing.verbs.evidence import Evidence, checked
from penjing.verbs.removable import Removable
from penjing.verbs.soundness import check_finite, check_fits, telling_batches
from penjing.verbs.strategies import Strategies
from penjing.verbs.trials import Measure, watched


@dataclass(frozen=True, eq=False)
class Preparation:
    """A network with scores, error curves and costs; `plan` answers any demand from them.

    Args:
        model: The user's network, on the CPU; not changed.
        network: Its capture and groups.
        calibration: Unlabelled samples; None when there are none.
        choices: How to prune.
    """

    model: nn.Module
    network: Network
    calibration: Calibration | None
    choices: Choices

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_inputs: Example,
        calibration: Calibration | None,
        choices: Choices,
    ) -> Preparation:
        """Capture and analyse a network; scores are computed when they are first needed.

        Args:
            model: The network, on the CPU.
            example_inputs: A tensor, a tuple (positional) or a dict (keywords).
            calibration: Unlabelled samples, or None.
            choices: How to prune.

        Returns:
            The preparation.

        Raises:
            InputError: A weight is not finite, or the network does not run on the example inputs.
            CaptureError: The network does not export.
            StrategyError: An unknown strategy, or layers that match nothing.
        """
        check_finite(model)
        preparation = cls(model, Network.of(model, example_inputs), calibration, choices)
        preparation.check()
        return preparation

    def check(self) -> None:
        """Resolve every name and look at the data before the first expensive step."""
        _ = self.strategies.importance, self.strategies.allocation
        self.removable.check()
        if self.calibration is not None:
            check_fits(self.calibration, self.network.program)
        self.strategies.check()

    def telling_batches(self, samples: Calibration) -> list[Batch]:
        """Samples in batches that the network takes; of a fixed batch, only whole ones."""
        return telling_batches(self.network.program, samples)

    @cached_property
    def strategies(self) -> Strategies:
        """What decides, and what repairs."""
        return Strategies(self.choices, self.calibration)

    @cached_property
    def removable(self) -> Removable:
        """What may go."""
        return Removable(self.model, self.network, self.calibration, self.choices)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Groups that may be cut: in scope and not ignored."""
        return self.removable.groups

    # -------------------------------------------------------------- evidence

    @cached_property
    def judge(self) -> Importance:
        """The importance after it has seen the data."""
        importance = self.strategies.importance
        if isinstance(importance, Prepares):
            return importance.prepare(self.network, self.calibration)
        return importance

    @property
    def reasons(self) -> Mapping[str, str]:
        """Groups that may be cut and were judged in a simpler way, and why."""
        judge = self.__dict__.get("judge")  # nothing is judged only to ask how
        found = judge.reasons if isinstance(judge, HasReasons) else {}
        return {g.name: found[g.name] for g in self.groups if g.name in found}

    @cached_property
    def evidence(self) -> Evidence:
        """What is known of the units of the original network."""
        widths, branches = self.removable.widths, self.removable.branches
        scores, errors = dict[str, Tensor](), dict[str, Tensor]()
        for group in widths:
            scores[group.name] = checked(group, self.judge(self.model, group))
            if isinstance(self.judge, HasErrors):
                errors[group.name] = self.judge.errors(group)
        if self.removable.shortens and branches is not None:
            scores[branches.name] = branches.scores
            if len(errors) == len(widths):
                errors[branches.name] = branches.errors
        return Evidence(scores, errors)

    def after(self, cut: Cut, model: nn.Module, example_inputs: Example) -> Evidence:
        """What is known of the units once some of them are gone.

        Args:
            cut: What went.
            model: The network that is left, on the CPU: its units are judged.
            example_inputs: As for the original.

        Returns:
            Scores and errors in the units of the original's groups. A group that is not found again
            keeps the scores it had.
        """
        scores, errors = dict(self.evidence.scores), dict[str, Tensor]()
        errors |= {n: e for n, e in self.evidence.errors.items() if n in WHOLE}
        widths = self.removable.widths
        if not widths:
            return Evidence(scores, errors, cut.plan.drop)
        choices = replace(
            self.choices, scope=self.choices.widths, ignored_layers=(), pruning_ratio_dict={}
        )
        present = Preparation.of(model, example_inputs, self.calibration, choices)
        names = {g.places: g.name for g in present.groups}
        stored = set(cut.program.stored.values())
        for group in widths:
            places = frozenset(p for p in cut.group(group).places if p.tensor in stored)
            name = names.get(places)
            if name is None:
                continue
            kept = list(cut.plan.kept(group.name))
            found = present.evidence.scores[name]
            scores[group.name] = found.new_zeros(group.units).index_copy(
                0, torch.tensor(kept, device=found.device), found
            )
            if name in present.evidence.errors:
                curve = present.evidence.errors[name]
                errors[group.name] = torch.cat([curve.new_zeros(group.units - len(kept)), curve])
        return Evidence(scores, errors, cut.plan.drop)

    @cached_property
    def beside(self) -> Mapping[str, Tensor]:
        """Error of zeros and of few bits in the layers of the original, by name of their groups."""
        assert self.calibration is not None  # `check` refused the other case
        return self.removable.beside.errors(self.calibration)

    # -------------------------------------------------------------- costs

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """Exact cost of any candidate, by units kept per group."""
        return CandidateCosts(self.network, self.removable).by_name

    @cached_property
    def original(self) -> dict[str, float]:
        """Costs of the network as it is, by name."""
        return {name: cost({}) for name, cost in self.costs.items()}

    def kept(self, plan: Plan) -> dict[str, int]:
        """Units, and parts of weights where zeros are in scope, that a plan keeps, by group."""
        densities = self.removable.beside.densities
        parts = {} if densities is None else densities.kept(plan.sparsity)
        return {**parts, **{g.name: len(plan.kept(g.name)) for g in self.groups}}

    def with_zeros(self) -> Preparation:
        """The same network with zeros in scope too; what is known of its units stays known.

        Raises:
            StrategyError: The choices do not tell zeros and widths apart by their errors.
        """
        wider = replace(self, choices=replace(self.choices, scope=self.choices.scope | {WEIGHTS}))
        wider.check()
        vars(wider).update(judge=self.judge, evidence=self.evidence)  # as `cached_property` would
        return wider

    # -------------------------------------------------------------- decisions

    def demand(
        self, pruning_ratio: float | None = None, budgets: Mapping[str, float] | None = None
    ) -> Demand:
        """What is wanted, with the limits of the choices.

        Args:
            pruning_ratio: Share of units to drop.
            budgets: Absolute upper bounds by cost name.

        Returns:
            The demand.
        """
        ratios, branches = dict(self.removable.ratios), self.removable.branches
        if not self.choices.widths and branches is not None and pruning_ratio is not None:
            ratios.setdefault(branches.name, pruning_ratio)  # a share of the branches
            pruning_ratio = None
        self.removable.beside.check(budgets or {})
        return Demand(
            pruning_ratio=pruning_ratio,
            budgets=dict(budgets or {}),
            round_to=None if isinstance(self.choices.round_to, Mapping) else self.choices.round_to,
            steps=self.removable.steps,
            max_pruning_ratio=self.choices.max_pruning_ratio,
            ratios=ratios,
        )

    def plan(self, demand: Demand, evidence: Evidence | None = None) -> Plan:
        """Units to drop: as many as the allocation says, the lowest-scored first.

        Args:
            demand: What is wanted.
            evidence: What is known of the units; None for what the original tells.

        Returns:
            The plan.

        Raises:
            InfeasibleError: No permitted number of units meets the budgets.
        """
        if not self.groups and not self.removable.beside.groups:
            return self.removable.plan({})
        known = self.evidence if evidence is None else evidence
        costs = dict(self.costs)
        if self.removable.shortens:  # units inside a branch and the branch would count twice
            whole = self.original["params"]
            costs[SHARE] = lambda kept: self.costs["params"](kept) / whole
        kept = self._allocated(known, costs, demand)
        drop = {g.name: known.lowest(g.name, g.units - kept[g.name]) for g in self.groups}
        return self.removable.thinned(self.removable.plan(drop), kept)

    def _allocated(
        self, known: Evidence, costs: Mapping[str, Cost], demand: Demand
    ) -> dict[str, int]:
        """Units kept of every group; an allocation that tries candidates gets a measure."""
        chosen, beside = self.strategies.allocation, self.removable.beside.groups
        arguments = (known.scores, known.errors, costs, demand)
        if beside:
            scores = {name: curve.diff() for name, curve in self.beside.items()}
            errors = {**known.errors, **self.beside}
            groups = (*self.groups, *beside)
            return chosen(groups, {**known.scores, **scores}, errors, costs, demand)
        tries = self.strategies.tries
        if tries is None:
            return chosen(self.groups, *arguments)
        assert self.calibration is not None  # `check` refused the other case
        measure = Measure(
            program=self.network.program,
            groups=self.groups,
            lowest=known.lowest,
            cut=lambda drop: self.cut(self.removable.plan(drop)),
            calibration=self.calibration,
            proxy=tries.proxy,
            seed=self.choices.seed,
        )
        lost, line = watched(measure, self.strategies.allocation_name, tries.evaluations)
        with line:
            return cast("Allocation", tries.measuring(lost))(self.groups, *arguments)

    def cut(self, plan: Plan) -> Cut:
        """Apply a plan to the graph; the model is not touched.

        Raises:
            PlanError: The plan was made for another network.
        """
        return cut_by(self.network, plan)

    def group_figures(self, plan: Plan) -> tuple[GroupFigures, ...]:
        """What a plan does to every group of the network."""
        rows = []
        for group in self.removable.known:
            dropped = len(plan.drop.get(group.name, ()))
            curve = self.evidence.errors.get(group.name) if "evidence" in self.__dict__ else None
            error = float(curve[dropped]) if curve is not None else None
            rows.append(GroupFigures(group.name, group.units, group.units - dropped, error))
        return tuple(rows)

"""Preparation: everything a cut is decided from, gathered once, used for any number of budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.counts.macs import Counter
from penjing.counts.memory import Liveness
from penjing.counts.sizes import Shape
from penjing.errors import BudgetError, InputError, StrategyError
from penjing.figures import Figures, GroupFigures
from penjing.graph.blocks import Block, without
from penjing.graph.capture import Example, Program, call_args
from penjing.graph.network import Cut, Network
from penjing.graph.sizing import Sizing, node_shape
from penjing.plan import BLOCKS, LAYERS, WEIGHTS, WHOLE, Group, Groups, Kind, Plan, Scope
from penjing.pruning.ablation import Branches
from penjing.pruning.allocation import resolve as resolve_allocation
from penjing.pruning.allocation.protocol import Allocation, Cost, Demand
from penjing.pruning.allocation.space import SHARE
from penjing.pruning.allocation.trying import Tries
from penjing.pruning.density import COSTS, Densities
from penjing.pruning.depth import cut_by, with_branches
from penjing.pruning.importance import OBS
from penjing.pruning.importance import resolve as resolve_importance
from penjing.pruning.importance.protocol import HasErrors, HasReasons, Importance, Prepares
from penjing.pruning.patterns import Pattern
from penjing.pruning.saliency import Saliency
from penjing.pruning.selection import (
    Key,
    ignored_groups,
    is_kind,
    kept_whole,
    of_kind,
    ratios_by_group,
)
from penjing.pruning.weights.targets import Wanted
from penjing.recovery.fold import Fold
from penjing.recovery.reconstruct import Reconstruct
from penjing.recovery.repair import How
from penjing.recovery.tune import Tune
from penjing.task import Batch, Calibration
from penjing.task.batches import describe
from penjing.verbs.trials import Measure, watched

KIB = 1024  # a kB of flash or RAM is 1024 bytes, as data sheets have it
RUNNING = ("running_mean", "running_var")  # other buffers may hold infinity, masks for instance
BATCH = 128  # samples that the report's agreement is measured on at a time
PLACES = get_args(Scope)
KINDS = tuple(kind for kind in get_args(Kind) if kind != WEIGHTS)
WIDTHS = tuple(kind for kind in KINDS if kind != BLOCKS)
DEPTH = "depth"  # whole branches, alone or beside widths; "layers" for whole layers
SHORTER = (DEPTH, LAYERS)
BESIDE = (*SHORTER, WEIGHTS)  # scopes that are no widths
NO_LAYER = (
    "no whole layer can be removed: the network has fewer than two modules in a list that hold a "
    "residual branch and hand one tensor of the same shape on, or all of them are ignored"
)
NO_BRANCH = (
    "no branch can go whole: there is no `x + f(x)`, or one alone, whose f nothing else reads and "
    "that holds no layer to be left as it is"
)
REPAIRS = ("auto", "least_squares", "recalibrate", "tune", "fold")

Repair = (
    Literal["auto", "least_squares", "recalibrate", "tune", "fold"]
    | Reconstruct
    | Tune
    | Fold
    | None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How to prune, apart from how much.

    Args:
        importance: Short name, class, object or callable; None is "obs" with calibration data, else
            "l2".
        allocation: Short name, object or callable; None is "dp" with calibration data, else
            "uniform".
        repair: "auto" is least squares with calibration data, else off; "least_squares", its
            settings as a `Reconstruct`, "tune" (least squares, then gradient steps towards the
            original) or its settings as a `Tune`, "recalibrate" (norm statistics only), "fold"
            (units that go are merged into those that stay) or a `Fold`, or None.
        round_to: Units that remain are rounded up to a multiple of this, or by kind of units.
        max_pruning_ratio: Largest share of one group that may go.
        ignored_layers: Modules, names, globs or types that are left exactly as they are, inputs
            included.
        pruning_ratio_dict: Share of units to drop of single layers, by module, name, glob or type.
        scope: Which groups: "inner" ones live inside one branch, "residual" ones on a stream; kinds
            of units among them, such as "heads", leave the other kinds alone. "depth" removes whole
            blocks, alone or as well; "weights" makes zeros beside what is cut.
        pattern: Shape of those zeros.
        seed: Of everything random.
    """

    importance: str | Importance | Prepares | Saliency | type | None = None
    allocation: str | Allocation | None = None
    repair: Repair = "auto"
    round_to: int | Mapping[str, int] | None = None
    max_pruning_ratio: float = 0.9
    ignored_layers: tuple[Key, ...] = ()
    pruning_ratio_dict: Mapping[Any, float] = field(default_factory=dict)
    scope: frozenset[str] = frozenset({"inner", "residual"})
    pattern: Pattern = field(default_factory=Pattern)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.importance is not None:  # an unknown name is told before the first slow step
            resolve_importance(self.importance)
        if self.allocation is not None:
            resolve_allocation(self.allocation)
        if not isinstance(self.seed, int):
            raise StrategyError(f"seed is {self.seed!r}; it is a whole number")
        if set(self.scope) - {*PLACES, *WIDTHS, *BESIDE} or not self.scope:
            raise StrategyError(
                f"scope is {sorted(self.scope)}; it holds places ({', '.join(PLACES)}), kinds of "
                f"units ({', '.join(WIDTHS)}), or both; {DEPTH!r} or {LAYERS!r}, alone or as well; "
                f"and {WEIGHTS!r} beside any of them"
            )
        if set(SHORTER) <= self.scope:
            raise StrategyError(
                f"scope holds {DEPTH!r}, single branches, and {LAYERS!r}, all branches of a layer "
                "together; give one of them"
            )
        if self.scope == {WEIGHTS}:
            raise StrategyError(
                "scope is ['weights'] alone; zeros without a cut are made by penjing.sparsify"
            )
        if isinstance(self.round_to, Mapping) and set(self.round_to) - set(KINDS):
            raise BudgetError(
                f"round_to has the keys {sorted(self.round_to)}; by kind they are among "
                f"{', '.join(KINDS)}"
            )
        known = (
            self.repair is None
            or isinstance(self.repair, (Reconstruct, Tune, Fold))
            or self.repair in REPAIRS
        )
        if not known:
            raise StrategyError(
                f"repair is {self.repair!r}; known are {', '.join(map(repr, REPAIRS))}, None, a "
                "Reconstruct, a Tune or a Fold"
            )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the units of every group.

    Args:
        scores: Importance of every unit, by group.
        errors: Error after dropping the k lowest units, by group; empty where it is not known.
        gone: Units that are gone already, by group: the lowest, whatever their score.
    """

    scores: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]
    gone: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def lowest(self, name: str, count: int) -> list[int]:
        """The `count` units of group `name` that go first."""
        gone = list(self.gone.get(name, ()))
        rank = self.scores[name].detach().cpu().double().clone()
        rank[gone] = -1.0
        lowest: list[int] = torch.argsort(rank, stable=True)[: max(count, len(gone))].tolist()
        return lowest


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
        _ = self.importance, self.allocation, self.groups, self.ratios
        if not self.choices.scope - set(BESIDE) and not self.shortens:
            raise StrategyError(
                f"{self.no_branch}; cut widths instead, scope={{'inner', 'residual'}}"
            )
        if self.calibration is not None:
            check_fits(self.calibration, self.network.program)
        if WEIGHTS in self.choices.scope:
            self._check_zeros()
        if isinstance(self.allocation, Tries) and self.allocation.proxy != "predicted":
            what = f"allocation {self.allocation_name!r} measures candidates and"
        elif self._sees_data:
            what = f"importance {self.importance_name!r}"
        elif self.repair is not None:
            what = f"repair {self.repair_name!r}"
        else:
            return
        if self.calibration is None:
            raise StrategyError(
                f"{what} needs data; pass calibration=batches (unlabelled inputs are enough)"
            )
        self.calibration.at_least(2, what)

    def _check_zeros(self) -> None:
        """Refuse zeros beside widths where nothing makes the two comparable."""
        if not isinstance(self.importance, OBS) or self.calibration is None:
            raise StrategyError(
                f"scope holds {WEIGHTS!r}, and importance is {self.importance_name!r} "
                f"{'with' if self.calibration else 'without'} data; zeros and widths are weighed "
                "by their errors, so use importance='obs' and pass calibration=batches"
            )
        if self.choices.pattern.sparsity is not None:
            raise StrategyError(
                f"scope holds {WEIGHTS!r}, and pattern {self.choices.pattern.name!r} leaves no "
                "share of zeros to decide; use 'element', 'block:RxC' or 'kernel', or "
                "penjing.sparsify for this one"
            )
        if isinstance(self.allocation, Tries) and self.allocation.proxy != "predicted":
            raise StrategyError(
                f"scope holds {WEIGHTS!r}, and allocation {self.allocation_name!r} tries out units "
                "alone; use allocation='dp'"
            )

    def whole_batches(self, samples: Calibration) -> list[Batch]:
        """Samples in batches that the network takes; of a fixed batch, only whole ones."""
        return whole_batches(self.network.program, samples)

    # -------------------------------------------------------------- resolved choices

    @cached_property
    def importance(self) -> Importance | Prepares:
        """The importance that is used."""
        chosen = self.choices.importance
        if chosen is None:
            chosen = "obs" if self.calibration else "l2"
        found = resolve_importance(chosen)
        return _seeded(found, self.choices.seed) if isinstance(chosen, (str, type)) else found

    @property
    def _sees_data(self) -> bool:
        """Whether the importance reads calibration data; one that prepares does unless it says."""
        prepares = isinstance(self.importance, Prepares)
        return prepares and bool(getattr(self.importance, "needs_data", True))

    @property
    def importance_name(self) -> str:
        """Its name, for the report."""
        return _name(self.choices.importance, "obs" if self.calibration else "l2")

    @cached_property
    def allocation(self) -> Allocation:
        """The allocation that is used."""
        chosen = self.choices.allocation
        found = resolve_allocation(
            chosen if chosen is not None else "dp" if self.calibration else "uniform"
        )
        return _seeded(found, self.choices.seed) if isinstance(chosen, (str, type)) else found

    @property
    def allocation_name(self) -> str:
        """Its name, for the report."""
        return _name(self.choices.allocation, "dp" if self.calibration else "uniform")

    @property
    def repair(self) -> How | None:
        """The repair that is done."""
        return settled(self.choices.repair, self.calibration is not None, self.choices.seed)

    @property
    def repair_name(self) -> str:
        """Its name, for the report."""
        return repair_name(self.repair)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups that may be cut: in scope and not ignored."""
        known = self.known
        ignored = ignored_groups(self.model, known, self.choices.ignored_layers)
        scope = self.choices.scope
        widths = bool(scope - set(BESIDE))
        places = scope & set(PLACES) or set(PLACES)
        kinds = scope & set(WIDTHS) or set(WIDTHS)
        return tuple(
            g
            for g in known
            if g.name not in ignored
            and (g.kind == BLOCKS or (widths and g.scope in places and g.kind in kinds))
        )

    @cached_property
    def known(self) -> Groups:
        """All groups of the network, whole branches among them where they may go."""
        return with_branches(self.network.groups, self.branches)

    @cached_property
    def branches(self) -> Branches | None:
        """Whole branches, or layers; None where they are not in scope."""
        if not self.choices.scope & set(SHORTER):
            return None
        name = LAYERS if LAYERS in self.choices.scope else BLOCKS
        untouched = kept_whole(self.model, self.choices.ignored_layers)
        return Branches.of(self.network.program, untouched, self.calibration, name)

    @cached_property
    def densities(self) -> Densities | None:
        """Layers that may have zeros; None where zeros are not in scope."""
        if WEIGHTS not in self.choices.scope:
            return None
        wanted = Wanted(
            pattern=self.choices.pattern,
            ignored_layers=tuple(k for k in self.choices.ignored_layers if not is_kind(k)),
            indivisible="skip",
        )
        return Densities.of(self.model, self.network.program, wanted, self.choices.seed)

    @cached_property
    def thinning(self) -> Mapping[str, Tensor]:
        """Error of zeros in the layers of the original, by name of their groups."""
        assert self.calibration is not None  # `check` refused the other case
        return {} if self.densities is None else self.densities.errors(self.calibration)

    @property
    def no_branch(self) -> str:
        """Why nothing whole can be removed, where that was asked for."""
        return NO_LAYER if LAYERS in self.choices.scope else NO_BRANCH

    @cached_property
    def shortens(self) -> bool:
        """Whether whole branches may go."""
        return any(g.kind == BLOCKS for g in self.groups)

    @cached_property
    def ratios(self) -> dict[str, float]:
        """Ratios of single groups."""
        given = self.choices.pruning_ratio_dict
        layers = {k: v for k, v in given.items() if not is_kind(k) or k != f"kind:{BLOCKS}"}
        widths = [g for g in self.groups if g.kind != BLOCKS]
        found = ratios_by_group(self.model, widths, layers)
        if len(layers) < len(given):
            (name,) = of_kind(self.groups, f"kind:{BLOCKS}")
            found[name] = given[f"kind:{BLOCKS}"]
        return found

    # -------------------------------------------------------------- evidence

    @cached_property
    def judge(self) -> Importance:
        """The importance after it has seen the data."""
        if isinstance(self.importance, Prepares):
            return self.importance.prepare(self.network, self.calibration)
        return self.importance

    @property
    def reasons(self) -> Mapping[str, str]:
        """Groups that may be cut and were judged in a simpler way, and why."""
        judge = self.__dict__.get("judge")  # nothing is judged only to ask how
        found = judge.reasons if isinstance(judge, HasReasons) else {}
        return {g.name: found[g.name] for g in self.groups if g.name in found}

    @cached_property
    def evidence(self) -> Evidence:
        """What is known of the units of the original network."""
        widths = [g for g in self.groups if g.kind != BLOCKS]
        scores, errors = dict[str, Tensor](), dict[str, Tensor]()
        for group in widths:
            scores[group.name] = checked(group, self.judge(self.model, group))
            if isinstance(self.judge, HasErrors):
                errors[group.name] = self.judge.errors(group)
        if self.shortens and self.branches is not None:
            scores[self.branches.name] = self.branches.scores
            if len(errors) == len(widths):
                errors[self.branches.name] = self.branches.errors
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
        widths = [g for g in self.groups if g.kind != BLOCKS]
        if not widths:
            return Evidence(scores, errors, cut.plan.drop)
        scope = self.choices.scope - set(BESIDE)
        choices = replace(self.choices, scope=scope, ignored_layers=(), pruning_ratio_dict={})
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
    def original(self) -> dict[str, float]:
        """Costs of the network as it is, by name."""
        return {name: cost({}) for name, cost in self.costs.items()}

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """Exact cost of any candidate, by units kept per group: macs, params, ram_kb.

        With zeros in scope also effective_macs, nonzero and size_kb.
        """
        sizing = Sizing(self.network)
        counted: dict[int, tuple[Counter, Liveness]] = {}

        def counters(kept: Mapping[str, int]) -> tuple[Counter, Liveness]:
            gone = self._gone(kept)
            if len(gone) not in counted:  # which go follows from how many do
                program = self.network.program
                program = without(program, gone) if gone else program
                counted[len(gone)] = Counter(program), Liveness(program)
            return counted[len(gone)]

        def by_shape(count: Callable[[Counter, Liveness, Shape], float]) -> Cost:
            def cost(kept: Mapping[str, int]) -> float:
                shapes = sizing.shapes(kept)
                return count(*counters(kept), lambda node: node_shape(shapes, node))

            return cost

        def with_zeros(densities: Densities, which: int) -> Cost:
            def cost(kept: Mapping[str, int]) -> float:
                shapes = sizing.shapes(kept)
                shape = partial(node_shape, shapes)
                return densities.costs(counters(kept)[0], shape, kept)[which]

            return cost

        thin = self.densities
        zeros = {} if thin is None else {n: with_zeros(thin, i) for i, n in enumerate(COSTS)}
        return {
            **zeros,
            "macs": by_shape(lambda counter, _, shape: counter.macs(shape)),
            "params": by_shape(lambda counter, _, shape: counter.params(shape)),
            "ram_kb": by_shape(lambda _, live, shape: live.peak(shape).ram_bytes / KIB),
        }

    def _gone(self, kept: Mapping[str, int]) -> tuple[Block, ...]:
        """Branches that go when so many units stay."""
        if self.branches is None or self.branches.name not in kept:
            return ()
        return self.branches.gone(kept)

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
        ratios = dict(self.ratios)
        depth_alone = not self.choices.scope - set(BESIDE)
        if depth_alone and self.branches is not None and pruning_ratio is not None:
            ratios.setdefault(self.branches.name, pruning_ratio)  # a share of the branches
            pruning_ratio = None
        if self.densities is not None and not set(budgets or {}) & set(COSTS):
            raise BudgetError(
                f"scope holds {WEIGHTS!r} and no budget counts zeros; give constraints for one of "
                f"{', '.join(COSTS)}"
            )
        return Demand(
            pruning_ratio=pruning_ratio,
            budgets=dict(budgets or {}),
            round_to=None if isinstance(self.choices.round_to, Mapping) else self.choices.round_to,
            steps=self._steps,
            max_pruning_ratio=self.choices.max_pruning_ratio,
            ratios=ratios,
        )

    @property
    def _steps(self) -> dict[str, int]:
        """Multiples of single groups, where they are given by kind."""
        given = self.choices.round_to
        parts = {} if self.densities is None else {g.name: 1 for g in self.densities.groups}
        if not isinstance(given, Mapping):
            return parts
        return {**parts, **{g.name: given[g.kind] for g in self.groups if g.kind in given}}

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
        if not self.groups and self.densities is None:
            return self._plan({})
        known = self.evidence if evidence is None else evidence
        costs = dict(self.costs)
        if self.shortens:  # units inside a branch and the branch would count twice
            whole = self.original["params"]
            costs[SHARE] = lambda kept: self.costs["params"](kept) / whole
        kept = self._allocated(known, costs, demand)
        drop = {g.name: known.lowest(g.name, g.units - kept[g.name]) for g in self.groups}
        return self._thinned(self._plan(drop), kept)

    def _thinned(self, plan: Plan, kept: Mapping[str, int]) -> Plan:
        """A plan with the zeros of an allocation, but for layers that go as a whole."""
        if self.densities is None:
            return plan
        gone = {fqn for block in self._gone(kept) for fqn in block.owned}
        zeros = self.densities.sparsities(kept)
        sparsity = {name: share for name, share in zeros.items() if name not in gone}
        return replace(plan, sparsity=sparsity, pattern=self.choices.pattern.name)

    def _plan(self, drop: Mapping[str, list[int]]) -> Plan:
        """A plan of units and branches; what is inside a branch that goes is not cut before."""
        name = "" if self.branches is None else self.branches.name
        gone = () if self.branches is None else self.branches.every
        owned = {fqn for number in drop.get(name, ()) for fqn in gone[number].owned}
        inside = {g.name for g in self.groups if g.slices and {s.tensor for s in g.slices} <= owned}
        chosen = {n: tuple(sorted(u)) for n, u in drop.items() if u and n not in inside}
        return Plan(chosen, {g.name: g.units for g in self.known}, self.known.fingerprint)

    def cut(self, plan: Plan) -> Cut:
        """Apply a plan to the graph; the model is not touched.

        Raises:
            PlanError: The plan was made for another network.
        """
        return cut_by(self.network, plan)

    def _allocated(
        self, known: Evidence, costs: Mapping[str, Cost], demand: Demand
    ) -> dict[str, int]:
        """Units kept of every group; an allocation that tries candidates gets a measure."""
        chosen, arguments = self.allocation, (known.scores, known.errors, costs, demand)
        if self.densities is not None:
            groups = (*self.groups, *self.densities.groups)
            scores = {name: curve.diff() for name, curve in self.thinning.items()}
            errors = {**known.errors, **self.thinning}
            return chosen(groups, {**known.scores, **scores}, errors, costs, demand)
        if not isinstance(chosen, Tries) or chosen.proxy == "predicted":
            return chosen(self.groups, *arguments)
        assert self.calibration is not None  # `check` refused the other case
        measure = Measure(
            program=self.network.program,
            groups=self.groups,
            lowest=known.lowest,
            cut=lambda drop: self.cut(self._plan(drop)),
            calibration=self.calibration,
            proxy=chosen.proxy,
            seed=self.choices.seed,
        )
        lost, line = watched(measure, self.allocation_name, chosen.evaluations)
        with line:
            return cast("Allocation", chosen.measuring(lost))(self.groups, *arguments)

    def group_figures(self, plan: Plan) -> tuple[GroupFigures, ...]:
        """What a plan does to every group of the network."""
        rows = []
        for group in self.known:
            dropped = len(plan.drop.get(group.name, ()))
            curve = self.evidence.errors.get(group.name) if "evidence" in self.__dict__ else None
            error = float(curve[dropped]) if curve is not None else None
            rows.append(GroupFigures(group.name, group.units, group.units - dropped, error))
        return tuple(rows)


def settled(chosen: Repair, data: bool, seed: int) -> How | None:
    """The repair that a choice stands for.

    Args:
        chosen: As the caller gave it.
        data: Whether there is calibration data.
        seed: Of the call.

    Returns:
        The repair with its settings; None for none.
    """
    if chosen == "auto":
        return Reconstruct(seed=seed) if data else None
    if chosen == "least_squares":
        return Reconstruct(seed=seed)
    if chosen == "tune":
        return Tune(first=Reconstruct(seed=seed), seed=seed)
    if chosen == "fold":
        return Fold()
    return chosen


def repair_name(repair: How | None) -> str:
    """Name of a repair, for the report."""
    if isinstance(repair, Reconstruct):
        return "least_squares"
    if isinstance(repair, Fold):
        return "fold"
    return "off" if repair is None else "recalibrate" if repair == "recalibrate" else "tune"


def program_figures(program: Program) -> Figures:
    """What can be counted on a graph alone."""
    counter = Counter(program)
    layers = counter.figures()
    tensors = {
        id(program.tensors[n]): program.tensors[n]
        for n in program.parameters
        if n in program.tensors
    }
    return Figures(
        params=counter.params(),
        nonzero=sum(int(torch.count_nonzero(t)) for t in tensors.values()),
        macs=counter.macs(),
        ram_bytes=Liveness(program).peak().ram_bytes,
        how={
            "params": "counted, tied parameters once",
            "nonzero": "counted, tied parameters once",
            "macs": "counted on the graph: convolutions and matrix products at batch one, no bias",
            "ram_bytes": "peak of live activations at batch one, by liveness on the exported graph",
        },
        layers=layers,
    )


def whole_batches(program: Program, samples: Calibration) -> list[Batch]:
    """Samples in batches that a network takes; of a fixed batch, only whole ones.

    Args:
        program: The network.
        samples: Unlabelled samples.
    """
    if program.dynamic_batch:
        return [Batch(inputs, None, samples.dims) for inputs in samples.batches(BATCH)]
    cut = (inputs for inputs in samples.batches(program.batch))
    whole = (b for b in cut if program.samples(program.flatten_inputs(b)) == program.batch)
    return [Batch(inputs, None, samples.dims) for inputs in whole]


def check_fits(calibration: Calibration, program: Program) -> None:
    """Refuse calibration data that is not like the example inputs in all but the batch.

    Raises:
        InputError: Shows both.
    """
    sample = next(calibration.batches(1))
    leaves, structure = pytree.tree_flatten(call_args(sample))
    same = structure == program.in_spec and all(
        _row(given, dim or 0) == _row(wanted, dim or 0)
        for given, wanted, dim in zip(leaves, program.example, program.batch_dims, strict=True)
        if isinstance(wanted, Tensor)
    )
    if not same:
        example = pytree.tree_unflatten(list(program.example), program.in_spec)
        positional, by_name = example
        raise InputError(
            f"calibration has samples of {describe(sample)}, the example inputs are "
            f"{describe(by_name or positional)}; only dimension 0, the batch, may differ. Give "
            "both as the network takes them, transform_fn= makes them so"
        )


def _row(value: Any, dim: int) -> Any:
    """What every sample of an input shares."""
    if not isinstance(value, Tensor):
        return type(value)
    return value.dtype, (*value.shape[:dim], *value.shape[dim + 1 :])


def check_finite(model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputError: Names the first such tensor and how many of its values are bad.
    """
    statistics = [b for b in model.named_buffers() if b[0].endswith(RUNNING)]
    for name, tensor in [*model.named_parameters(), *statistics]:
        bad = int((~torch.isfinite(tensor.detach())).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(
                f"{name!r} holds {bad} of {tensor.numel()} values that are NaN or infinite; "
                "load a checkpoint from before the training diverged"
            )


def checked(group: Group, scores: Tensor) -> Tensor:
    """Scores of an importance, refused when they break its contract.

    Raises:
        StrategyError: Wrong shape, or a value that is negative or not finite.
    """
    if not isinstance(scores, Tensor):
        raise StrategyError(
            f"the importance gave a {type(scores).__name__} for group {group.name!r}; it gives a "
            f"tensor of {group.units} scores"
        )
    if scores.shape != (group.units,):
        raise StrategyError(
            f"the importance gave scores of shape {tuple(scores.shape)} for group {group.name!r} "
            f"of {group.units} units"
        )
    if not bool(torch.isfinite(scores).all()) or bool((scores < 0).any()):
        raise StrategyError(
            f"the importance gave a score that is negative or not finite in group {group.name!r}"
        )
    return scores


def _seeded(strategy: Any, seed: int) -> Any:
    """A strategy of defaults with the seed of the call, where it takes one."""
    takes = is_dataclass(strategy) and any(f.name == "seed" for f in fields(strategy))
    return replace(strategy, seed=seed) if takes and not isinstance(strategy, type) else strategy


def _name(chosen: object, default: str) -> str:
    if chosen is None:
        return default
    if isinstance(chosen, str):
        return chosen
    return getattr(chosen, "__name__", type(chosen).__name__)

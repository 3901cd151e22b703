"""`prune`: remove units, prove the cut, repair what is left."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from penjing.counts.figures import program_figures
from penjing.counts.reach import with_reach
from penjing.errors import BudgetError, PlanError, VerificationError
from penjing.figures import Proof, RepairFigures, SparsityFigures
from penjing.graph.attributes import differing, write
from penjing.graph.capture import Example, Program, capture, dims_of
from penjing.graph.experts import run_anew
from penjing.graph.form import held_sizes, spelled
from penjing.graph.network import Cut, Network
from penjing.plan import BLOCKS, LAYERS, Group, Plan
from penjing.pruning.allocation.protocol import Allocation, Demand
from penjing.pruning.allocation.space import options, units_dropped
from penjing.pruning.budgets import absolute
from penjing.pruning.density import choose_zeros
from penjing.pruning.depth import Shortened, make_short, remove_blocks
from penjing.pruning.importance import OBS
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.layers import Fewer
from penjing.pruning.patterns import Pattern
from penjing.pruning.pretrained import carry_config, describe_config
from penjing.pruning.result import Made, make, with_tensors
from penjing.pruning.saliency import Saliency
from penjing.pruning.selection import Key, kept_whole, several
from penjing.pruning.surgery import shrink, write_tensors
from penjing.pruning.verify import Mismatch
from penjing.quantization.mixed import BITS, words
from penjing.record import remember
from penjing.recovery.repair import repair, zeroed
from penjing.recovery.zeros import supporting
from penjing.report import Coupling, Histogram, Report, ReportData, environment
from penjing.task import Calibration
from penjing.task.randomness import random_kept
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.choices import DEPTH, Choices
from penjing.verbs.enough import too_few_samples
from penjing.verbs.preparation import Preparation
from penjing.verbs.repairs import Repair

BINS = 41  # of a weight histogram, odd so that zero has a bin of its own
TOLD = 3  # groups that a note names
TOLD_OF_EXPERTS = (
    "the experts now run as experts_implementation='batched_mm': torch's grouped product takes "
    "rows of whole 16 bytes only (round_to=4, or 8 in half precision, leaves such)"
)
PLAIN_RANK = 2  # rows of features, whose number no network leaves open
HISTOGRAMS = 6  # the largest weights are drawn


@dataclass(frozen=True, slots=True)
class Pruned:
    """A smaller network.

    Args:
        model: Of the user's own class when its forward allows it, else a graph module; trainable
            either way.
        plan: What was removed, as data; `penjing.prune(fresh, example_inputs, plan=plan)` repeats
            it.
        report: Figures before and after, the proof, the repair.
    """

    model: nn.Module
    plan: Plan
    report: Report


@arguments_checked
def prune(  # noqa: PLR0913 - the public contract: names that users of other pruners know
    model: nn.Module,
    example_inputs: Example,
    *,
    pruning_ratio: float | None = None,
    constraints: Mapping[str, float | str] | None = None,
    plan: Plan | None = None,
    calibration: Any = None,
    importance: str | Importance | Prepares | Saliency | type | None = None,
    allocation: str | Allocation | None = None,
    repair: Repair = "auto",
    round_to: int | Mapping[str, int] | None = None,
    ignored_layers: Iterable[Key] | Key = (),
    pruning_ratio_dict: Mapping[Any, float] | None = None,
    max_pruning_ratio: float = 0.9,
    iterative_steps: int = 1,
    pattern: str | Pattern = "element",
    weight_bits: Sequence[int] = BITS,
    scope: Iterable[str] = ("inner", "residual"),
    transform_fn: Callable[[Any], Any] | None = None,
    seed: int = 0,
    inplace: bool = False,
) -> Pruned:
    """Remove whole units (channels, neurons) from a network and repair it without labels.

    Args:
        model: Any network that `torch.export` takes. Left alone unless `inplace`.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on the network's
            device.
        pruning_ratio: Share of units to remove, 0 <= x < 1: of every group under "uniform", of all
            units weighted by their parameters under any other allocation.
        constraints: Upper bounds instead of a ratio: macs, params, ram_kb, and with zeros those
            named under `scope`; a number, or "50%" of the original.
        plan: A plan made before, instead of a ratio or constraints.
        calibration: Batches of inputs alone, or with labels, which only an importance with a loss
            reads ("snip", "grasp", "mutual_information", losses of your own).
        importance: "l1", "l2", "linf", "bn_scale", "fpgm", "random", "taylor", "fisher", "obs",
            "snip", "grasp", "synflow", "apoz", "mean_activation", "entropy", "mutual_information",
            "hrank", "chip", "ablation", "sensitivity" or an object; None is "obs" with calibration,
            else "l2".
        allocation: "uniform", "global", "lamp", "isomorphic", "sensitivity", "dp", or one that
            tries candidates out ("netadapt", "local_search", "genetic", "reinforcement"), or an
            object; None is "dp" with calibration, else "uniform".
        repair: "auto" (least squares with calibration, else off), "least_squares", a `Reconstruct`,
            "tune" (then gradient steps towards the original), a `Tune`, "fold" (units that go are
            merged into those that stay), a `Fold`, "recalibrate", None.
        round_to: Units that remain are rounded up to a multiple of this; by kind of units, as
            {"neurons": 16}, kinds that are not named are not rounded.
        ignored_layers: Modules, names, globs or types that stay exactly as they are, at their
            inputs too; "kind:heads" is every group of that kind.
        pruning_ratio_dict: Share of units to remove by module, name, glob, type or kind
            ("kind:heads"); the first key that matches counts.
        max_pruning_ratio: Largest share of one group that may go.
        iterative_steps: Reach the goal in this many steps, judging and repairing anew after each.
        pattern: Shape of zeros beside what is cut: "element", "block:RxC", "kernel".
        weight_bits: Bits to choose from with "bits" in scope, each from 1 to 8.
        scope: Which groups may be cut: "inner", "residual" (the streams that branches add to), or
            both; with kinds of units ("channels", "neurons", "heads", "head dims", "embedding",
            "hidden units", "experts") only those kinds. "depth" removes whole residual branches,
            the one whose loss moves the outputs least first: alone, when a ratio is a share of the
            branches, or beside widths, when it is a share of the parameters under all allocations
            but "uniform" and "isomorphic". "layers" does so with whole layers, all branches of each
            together with their norms. "weights" makes weights zero beside what is cut, widths
            and zeros decided together, under constraints that count them: effective_macs
            (multiply-accumulates with weights that are not zero), nonzero, size_kb (weights as
            `save` packs them). "bits" chooses the bits of every layer's weights in the same
            allocation, for `quantize(weight_bits_dict=plan.bits)`; size_kb is then that of the
            network in integers, and bit_operations are effective_macs times bits of weight and
            activation. Shares are of the network in floats.
        transform_fn: Makes a batch from what `calibration` yields.
        seed: Of everything random; the same seed gives the same plan.
        inplace: Write the result into `model` itself; refused when only a graph module can express
            it.

    Returns:
        The smaller network, the plan and the report.

    Raises:
        InputError: Bad example inputs, weights or calibration data.
        CaptureError: The network does not export.
        BudgetError: A ratio or constraint that makes no sense; `InfeasibleError` when none can meet
            it.
        PlanError: The plan was made for another network.
        StrategyError: An unknown strategy, or layers that match nothing.
        VerificationError: The cut differs from the masked original, or cannot be done in place.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> pruned = prune(net, torch.ones(1, 4), pruning_ratio=0.5)
        >>> pruned.model[0].out_features
        4
    """
    started = time.perf_counter()
    goal = Goal(pruning_ratio, constraints, plan, iterative_steps)
    if goal.is_empty and not pruning_ratio_dict:
        raise BudgetError("give one of pruning_ratio, constraints and plan; got none")
    choices = Choices(
        importance=importance,
        allocation=allocation,
        repair=repair,
        round_to=round_to,
        max_pruning_ratio=max_pruning_ratio,
        ignored_layers=several(ignored_layers),
        pruning_ratio_dict=dict(pruning_ratio_dict or {}),
        scope=frozenset({scope} if isinstance(scope, str) else scope),
        pattern=Pattern.parse(pattern),
        weight_bits=tuple(weight_bits),
        seed=seed,
    )
    samples = None
    if calibration is not None:
        dims = dims_of(model, example_inputs)
        samples = Calibration.of(calibration, transform_fn, seed=seed, dims=dims)
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    with random_kept():
        torch.manual_seed(seed)
        worker, example = _on_cpu(model, example_inputs, home)
        work = _prune_in_steps(worker, example, samples, choices, goal)
        told = (
            *_told_of(worker, work),
            *_nearest_legal(work.preparation, goal),
            *_judged_otherwise(work),
        )
        work = replace(work, notes=(*work.notes, *told))
        data = work.report_data(worker, samples)
        result = _placed(model, work, home, inplace)
    remember(result, model, example_inputs, work.plan)
    report = Report(replace(data, seconds=time.perf_counter() - started))
    return Pruned(result, work.plan, report)


@dataclass(frozen=True, slots=True)
class Goal:
    """How much is asked for, by at most one of a ratio, bounds and a plan.

    Args:
        pruning_ratio: Share of units.
        constraints: Bounds as the caller wrote them.
        plan: A plan that decides instead; carried out in one step.
        steps: Steps in which the goal is reached, by equal factors.
    """

    pruning_ratio: float | None = None
    constraints: Mapping[str, float | str] | None = None
    plan: Plan | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("pruning_ratio", "constraints", "plan")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise BudgetError(f"give one of pruning_ratio, constraints and plan; got {given}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise BudgetError(
                f"iterative_steps is {self.steps!r}; it is a whole number of steps, at least 1"
            )
        if not isinstance(self.constraints, (Mapping, type(None))):
            raise BudgetError(
                f"constraints is {self.constraints!r}; name what is bounded, "
                "such as {'macs': '50%'}"
            )
        if not isinstance(self.plan, (Plan, type(None))):
            raise PlanError(
                f"plan is a {type(self.plan).__name__}, not a Plan; "
                "Plan.from_json reads a stored one"
            )
        if self.plan is not None and self.steps > 1:
            raise BudgetError(
                f"iterative_steps is {self.steps} with a plan; a plan is carried out in one step"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.pruning_ratio is None and self.constraints is None and self.plan is None

    def demand(self, preparation: Preparation, step: int) -> Demand:
        """What is wanted of the original network after `step`."""
        whole = preparation.demand(
            self.pruning_ratio, absolute(self.constraints or {}, preparation.original)
        )
        share = step / self.steps
        return whole if share == 1 else _part_of(whole, share, preparation.original)


def _part_of(whole: Demand, share: float, original: Mapping[str, float]) -> Demand:
    """A demand that is `share` of the way from nothing to `whole`."""

    def part(ratio: float) -> float:
        return 1.0 - math.pow(1.0 - ratio, share)

    return replace(
        whole,
        pruning_ratio=None if whole.pruning_ratio is None else part(whole.pruning_ratio),
        ratios={name: part(ratio) for name, ratio in whole.ratios.items()},
        budgets={
            name: max(bound, original[name] * math.pow(bound / original[name], share))
            for name, bound in whole.budgets.items()
        },
    )


@dataclass(frozen=True, eq=False)
class Work:
    """A pruned network on the CPU with everything a report tells.

    Args:
        model: The result.
        preparation: The original network, and what is known of it.
        cut: What went.
        proof: That the cut is right.
        repair: What repair did, layer by layer.
        tensors: Tensors of the result by name.
        zeros: Layers with zeros.
        notes: What the reader of the report must know.
        given: Whether the plan was given, and not made here.
    """

    model: nn.Module
    preparation: Preparation
    cut: Cut
    proof: Proof
    repair: tuple[RepairFigures, ...]
    tensors: Mapping[str, Tensor]
    zeros: tuple[SparsityFigures, ...] = ()
    notes: tuple[str, ...] = ()
    given: bool = False

    @property
    def plan(self) -> Plan:
        """The plan that was carried out."""
        return self.cut.plan

    def _decided(self, name: str) -> str:
        """Strategies that decided what goes; none did where a plan was given."""
        return "a plan was given" if self.given else name

    @property
    def network(self) -> Network:
        """The original network, analysed."""
        return self.preparation.network

    def report_data(self, original: nn.Module, samples: Calibration | None) -> ReportData:
        """Everything that can be told without timing or labels."""
        choices, strategies = self.preparation.choices, self.preparation.strategies
        agreement = None
        batches = [] if samples is None else self.preparation.telling_batches(samples)
        if batches:
            from penjing.task import agreement as share_alike

            agreement = share_alike(self.model, original, batches)
        found = with_reach(self.network)
        return ReportData(
            kind="prune",
            title=type(original).__name__,
            before=program_figures(self.network.program),
            after=program_figures(with_tensors(self.cut.program, self.tensors)),
            agreement=agreement,
            groups=self.preparation.group_figures(self.cut.plan),
            sparsity=self.zeros,
            repair=self.repair,
            histograms=histograms(self.network, self.tensors),
            locked=found.locked,
            coupling=Coupling.of(found),
            proof=self.proof,
            choices={
                "importance": self._decided(strategies.importance_name),
                "allocation": self._decided(strategies.allocation_name),
                "repair": strategies.repair_name,
                "scope": ", ".join(sorted(choices.scope)),
                "round_to": str(choices.round_to or 1),
                "max_pruning_ratio": str(choices.max_pruning_ratio),
                "calibration samples": str(samples.samples if samples else 0),
                "seed": str(choices.seed),
            },
            environment=environment(),
            notes=self.notes,
        )


def _prune_in_steps(
    model: nn.Module,
    example: Example,
    samples: Calibration | None,
    choices: Choices,
    goal: Goal,
) -> Work:
    """Cut, prove and repair, step by step.

    Each step judges the units on the network that the step before left, and cuts the original: what
    comes out is what the final plan alone gives.
    """
    for name, scope in ((BLOCKS, DEPTH), (LAYERS, LAYERS)):
        if goal.plan is not None and name in goal.plan.drop:
            choices = replace(choices, scope=choices.scope | {scope})
    preparation = Preparation.of(model, example, samples, choices)
    if goal.plan is not None:
        _leaves_ignored(preparation, goal.plan)
        return replace(one_cut(preparation, goal.plan), given=True)
    work = one_cut(preparation, preparation.plan(goal.demand(preparation, 1)))
    for step in range(2, goal.steps + 1):
        evidence = preparation.after(work.cut, work.model, example)
        work = one_cut(preparation, preparation.plan(goal.demand(preparation, step), evidence))
    return work


def _leaves_ignored(preparation: Preparation, plan: Plan) -> None:
    """Refuse a plan that cuts what the call leaves out."""
    plan.check(preparation.removable.known)
    stored = set(preparation.network.program.stored.values())
    if foreign := sorted(set(plan.bits) - stored):
        raise PlanError(
            f"the plan has bits for {foreign[0]!r}, which is no weight of this network; was the "
            "plan made for another model?"
        )
    outside = sorted(set(plan.drop) - {g.name for g in preparation.groups})
    if outside:
        raise PlanError(
            f"the plan cuts group {outside[0]!r}, which ignored_layers or scope leave out; give "
            "the plan alone, or make one with these choices"
        )
    ignored = kept_whole(preparation.model, preparation.choices.ignored_layers)
    zeros = [n for n in sorted(plan.sparsity) if {n, n.rpartition(".")[0]} & ignored]
    if zeros:
        raise PlanError(
            f"the plan makes weights of {zeros[0]!r} zero, which ignored_layers leaves out; give "
            "the plan alone, or make one with these choices"
        )


def one_cut(preparation: Preparation, plan: Plan) -> Work:
    """Carry out one plan: surgery, proof, repair.

    Args:
        preparation: What the plan was made from.
        plan: What goes.

    Returns:
        The result on the CPU.

    Raises:
        VerificationError: The cut or the repaired network is not what it should be.
    """
    cut = preparation.cut(plan)
    try:
        made = _made(preparation, cut)
    except Mismatch as error:
        raise VerificationError(
            f"{error}. Leave the layers of that node out with ignored_layers=, and please report "
            "the network"
        ) from error
    tensors, rows = repaired(preparation, cut)
    made.write(tensors)
    after = {**cut.program.tensors, **tensors}
    return Work(
        model=made.model,
        preparation=preparation,
        cut=cut,
        proof=made.proof,
        repair=tuple(rows),
        tensors=after,
        zeros=tuple(_zeros_of(name, plan, after) for name in plan.sparsity),
        notes=_notes(preparation, cut),
    )


def unrepaired(preparation: Preparation, plan: Plan) -> nn.Module:
    """The network of a plan as it is before repair, in eval mode, on the CPU.

    Raises:
        Mismatch: The cut network is not what it should be.
    """
    bare = replace(preparation, choices=replace(preparation.choices, repair=None))
    cut = bare.cut(plan)
    made = _made(bare, cut)
    made.write(repaired(bare, cut)[0])
    return made.model.eval()


def _zeros_of(name: str, plan: Plan, tensors: Mapping[str, Tensor]) -> SparsityFigures:
    """What became zero in one layer."""
    weight = tensors[name]
    layer = name.removesuffix(".weight")
    return SparsityFigures(layer, weight.numel(), int(weight.count_nonzero()), plan.pattern)


def _made(preparation: Preparation, cut: Cut) -> Made:
    """The cut network; a copy where nothing goes."""
    if isinstance(cut, Shortened):
        return make_short(preparation.model, cut, preparation.choices.seed)
    if cut.plan.drop:
        return make(preparation.model, cut, preparation.choices.seed)
    return Made(copy.deepcopy(preparation.model), Proof(0.0, 0.0, 0.0, 0, "module"))


def _notes(preparation: Preparation, cut: Cut) -> tuple[str, ...]:
    """What the reader must know of what went, of what could not, and of bits."""
    bits = cut.plan.bits
    chosen = (f"bits for quantize(weight_bits_dict=plan.bits): {words(bits)}",) if bits else ()
    return (*chosen, *_gone(preparation, cut), *_short_of_data(preparation, cut))


def _short_of_data(preparation: Preparation, cut: Cut) -> tuple[str, ...]:
    """That calibration data is too little for the matrices that were made of it."""
    strategies, samples = preparation.strategies, preparation.calibration
    solves = isinstance(strategies.importance, OBS) or strategies.repair_name in {
        "least_squares",
        "tune",
    }
    if samples is None or not solves or cut.plan.is_empty:
        return ()
    told = too_few_samples(preparation.network.program, samples)
    return (told,) if told else ()


def _gone(preparation: Preparation, cut: Cut) -> tuple[str, ...]:
    if isinstance(cut, Shortened):
        names = ", ".join(block.name for block in cut.blocks)
        if LAYERS in cut.plan.drop:
            return (f"whole layers were removed: {names}",)
        return (f"whole branches were removed, these layers and all before them in it: {names}",)
    if not preparation.groups and not cut.plan.sparsity and not cut.plan.bits:
        return (f"nothing was cut: the network has no group in scope{_locks(preparation)}",)
    removable = preparation.removable
    if removable.branches is not None and not removable.shortens:
        return (removable.no_branch,)
    return ()


def _locks(preparation: Preparation) -> str:
    """Why a network without any group has none: the reasons that lock most of its parameters."""
    known = preparation.network.groups
    if known.groups or not known.locked:
        return ""
    reasons = dict.fromkeys(lock.reason for lock in known.locked)
    return f"; all is locked: {'; '.join(list(reasons)[:TOLD])}"


def repaired(preparation: Preparation, cut: Cut) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for the tensors of a cut network.

    Args:
        preparation: Says which repair, and holds the samples.
        cut: What goes.

    Returns:
        Qualified name -> value, and a row per layer.
    """
    samples, how = preparation.calibration, preparation.strategies.repair
    if cut.plan.sparsity:
        return _thinned(preparation, cut)
    if how is None or samples is None or not cut.plan.drop:
        return {}, []
    return repair(cut, samples, how)


def _thinned(preparation: Preparation, cut: Cut) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for a cut network of which weights become zero as well."""
    plan, samples, how = cut.plan, preparation.calibration, preparation.strategies.repair
    pattern = Pattern.parse(plan.pattern)
    targets, kept, judge = choose_zeros(
        preparation.model, cut.program, plan.sparsity, pattern, samples
    )
    changed = zeroed(cut, {name: t.tensor(kept[name]) for name, t in targets.items()})
    tensors = {name: changed.program.tensors[name] for name in targets}
    if how is None or samples is None:
        return tensors, []
    support = supporting(kept, targets, judge, plan.sparsity)
    solved, rows = repair(changed, samples, how, support)
    return {**tensors, **solved}, rows


def histograms(network: Network, tensors: Mapping[str, Tensor]) -> tuple[Histogram, ...]:
    """Weights before and after, of the largest tensors that changed."""
    names = [
        n
        for n in network.program.parameters
        if n in tensors and network.program.tensors[n].dim() > 1
    ]
    names.sort(key=lambda n: (-network.program.tensors[n].numel(), n))
    out = []
    for name in names[:HISTOGRAMS]:
        before, after = (
            network.program.tensors[name].detach().float(),
            tensors[name].detach().float(),
        )
        limit = max(float(before.abs().max()), float(after.abs().max()), 1e-12)
        edges = torch.linspace(-limit, limit, BINS + 1)
        counts = [torch.histogram(t.flatten(), edges).hist.int().tolist() for t in (before, after)]
        out.append(Histogram(name, tuple(edges.tolist()), tuple(counts[0]), tuple(counts[1])))
    return tuple(out)


def _told_of(original: nn.Module, work: Work) -> tuple[str, ...]:
    """What the reader must know about the form of the result."""
    seed = work.preparation.choices.seed
    told = (
        *_batch_elsewhere(work.network.program),
        *_sizes_held(work),
        *describe_config(original, work.model, work.cut, seed),
    )
    return (*told, TOLD_OF_EXPERTS) if run_anew(original, work.model) else told


def _batch_elsewhere(program: Program) -> tuple[str, ...]:
    """Where the batch is, in words, when it is not in dimension 0 of every input."""
    dims = [dim for dim in program.batch_dims if dim is not None]
    if not any(dims):
        return ()
    places = f"dimension {dims[0]}" if len(set(dims)) == 1 else f"dimensions {dims} of the inputs"
    return (f"the batch is in {places}; calibration data has it there too",)


def _sizes_held(work: Work) -> tuple[str, ...]:
    """Input sizes that a graph form holds fixed, in words."""
    if work.proof.form != "graph":
        return ()
    program = work.cut.program
    held = held_sizes(program).items()
    told = []
    if not program.dynamic_batch:
        told.append(
            f"the network was captured with its batch of {program.batch} fixed, since its forward "
            "writes the batch into the graph"
        )
    fixed = [
        spelled(name, sizes) for name, sizes in held if len(sizes) > PLAIN_RANK or None not in sizes
    ]
    if fixed:
        told.append(
            f"the graph form holds the example's sizes fixed: it takes {', '.join(fixed)}; for "
            "another size, prune with an example of that size"
        )
    return tuple(told)


def _nearest_legal(preparation: Preparation, goal: Goal) -> tuple[str, ...]:
    """Groups that could not lose the share asked for, in words, with the share that they lost."""
    if goal.plan is not None:
        return ()
    demand = goal.demand(preparation, goal.steps)
    shared = demand.pruning_ratio if preparation.strategies.allocation_name == "uniform" else None
    rows = []
    for group in preparation.groups:
        asked = demand.ratios.get(group.name, shared)
        step = demand.step(group.name)
        least = int(options(group.units, demand, step=step, least=group.least)[0])
        if asked is not None and group.units - units_dropped(group.units, asked) < least:
            share = 1 - least / group.units
            rows.append(
                f"{group.name!r} {share:.3g} of its {group.units} units (asked {asked:.3g}"
                f"{_coupled(group)}"
                f"{f'; {group.least_why}' if least == group.least > 1 else ''})"
            )
    if not rows:
        return ()
    more = f" and {len(rows) - TOLD} more" if len(rows) > TOLD else ""
    return (
        "a group keeps one whole unit at least, and as many as round_to and max_pruning_ratio say; "
        f"the nearest share was taken for {', '.join(rows[:TOLD])}{more}",
    )


def _judged_otherwise(work: Work) -> tuple[str, ...]:
    """Groups that the importance could not judge in its own way, in words, with the reason."""
    judge = work.preparation.strategies.importance_name
    groups: dict[str, list[str]] = {}
    for name, reason in ({} if work.given else work.preparation.reasons).items():
        groups.setdefault(reason, []).append(repr(name))
    return tuple(
        f"the importance {judge!r} did not judge every group in its own way: "
        f"{', '.join(names[:TOLD])}"
        f"{f' and {len(names) - TOLD} more' if len(names) > TOLD else ''}: {reason}"
        for reason, names in groups.items()
    )


def _coupled(group: Group) -> str:
    """How many positions of a tensor one unit is, where that is more than one."""
    first = next(iter(group.slices), None)
    count = 1 if first is None else len(first.positions(0))
    if first is None or count == 1:
        return ""
    return f"; a unit is {count} positions in dim {first.dim} of {first.tensor!r}"


def _on_cpu(model: nn.Module, example: Example, home: torch.device) -> tuple[nn.Module, Example]:
    """The network and its example on the CPU, where all analysis is done."""
    if home.type == "cpu":
        return model, example
    capture(model, example)  # says what is wrong in the user's own terms, before anything is copied
    moved = torch.utils._pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, example)
    return copy.deepcopy(model).cpu(), moved


def _placed(model: nn.Module, work: Work, home: torch.device, inplace: bool) -> nn.Module:
    """The result on the network's device, in the network itself when asked for."""
    if not inplace:
        return work.model.to(home)
    if work.proof.form != "module":
        raise VerificationError(
            f"{type(model).__name__} cannot express this cut in place ({work.proof.reason}); "
            "use inplace=False, which returns a graph module"
        )
    shrink(model, work.cut)
    if isinstance(work.cut, Shortened):
        Fewer.of(model, work.cut).those_of(work.model).apply(model)
        remove_blocks(model, work.model)
    write(model, differing(model, work.model))
    made = work.model
    write_tensors(model, {**dict(made.named_parameters()), **dict(made.named_buffers())})
    carry_config(model, work.model)
    return model

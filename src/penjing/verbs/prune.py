"""`prune`: remove units, prove the cut, repair what is left."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import BudgetError, PlanError, VerificationError
from penjing.graph.attributes import differing, write
from penjing.graph.capture import Example, capture, dims_of
from penjing.plan import BLOCKS, LAYERS, Plan
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.depth import Shortened, remove_blocks
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.layers import Fewer
from penjing.pruning.patterns import Pattern
from penjing.pruning.pretrained import carry_config
from penjing.pruning.saliency import Saliency
from penjing.pruning.selection import Key, kept_whole, several
from penjing.pruning.surgery import shrink, write_tensors
from penjing.quantization.mixed import BITS, checked_bits
from penjing.record import remember
from penjing.report import Report
from penjing.task import Calibration, Task, Tasks, one_or_several
from penjing.task.randomness import random_kept
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.choices import DEPTH, Choices
from penjing.verbs.goal import Goal
from penjing.verbs.judging import Judging
from penjing.verbs.preparation import Preparation
from penjing.verbs.remarks import remarks
from penjing.verbs.repairs import Repair
from penjing.verbs.work import Work, one_cut

OPTIMIZERS = (
    "parameters that were cut in place are new ones: an optimizer made before holds the old, until "
    "penjing.training.cut_moments cuts what it remembers"
)


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
    task: Task | Tasks | Mapping[str, Task] | None = None,
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
            reads ("snip", "grasp", "movement", "mutual_information", losses of your own).
        importance: "l1", "l2", "linf", "bn_scale", "fpgm", "random", "taylor", "fisher", "obs",
            "snip", "grasp", "movement", "synflow", "apoz", "mean_activation", "entropy",
            "mutual_information", "hrank", "chip", "ablation", "sensitivity" or an object; None is
            "obs" with calibration, else "l2".
        allocation: "uniform", "global", "lamp", "isomorphic", "sensitivity", "dp", or one that
            tries candidates out ("netadapt", "local_search", "genetic", "reinforcement"), or an
            object; None is "dp" with calibration, else "uniform".
        repair: "auto" (least squares with calibration, else off), "least_squares", a `Reconstruct`,
            "tune" (then gradient steps towards the original), a `Tune`, "fold" (units that go are
            merged into those that stay), a `Fold`, "variance" (mean and variance of every channel
            brought back), "bias" (the mean alone), "recalibrate", None.
        round_to: Units that remain are rounded up to a multiple of this; by kind of units, as
            {"neurons": 16}, kinds that are not named are not rounded. A single number does not
            round how many whole layers or branches stay.
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
        task: Its metrics and loss are measured before and after the repair of every step, on "val"
            and on "test", and come into the report beside the original's. Nothing is decided by
            them.
        seed: Of everything random; the same seed gives the same plan.
        inplace: Write the result into `model` itself; refused when only a graph module can express
            it. An optimizer made before goes on after `penjing.training.cut_moments`.

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
        raise BudgetError(
            "give one of pruning_ratio, constraints and plan; got none. Half the "
            'multiply-accumulates are constraints={"macs": "50%"}, or --macs 50%'
        )
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
        weight_bits=checked_bits(weight_bits),
        seed=seed,
    )
    samples = None
    if calibration is not None:
        dims = dims_of(model, example_inputs)
        samples = Calibration.of(calibration, transform_fn, seed=seed, dims=dims)
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    judging = None if task is None else _judging(task, model, goal)
    with random_kept():
        torch.manual_seed(seed)
        worker, example = _on_cpu(model, example_inputs, home)
        work = _prune_in_steps(worker, example, samples, choices, goal, judging)
        work = replace(work, notes=(*work.notes, *remarks(worker, work, goal)))
        data = work.report_data(worker, samples)
        data = data if judging is None else replace(data, recovery=judging.rows())
        result = _placed(model, work, home, inplace)
    if inplace:
        data = replace(data, notes=(*data.notes, OPTIMIZERS))
    remember(result, model, example_inputs, work.plan)
    report = Report(replace(data, seconds=time.perf_counter() - started))
    return Pruned(result, work.plan, report)


def _prune_in_steps(
    model: nn.Module,
    example: Example,
    samples: Calibration | None,
    choices: Choices,
    goal: Goal,
    judging: Judging | None,
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
        work = one_cut(preparation, goal.plan, given=True)
    else:
        work = one_cut(preparation, preparation.plan(goal.demand(preparation, 1)))
    if judging is not None:
        judging.look(preparation, work, 1)
    for step in range(2, goal.steps + 1):
        evidence = preparation.after(work.cut, work.model, example)
        work = one_cut(preparation, preparation.plan(goal.demand(preparation, step), evidence))
        if judging is not None:
            judging.look(preparation, work, step)
    return work


def _judging(task: Task | Tasks | Mapping[str, Task], model: nn.Module, goal: Goal) -> Judging:
    return Judging(settled(one_or_several(task), model), model, goal.steps)


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

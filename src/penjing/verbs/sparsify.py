"""`sparsify`: make weights zero in a pattern, and re-solve those that are left."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from penjing.counts.figures import program_figures
from penjing.counts.macs import Counter
from penjing.errors import BudgetError, StrategyError
from penjing.figures import RepairFigures, SparsityFigures
from penjing.graph.capture import Example, Program, capture, check_network, dims_of
from penjing.pruning.budgets import absolute
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.saliency import Saliency
from penjing.pruning.selection import Key, matches, several
from penjing.pruning.sparsity import Removal, Scored
from penjing.pruning.sparsity import resolve as resolve_allocation
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.pruning.standing import standing_in
from penjing.pruning.surgery import write_tensors
from penjing.pruning.weights import OBS
from penjing.pruning.weights import resolve as resolve_importance
from penjing.pruning.weights.protocol import (
    AtSparsity,
    NeedsData,
    PreparesWeights,
    Target,
    WeightImportance,
)
from penjing.pruning.weights.survey import Survey
from penjing.pruning.weights.targets import ROLES, Wanted, find_targets
from penjing.record import Record, attach, record_of
from penjing.recovery.reconstruct import Reconstruct
from penjing.recovery.repair import How as Mending
from penjing.recovery.repair import Valued, notable, zeroed
from penjing.recovery.repair import repair as mend
from penjing.recovery.tune import Tune
from penjing.recovery.zeros import supporting
from penjing.report import Histogram, Report, ReportData, environment
from penjing.task import Calibration, Recovered, Task, Tasks, one_or_several
from penjing.task import agreement as share_alike
from penjing.task.randomness import random_kept
from penjing.training.settled import settled as settled_task
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.enough import needed_data, too_few_samples
from penjing.verbs.judging import REPAIRED, Judging
from penjing.verbs.repairs import REPAIRS, Repair, repair_name, settled
from penjing.verbs.soundness import check_finite, check_fits, telling_batches
from penjing.verbs.sparsity_goal import SparsityGoal

BINS = 41  # of a weight histogram, odd so that zero has a bin of its own
HISTOGRAMS = 6  # the largest weights are drawn
BATCH = 128  # samples that the report's agreement is measured on at a time
ZEROED = "zeros"  # the step before the repair, in the report


@dataclass(frozen=True, slots=True)
class Sparsified:
    """A network with zeros.

    Args:
        model: Of the user's own class; its weights are stored densely, with exact zeros.
        report: Figures before and after, the zeros and the repair layer by layer.
    """

    model: nn.Module
    report: Report


@arguments_checked
def sparsify(  # noqa: PLR0913 - the public contract: names that users of other pruners know
    model: nn.Module,
    example_inputs: Example,
    *,
    sparsity: float | None = None,
    constraints: Mapping[str, float | str] | None = None,
    pattern: str | Pattern = "element",
    calibration: Any = None,
    importance: str | WeightImportance | Saliency | type | None = None,
    allocation: str | SparsityAllocation | None = None,
    repair: Repair = "auto",
    sparsity_dict: Mapping[Any, float] | None = None,
    ignored_layers: Iterable[Key] | Key = (),
    keep_dense: Iterable[Literal["first", "last", "depthwise"] | str] = ROLES,
    indivisible: Indivisible = "error",
    max_sparsity: float = 0.99,
    keep_zeros: bool = True,
    transform_fn: Callable[[Any], Any] | None = None,
    task: Task | Tasks | Mapping[str, Task] | None = None,
    seed: int = 0,
    inplace: bool = False,
) -> Sparsified:
    """Make weights zero in a pattern and re-solve the rest without labels.

    Args:
        model: Any network that `torch.export` takes. Left alone unless `inplace`.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on the network's
            device.
        sparsity: Share of zeros among the weights of the layers that become sparse, 0 <= x < 1;
            an n:m pattern has its own.
        constraints: An upper bound instead: {"nonzero": ...} parameters that are not zero, or
            {"macs": ...} multiply-accumulates with weights that are not zero; a number, or "20%"
            of the original.
        pattern: "element", "n:m" (of m consecutive input channels n stay), "block:RxC" (outputs x
            input channels), "kernel", or a `Pattern`.
        calibration: Batches (inputs alone, or with labels, which only "snip", "grasp", "movement"
            and losses of your own read).
        importance: "magnitude", "random", "wanda", "obs", "sparsegpt" (for very wide layers),
            "fisher", "snip", "grasp", "movement", "synflow" or an object; None is "obs" with
            calibration, else "magnitude".
        allocation: "uniform", "global", "threshold", "erk", "lamp", "dp" or an object; None is
            "dp" with obs, else "uniform".
        repair: "auto" (least squares with calibration, else off), "least_squares", a
            `Reconstruct`, "tune" (then gradient steps towards the original), a `Tune`, "variance"
            (mean and variance of every channel brought back), "bias" (the mean alone),
            "recalibrate", None.
        sparsity_dict: Sparsity of single layers by module, name, glob or type, beside the rest;
            the first key that matches counts.
        ignored_layers: Modules, names, globs or types that stay dense.
        keep_dense: Kinds of layers that stay dense: "first", "last", "depthwise".
        indivisible: Where the pattern does not divide a layer: "error", "pad" (its last block is
            smaller), "skip" (it stays dense).
        max_sparsity: Largest share of one layer that becomes zero.
        keep_zeros: Weights of a layer that was sparse before stay zero, whatever the new pattern
            is; otherwise repair may fill those that it keeps.
        transform_fn: Makes a batch from what `calibration` yields.
        task: Its metrics and loss are measured with the zeros alone and after the repair, on "val"
            and on "test", and come into the report beside the original's. Nothing is decided by
            them.
        seed: Of everything random; the same seed gives the same zeros.
        inplace: Write the result into `model` itself.

    Returns:
        The network with zeros and the report.

    Raises:
        InputError: Bad example inputs, weights or calibration data, or a task that cannot judge.
        CaptureError: The network does not export.
        BudgetError: A sparsity or constraint that makes no sense, or no layer that may be sparse.
        StrategyError: An unknown strategy or pattern, a pattern that does not divide a layer, or
            layers that match nothing.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> sparse = sparsify(net, torch.ones(1, 4), sparsity=0.75)
        >>> int(sparse.model[2].weight.count_nonzero())
        16
    """
    started = time.perf_counter()
    check_network(model)
    wanted = Wanted(
        pattern=Pattern.parse(pattern),
        keep_dense=tuple(keep_dense),
        ignored_layers=several(ignored_layers),
        indivisible=indivisible,
    )
    goal = SparsityGoal(
        pattern=wanted.pattern,
        sparsity=sparsity,
        constraints=dict(constraints or {}),
        single=dict(sparsity_dict or {}),
        max_sparsity=max_sparsity,
    )
    samples = None
    if calibration is not None:
        dims = dims_of(model, example_inputs)
        samples = Calibration.of(calibration, transform_fn, seed=seed, dims=dims)
    how = How.of(importance, allocation, repair, samples, seed).at(goal.sparsity)
    how = replace(how, keep_zeros=keep_zeros)
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    judging = None if task is None else Judging(settled_task(one_or_several(task), model), model, 1)
    with random_kept():
        torch.manual_seed(seed)
        worker, example = _on_cpu(model, example_inputs, home)
        work = Work(worker, capture(worker, example), wanted, goal, how)
        data = work.report_data()
        if judging is not None:
            data = replace(data, recovery=_judged(judging, work))
        result = model if inplace else copy.deepcopy(model)
        write_tensors(result, {n: t.to(home) for n, t in work.tensors.items()})
    earlier = record_of(model)
    attach(result, Record.of(example_inputs, earlier.plans if earlier else ()))
    return Sparsified(result, Report(replace(data, seconds=time.perf_counter() - started)))


def _judged(judging: Judging, work: Work) -> tuple[Recovered, ...]:
    """Figures of the network with zeros, before and after its repair."""
    if work.repairs:
        judging.judge(ZEROED, work.with_tensors(work.unrepaired))
    judging.judge(REPAIRED if work.repairs else ZEROED, work.with_tensors(work.tensors))
    return judging.rows()


def _on_cpu(model: nn.Module, example: Example, home: torch.device) -> tuple[nn.Module, Example]:
    """The network and its example on the CPU, where all analysis is done."""
    if home.type == "cpu":
        return model, example
    moved = torch.utils._pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, example)
    return copy.deepcopy(model).cpu(), moved


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """Strategies as they were resolved.

    Args:
        importance: Which weights.
        allocation: How many where.
        repair: What is done for those that are left.
        names: The three by name, for the report.
        samples: Calibration data; None when there is none.
        seed: Of everything random.
        keep_zeros: Whether zeros that are there stay.
    """

    importance: WeightImportance
    allocation: SparsityAllocation
    repair: Mending | None
    names: tuple[str, str, str]
    samples: Calibration | None
    seed: int
    keep_zeros: bool = True

    @property
    def sees_data(self) -> bool:
        """Whether the importance reads what the layers see."""
        return isinstance(self.importance, NeedsData) and self.importance.needs_data

    def at(self, sparsity: float | None) -> How:
        """The same with an importance made for the sparsity asked for, where it is."""
        if sparsity is None or not isinstance(self.importance, AtSparsity):
            return self
        return replace(self, importance=self.importance.at(sparsity))

    @classmethod
    def of(
        cls,
        importance: str | WeightImportance | Saliency | type | None,
        allocation: str | SparsityAllocation | None,
        repair: Repair,
        samples: Calibration | None,
        seed: int,
    ) -> How:
        """Resolve every name before the first slow step.

        Raises:
            StrategyError: An unknown name, or a strategy that needs data where there is none.
        """
        chosen = importance or ("magnitude" if samples is None else "obs")
        found = resolve_importance(chosen)
        if chosen == "random":
            found = replace(found, seed=seed)  # type: ignore[type-var] # the dataclass Random
        spread = allocation or ("dp" if isinstance(found, OBS) else "uniform")
        if not (repair is None or isinstance(repair, (Reconstruct, Tune)) or repair in REPAIRS):
            raise StrategyError(
                f"repair is {repair!r}; known are {REPAIRS}, None, a Reconstruct or a Tune"
            )
        if repair == "fold":
            raise StrategyError("repair 'fold' merges units that are cut; sparsify cuts none")
        mending = settled(repair, samples is not None, seed)
        needs = isinstance(found, NeedsData) and found.needs_data
        if samples is None and (needs or mending is not None):
            what = f"importance {_name(chosen)!r}" if needs else "repair"
            raise StrategyError(f"{what} needs data; {needed_data(found if needs else None)}")
        if samples is not None:
            samples.at_least(2, "sparsify")
        return cls(
            importance=found,
            allocation=resolve_allocation(spread),
            repair=mending,
            names=(_name(chosen), _name(spread), repair_name(mending)),
            samples=samples,
            seed=seed,
        )


def _name(chosen: object) -> str:
    return chosen if isinstance(chosen, str) else getattr(chosen, "__name__", type(chosen).__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """One call of `sparsify` on the CPU.

    Args:
        model: The network; not changed.
        program: Its capture.
        wanted: What may become sparse.
        goal: How many zeros.
        how: Which, where, and what then.
    """

    model: nn.Module
    program: Program
    wanted: Wanted
    goal: SparsityGoal
    how: How

    @cached_property
    def found(self) -> tuple[list[Target], dict[str, str]]:
        """What may become sparse, and why the rest stays dense."""
        check_finite(self.model)
        if self.how.samples is not None:
            check_fits(self.how.samples, self.program)
        targets, dense = find_targets(self.model, self.program, self.wanted)
        if not targets:
            why = "; ".join(f"{n}: {w}" for n, w in list(dense.items())[:8])
            raise BudgetError(
                "no layer may become sparse"
                + (f" ({why}); keep_dense=() and ignored_layers decide" if why else "")
            )
        return targets, dense

    @cached_property
    def survey(self) -> Survey:
        """What scores the targets."""
        return Survey(
            program=self.program,
            targets=self.found[0],
            importance=self.how.importance,
            seed=self.how.seed,
        )

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """Scores of the blocks of every target; 0 where a block is zero already and stays so."""
        scores = self.survey.run(self.how.samples if self.how.sees_data else None)
        for target in self.found[0]:
            _check_scores(target, scores[target.weight])
        if not self.how.keep_zeros:
            return scores
        tensors, least = self.program.tensors, torch.finfo(torch.float64).tiny
        empty = {t.weight: t.tiling.empty(t.matrix(tensors[t.weight])) for t in self.found[0]}
        return {n: s.clamp_min(least).masked_fill(empty[n], 0.0) for n, s in scores.items()}

    @cached_property
    def sparsities(self) -> dict[str, float]:
        """Sparsity of every target, by name of its weight."""
        own = self.wanted.pattern.sparsity
        if own is not None:
            return {t.weight: own for t in self.found[0]}
        single = self._single()
        rest = [t for t in self.found[0] if t.weight not in single]
        shares = dict(single)
        if rest and (self.goal.sparsity is not None or self.goal.constraints):
            costs = self._costs()
            layers = [self._scored(t, costs[t.weight]) for t in rest]
            amount = self._amount(layers, single, costs)
            shares.update(
                self.how.allocation(
                    layers, Removal(amount=amount, max_sparsity=self.goal.max_sparsity)
                )
            )
        return shares

    def _single(self) -> dict[str, float]:
        """Sparsity of single layers; the first key that matches counts."""
        shares: dict[str, float] = {}
        for key, share in self.goal.single.items():
            names = matches(self.model, key)
            mine = [
                t.weight
                for t in self.found[0]
                if t.weight in names or t.weight.rpartition(".")[0] in names
            ]
            if not mine:
                raise StrategyError(f"sparsity_dict[{key!r}] matches no layer that may be sparse")
            for name in mine:
                shares.setdefault(name, share)
        return shares

    def _scored(self, target: Target, cost: float) -> Scored:
        tiling = target.tiling
        return Scored(
            name=target.weight,
            scores=self.scores[target.weight],
            sizes=tiling.sizes,
            shape=(tiling.groups * tiling.outputs, tiling.channels, tiling.taps),
            cost=cost,
        )

    def _costs(self) -> dict[str, float]:
        """Cost of one weight of every target: one, or its multiply-accumulates."""
        if "macs" not in self.goal.constraints:
            return {t.weight: 1.0 for t in self.found[0]}
        macs = {f.name: f.macs for f in Counter(self.program).figures()}
        return {
            t.weight: max(macs.get(t.weight.removesuffix(".weight"), 0), 1)
            / float(t.tiling.sizes.sum())
            for t in self.found[0]
        }

    def _amount(
        self, layers: list[Scored], single: Mapping[str, float], costs: Mapping[str, float]
    ) -> float:
        """Cost that has to go from layers without a sparsity of their own."""
        whole = sum(layer.cost * layer.weights for layer in layers)
        if self.goal.sparsity is not None:
            return self.goal.sparsity * whole
        before = program_figures(self.program)
        figures = {"nonzero": float(before.nonzero), "macs": float(before.macs)}
        ((name, bound),) = absolute(self.goal.constraints, figures).items()
        gone = sum(
            single[t.weight] * float(t.tiling.sizes.sum()) * costs[t.weight]
            for t in self.found[0]
            if t.weight in single
        )
        amount = max(figures[name] - bound - gone, 0.0)
        if amount > self.goal.max_sparsity * whole:
            raise BudgetError(
                f"{name} of at most {bound:,.0f} is out of reach: {figures[name] - gone:,.0f} are "
                f"there and {self.goal.max_sparsity * whole:,.0f} may go; allow more with "
                "max_sparsity, keep_dense=() or a larger bound"
            )
        # blocks are whole, and every layer rounds down
        odd = sum(layer.cost * float(layer.sizes.max()) for layer in layers) if amount else 0.0
        return min(amount + odd, self.goal.max_sparsity * whole)

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """Weights that stay, `(G, V, U)` by name, before the repair."""
        return {
            t.weight: t.tiling.keep(self.scores[t.weight], self.sparsities[t.weight])
            for t in self.found[0]
            if t.weight in self.sparsities
        }

    @property
    def repairs(self) -> bool:
        """Whether there is something to repair with."""
        return self.how.repair is not None and self.how.samples is not None

    @cached_property
    def zeroed(self) -> Valued:
        """The network with its zeros, and nothing else changed."""
        shaped = {t.weight: t.tensor(self.masks[t.weight]) for t in self._chosen}
        return zeroed(Valued(self.program, self.program), shaped)

    @property
    def _chosen(self) -> list[Target]:
        return [t for t in self.found[0] if t.weight in self.masks]

    @cached_property
    def outcome(self) -> tuple[dict[str, Tensor], list[RepairFigures]]:
        """New tensors by name, and what repair did."""
        samples, repair = self.how.samples, self.how.repair
        if repair is None or samples is None:
            return self.unrepaired, []
        targets = {t.weight: t for t in self._chosen}
        stays = standing_in(self._chosen, self.program.tensors) if self.how.keep_zeros else {}
        support = supporting(self.masks, targets, self.how.importance, self.sparsities, stays)
        new, rows = mend(self.zeroed, samples, repair, support)
        return self._changes({**self.zeroed.program.tensors, **new}), rows

    @property
    def unrepaired(self) -> dict[str, Tensor]:
        """Values with zeros alone, by qualified name."""
        return self._changes(self.zeroed.program.tensors)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the network with other values."""
        changed = copy.deepcopy(self.model)
        write_tensors(changed, tensors)
        return changed

    def _changes(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: t for n, t in tensors.items() if t is not self.program.tensors[n]}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """New values by qualified name."""
        return self.outcome[0]

    def report_data(self) -> ReportData:
        """Everything that can be told without timing or labels."""
        after = replace(self.program, tensors={**self.program.tensors, **self.tensors})
        importance, allocation, repair = self.how.names
        fixed = self.wanted.pattern.sparsity is not None
        return ReportData(
            kind="sparsify",
            title=type(self.model).__name__,
            before=program_figures(self.program),
            after=program_figures(after),
            agreement=self._agreement(),
            sparsity=self._figures(after),
            repair=tuple(self.outcome[1]),
            histograms=self._histograms(after),
            choices={
                "pattern": self.wanted.pattern.name,
                "importance": importance,
                "allocation": "the pattern's own" if fixed else allocation,
                "repair": repair,
                "keep_dense": ", ".join(self.wanted.keep_dense) or "nothing",
                "max_sparsity": str(self.goal.max_sparsity),
                "calibration samples": str(self.how.samples.samples if self.how.samples else 0),
                "seed": str(self.how.seed),
            },
            environment=environment(),
            notes=(*self._notes(), *notable(self.outcome[1])),
        )

    def _notes(self) -> tuple[str, ...]:
        """What was judged in another way than was asked for."""
        if not self.how.sees_data or isinstance(self.how.importance, PreparesWeights):
            return ()
        blind = [t.weight for t in self.found[0] if not self.survey.sees(t)]
        names = ", ".join(name.removesuffix(".weight") for name in blind)
        why = "recurrent, or too many inputs for a Gram matrix"
        told = f"judged by the size of the weights alone ({why}): {names}" if blind else ""
        samples = self.how.samples
        short = "" if samples is None else too_few_samples(self.program, samples)
        return tuple(note for note in (told, short) if note)

    def _agreement(self) -> float | None:
        """Share of calibration samples on which both networks answer alike."""
        if self.how.samples is None:
            return None
        batches = telling_batches(self.program, self.how.samples)
        if not batches:
            return None
        return share_alike(self.with_tensors(self.tensors), self.model, batches)

    def _figures(self, after: Program) -> tuple[SparsityFigures, ...]:
        """Every weight that could be sparse, in the order of the network."""
        targets, dense = self.found
        rows = {}
        for target in targets:
            name, weight = target.weight, after.tensors[target.weight]
            reason = "" if name in self.masks else "no sparsity was asked for it"
            rows[name] = SparsityFigures(
                name.removesuffix(".weight"),
                weight.numel(),
                int(weight.count_nonzero()),
                "" if reason else self.wanted.pattern.name,
                None if reason else self._error(target),
                reason,
            )
        for name, reason in dense.items():
            held = after.tensors.get(name)
            whole, left = (0, 0) if held is None else (held.numel(), int(held.count_nonzero()))
            rows[name] = SparsityFigures(name.removesuffix(".weight"), whole, left, reason=reason)
        order = {fqn: i for i, fqn in enumerate(self.program.tensors)}
        return tuple(rows[n] for n in sorted(rows, key=lambda n: order.get(n, len(order))))

    def _error(self, target: Target) -> float | None:
        """Sum of the scores that went, where they are errors."""
        if not isinstance(self.how.importance, OBS):
            return None
        scores, sizes = self.scores[target.weight].flatten(), target.tiling.sizes.flatten()
        finite = scores.isfinite()
        order = scores[finite].argsort(stable=True)
        gone = sizes[finite][order].cumsum(0) <= (
            self.sparsities[target.weight] * float(sizes.sum()) + 1e-6
        )
        return float((scores[finite][order] * sizes[finite][order])[gone].sum())

    def _histograms(self, after: Program) -> tuple[Histogram, ...]:
        """Weights that are not zero, before and after, of the largest that became sparse."""
        names = sorted(self.masks, key=lambda n: (-after.tensors[n].numel(), n))[:HISTOGRAMS]
        found = []
        for name in names:
            weight = after.tensors[name]
            left = weight[weight != 0]
            found.append(Histogram.of(name, self.program.tensors[name], left, bins=BINS))
        return tuple(found)


def _check_scores(target: Target, scores: Tensor) -> None:
    """Refuse scores that break the contract.

    Raises:
        StrategyError: A wrong shape, or a score that is negative or NaN.
    """
    if scores.shape != target.tiling.sizes.shape:
        raise StrategyError(
            f"the importance gave scores of shape {tuple(scores.shape)} for {target.weight!r}, "
            f"which has {tuple(target.tiling.sizes.shape)} blocks"
        )
    if not bool((scores >= 0).all()):
        raise StrategyError(
            f"the importance gave a score that is negative or NaN for {target.weight!r}"
        )

"""`train`: sparse training."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from torch import nn

from penjing.distillation import Logits
from penjing.errors import BudgetError, InputError
from penjing.graph.capture import Example
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.selection import Key
from penjing.pruning.weights.targets import ROLES
from penjing.quantization.freezing import callbacks_of
from penjing.report import Report
from penjing.sparse_training import (
    Method,
    Penalised,
    Penalty,
    Rewinding,
    SparseTraining,
    SparsitySchedule,
    resolve,
)
from penjing.sparse_training.keeping import KeepZeros, is_sparse
from penjing.sparse_training.parts import UNIT, vanished
from penjing.task import Task, Tasks, one_or_several
from penjing.training import Callback, Fit, FitOptions, fit
from penjing.training.schedules import schedule
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.find_groups import find_groups
from penjing.verbs.finetune import Tuned
from penjing.verbs.prune import Pruned, prune
from penjing.verbs.trained import Trained, in_choices, lessons

EXACT = 1e-6  # shares closer than this are the same
EPOCHS = 30  # of the design's example; gradual pruning needs time


@dataclass(frozen=True, slots=True)
class _Sparse:
    """What becomes sparse, and how."""

    callback: SparseTraining | None
    method: Method | None

    def pruned(self, trained: nn.Module, inplace: bool) -> Pruned | None:
        """The network without its units of zeros; None where none went."""
        if self.callback is None or self.callback.pattern != UNIT:
            return None
        example = self.callback.example_inputs
        assert example is not None  # the run has begun
        plan = vanished(trained, find_groups(trained, example))
        went = {part.name for part in self.callback.sparsifier.masks.parts}  # not what was ignored
        plan = replace(plan, drop={name: d for name, d in plan.drop.items() if name in went})
        if not plan.drop:
            return None
        return prune(trained, example, plan=plan, repair=None, inplace=inplace)

    def keep_from(self, epochs: int) -> int:
        """First epoch that has all zeros."""
        if self.method is None:
            return 0
        return min(max(1, math.floor(self.method.complete_at * epochs) + 1), epochs)

    def told(self) -> dict[str, str]:
        """For the report."""
        if self.callback is None:
            return {"sparsity": "none"}
        sparsifier = self.callback.sparsifier
        what = (
            "weights that may be sparse"
            if self.callback.pattern != UNIT
            else "units that may go, by size"
        )
        return {
            "method": str(self.method),
            "pattern": self.callback.pattern_name,
            "zeros": f"{sparsifier.masks.zeros:.2%} of the {what}",
            "dense": ", ".join(sparsifier.dense) or "none",
        }


@arguments_checked
def train(  # noqa: PLR0913 - the public contract; everything else is in `Fit`
    model: nn.Module,
    task: Task | Tasks | Mapping[str, Task],
    *,
    sparsity: float | None = None,
    pruning_ratio: float | None = None,
    sparsity_schedule: SparsitySchedule | str | Mapping[str, object] | None = None,
    method: str | Method = "gradual",
    pattern: str | Pattern = "element",
    penalty: Penalty | None = None,
    teacher: nn.Module | None = None,
    example_inputs: Example | None = None,
    ignored_layers: Iterable[Key] | Key = (),
    keep_dense: Iterable[str] = ROLES,
    indivisible: Indivisible = "error",
    keep_zeros: bool = True,
    inplace: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Unpack[FitOptions],
) -> Tuned:
    """Train a network, from scratch or on, while zeros grow in it, or units go from it.

    The zeros are in the weights themselves, whatever the optimizer: no mask is left when it
    returns. Where validation data choose the epoch, only epochs with all zeros are chosen from.

    Args:
        model: Any network. Left alone unless `inplace`.
        task: `train` data, `loss`; `val` and `metrics` to judge by.
        sparsity: Final share of zeros among the weights that may be sparse; None trains dense,
            unless a schedule or a method object says more.
        pruning_ratio: Share of units instead: whole units become zero along the schedule, by
            "gradual", "movement" or "lottery", and are cut at the end. The network that is given
            back is smaller.
        sparsity_schedule: How it grows: a `SparsitySchedule`, the name of its shape ("cubic",
            "linear", "exponential", "cosine", "one_cycle", "one_shot"), or its fields as a dict.
        method: "gradual", "movement", "str", "rigl", "set", "ac/dc", "lottery", or an object of
            `penjing.sparse_training`.
        pattern: "element", "n:m", "block:RxC", "kernel".
        penalty: Draws weights or units to zero by proximal steps; for a penalty in the loss give
            `callbacks=[Penalised(penalty, "loss")]`.
        teacher: Distils its logits along.
        example_inputs: For the analysis of the network; None takes the first training batch.
        ignored_layers: Modules, names, globs or types that stay dense.
        keep_dense: Kinds of layers that stay dense: "first", "last", "depthwise".
        indivisible: Where the pattern does not divide a layer: "error", "pad", "skip".
        keep_zeros: Zeros of sparse matrices and kernels stay zero, where no method has zeros of
            single weights come and go.
        inplace: Train `model` itself.
        callbacks: What else happens in the training loop.
        **settings: Fields of `penjing.training.Fit`, as for `finetune`; epochs=30 unless given.

    Returns:
        The trained network and the report; with `pruning_ratio` the plan that was cut, too.

    Raises:
        InputError: No data, nothing to learn from, or no layer that may be sparse.
        BudgetError: A sparsity outside [0, 1), or one that contradicts the schedule.
        StrategyError: An unknown method, schedule or setting, a schedule that ends before it
            begins, or a pattern that does not divide a layer.
        CheckpointError: `workdir` holds a checkpoint that is damaged or of another run.
        CaptureError: The network does not export.

    Example:
        >>> import torch
        >>> data = [(torch.randn(8, 4), torch.randint(2, (8,)))]
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> task = Task(train=data, loss=nn.functional.cross_entropy)
        >>> tuned = train(net, task, sparsity=0.75, epochs=8, keep_dense=())
        >>> int(sum(p.count_nonzero() for p in tuned.model.parameters() if p.dim() > 1))
        24
    """
    started = time.perf_counter()
    Fit.check_names(settings)
    if inplace and teacher is model:
        raise InputError("the teacher is the model that is trained in place; give a copy of it")
    pattern, sparsity = _of_units(pruning_ratio, sparsity, pattern)
    sparsity = _share(pattern, sparsity, sparsity_schedule, method)
    chosen = _method(sparsity, sparsity_schedule, method)
    ignored = (
        (ignored_layers,)
        if isinstance(ignored_layers, (str, type, nn.Module))
        else tuple(ignored_layers)
    )
    growing = None
    if chosen is not None:
        growing = SparseTraining(
            chosen,
            example_inputs=example_inputs,
            pattern=pattern,
            ignored_layers=ignored,
            keep_dense=keep_dense,
            indivisible=indivisible,
        )
    sparse = _Sparse(growing, chosen)
    settings.setdefault("epochs", EPOCHS)
    settings.setdefault("keep_from", sparse.keep_from(settings["epochs"]))
    if isinstance(chosen, Rewinding):
        settings = _restarted(chosen, settings)
    fitting = Fit(**settings)
    goal = settled(one_or_several(task), model)
    before = copy.deepcopy(model) if inplace else model
    trained = model if inplace else copy.deepcopy(model)
    teaching, goal = lessons(teacher, goal, Logits)
    hooks: list[Callback] = [*teaching, *callbacks]
    hooks += [*([] if penalty is None else [Penalised(penalty)])]
    hooks += callbacks_of(trained)
    standing = chosen is None or pattern == UNIT  # no method moves zeros of single weights
    if keep_zeros and standing and any(map(is_sparse, trained.parameters())):
        hooks.append(KeepZeros())
    result = fit(trained, goal, fitting, [*hooks, *([] if growing is None else [growing])])
    grown = sparse.told()  # before the cut, which may be in place
    cut = sparse.pruned(trained, inplace)
    made = trained if cut is None else cut.model
    told = Trained(before, made, teacher, goal, result, kind="train")
    taught = {"teacher": "none" if teacher is None else type(teacher).__name__}
    data = told.report_data({**in_choices(fitting), **taught, **grown})
    report = Report(replace(data, seconds=time.perf_counter() - started))
    return Tuned(made, report, None if cut is None else cut.plan)


def _of_units(
    pruning_ratio: float | None, sparsity: float | None, pattern: str | Pattern
) -> tuple[str | Pattern, float | None]:
    """The pattern and the share of whole units, or of weights as they were given.

    Raises:
        BudgetError: Both shares, or units in a pattern of weights.
    """
    if pruning_ratio is None:
        if pattern == UNIT:
            raise BudgetError("the share of whole units is pruning_ratio=0.5, say")
        return pattern, sparsity
    shape = UNIT if pattern == UNIT else Pattern.parse(pattern).name
    if sparsity is not None or shape not in {UNIT, "element"}:
        raise BudgetError(
            f"pruning_ratio is {pruning_ratio} of whole units, beside sparsity {sparsity} in the "
            f"pattern {shape!r}; give one of them, and make the network that is left sparse after "
            "that"
        )
    return UNIT, pruning_ratio


def _share(
    pattern: str | Pattern,
    sparsity: float | None,
    schedule: SparsitySchedule | str | Mapping[str, object] | None,
    method: str | Method,
) -> float | None:
    """The sparsity asked for; that of an n:m pattern where nothing else says one.

    Raises:
        BudgetError: The pattern has another one, or it is given and no zeros are asked for.
    """
    if pattern == UNIT:
        return sparsity
    shape = Pattern.parse(pattern)
    own = shape.sparsity
    if own is not None and sparsity is not None and abs(sparsity - own) > EXACT:
        raise BudgetError(
            f"pattern {shape.name!r} makes {own:g} of the weights zero, not {sparsity}; leave "
            "the sparsity out or take another pattern"
        )
    if sparsity is not None or not isinstance(method, str) or not isinstance(schedule, str | None):
        return sparsity
    if own is None and schedule is None and shape.name != "element":
        raise BudgetError(
            f"pattern is {shape.name!r} and no zeros are asked for; give sparsity=0.9, say"
        )
    return own


def _restarted(method: Rewinding, settings: FitOptions) -> FitOptions:
    """The learning rate of every pass begins as that of the run would, warm-up included."""
    usual = Fit(**settings)
    rate = method.restarted(schedule(usual.schedule, usual.warmup))
    return {**settings, "schedule": rate, "warmup": 0.0}


def _method(
    sparsity: float | None,
    schedule: SparsitySchedule | str | Mapping[str, object] | None,
    method: str | Method,
) -> Method | None:
    """The method with its sparsity; None where no zeros are wanted."""
    if isinstance(schedule, SparsitySchedule):
        if sparsity is not None and sparsity != schedule.sparsity:
            raise BudgetError(
                f"sparsity is {sparsity}, that of the schedule {schedule.sparsity}; give one"
            )
    elif schedule is not None:
        fields = {"shape": schedule} if isinstance(schedule, str) else dict(schedule)
        fields = {**({} if sparsity is None else {"sparsity": sparsity}), **fields}
        if "sparsity" not in fields:
            raise BudgetError(f"the schedule {schedule!r} has no sparsity; give sparsity=0.9, say")
        schedule = SparsitySchedule(**fields)  # type: ignore[arg-type]
    elif sparsity is not None:
        schedule = SparsitySchedule(sparsity=sparsity)
    if schedule is not None:
        if not isinstance(method, str):
            raise BudgetError(
                f"{method!r} has its own sparsity; give it without sparsity and schedule"
            )
        return resolve(method, schedule)
    return None if isinstance(method, str) else method

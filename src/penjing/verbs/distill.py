"""`distill`: any student learns from one or several teachers."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from torch import nn

from penjing.distillation import (
    AttentionTransfer,
    Contrastive,
    Decoupled,
    Distillation,
    Logits,
    Regression,
    Relational,
)
from penjing.errors import InputError, StrategyError
from penjing.pruning.lookup import lookup
from penjing.quantization.freezing import callbacks_of
from penjing.report import Report
from penjing.sparse_training.keeping import KeepZeros
from penjing.task import Task, Tasks, one_or_several
from penjing.training import Callback, Fit, FitOptions, Teacher, Teachers, fit
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.trained import Trained, against, in_choices

Losses = str | Distillation | Sequence[str | Distillation]


@dataclass(frozen=True, slots=True)
class Distilled:
    """A student that has learned.

    Args:
        model: Of the student's class, on the same device, its modes as before.
        report: Every epoch, metrics before and after, agreement with the teacher.
    """

    model: nn.Module
    report: Report


@arguments_checked
def distill(  # noqa: PLR0913 - the public contract; everything else is in `Fit`
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    task: Task | Tasks | Mapping[str, Task],
    *,
    loss: Losses = "logits",
    layers: Mapping[str, str] | None = None,
    keep_zeros: bool = True,
    inplace: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Unpack[FitOptions],
) -> Distilled:
    """Train a student of any make to do what its teacher does.

    Without labels (or without a loss in the task) the teacher alone is learned from. With
    validation data the best epoch is given back, or the start when none is better.

    Args:
        student: Pruned, searched, shrunk or your own. Left alone unless `inplace`.
        teacher: On the device of the student; with several, the mean of their losses counts.
        task: `train` data, labelled or not; `val` and `metrics` to judge by. Its `kind` says
            whether outputs are classes, binary logits or values. Several in a dict by name are
            trained together, as by `finetune`.
        loss: "logits", "decoupled", "attention", "regression", "relational", "contrastive", an
            object of `penjing.distillation`, or several: each adds to the loss so far, so that
            "logits", which mixes the task's loss with the teacher's, comes first.
        layers: For losses of inner tensors: module of the student -> module of the teacher. None
            matches by name where both keep the same stages (a pruned student does), else the end
            of each stage of equal resolution or length.
        keep_zeros: Zeros of the student's sparse matrices and kernels stay zero.
        inplace: Train `student` itself.
        callbacks: What else happens in the training loop.
        **settings: Fields of `penjing.training.Fit`, as for `finetune`.

    Returns:
        The trained student and the report.

    Raises:
        InputError: No data, nothing to learn from, outputs of other shapes than the teacher's,
            layers that do not match, values that are not finite; nothing was trained then.
        StrategyError: An unknown loss, optimizer, schedule or setting.
        CheckpointError: `workdir` holds a checkpoint that is damaged or of another run.
        OSError: A checkpoint cannot be written.

    Example:
        >>> import torch
        >>> from penjing.task import Task
        >>> data = [(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))]
        >>> wide = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> done = distill(nn.Linear(3, 2), wide, Task(train=data), epochs=2)
        >>> len(done.report.data.epochs)
        2
    """
    started = time.perf_counter()
    Fit.check_names(settings)
    models = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    if not models:
        raise InputError("no teacher was given; give a module, or a sequence of modules")
    if isinstance(teacher, str):
        raise InputError(f"distill: teacher is {teacher!r}; give a network, or several in a list")
    if inplace and any(model is student for model in models):
        raise InputError("a teacher is the student that is trained in place; give a copy of it")
    goal = settled(one_or_several(task), student)
    losses = {name: _losses(loss, part) for name, part in goal.parts.items()}
    before = copy.deepcopy(student) if inplace else student
    learning = student if inplace else copy.deepcopy(student)
    fitting = Fit(**settings)
    teachers = [Teacher(model, losses, layers) for model in models]
    goal = against(goal, models[0])
    lesson = teachers[0] if len(teachers) == 1 else Teachers(teachers)
    hooks = [lesson, *callbacks, *callbacks_of(learning), *([KeepZeros()] if keep_zeros else [])]
    result = fit(learning, goal, fitting, hooks)
    trained = Trained(before, learning, models[0], goal, result, kind="distill")
    told = {
        "teacher": ", ".join(type(model).__name__ for model in models),
        "distillation": ", ".join(str(one) for one in next(iter(losses.values()))),
        **_layers_told(teachers[0].matched),
    }
    data = trained.report_data({**in_choices(fitting), **told})
    return Distilled(learning, Report(replace(data, seconds=time.perf_counter() - started)))


def _losses(loss: Losses, task: Task) -> list[Distillation]:
    """The losses as objects, with the task's own kind of outputs."""
    given = [loss] if isinstance(loss, str) or not isinstance(loss, Sequence) else list(loss)
    known = {
        "attention": AttentionTransfer(),
        "contrastive": Contrastive(),
        "decoupled": Decoupled(kind=task.kind, class_dim=task.class_dim),
        "logits": Logits(kind=task.kind, class_dim=task.class_dim),
        "regression": Regression(),
        "relational": Relational(),
    }
    losses: list[Distillation] = [lookup(one, known, "distillation loss") for one in given]
    if not losses:
        raise StrategyError("no loss was given; loss='logits' is the usual one")
    for one in losses:
        if not isinstance(getattr(one, "of_features", None), bool):
            raise StrategyError(
                f"{one!r} does not say whether it compares inner tensors: give it an attribute "
                "of_features, True or False"
            )
    return losses


def _layers_told(matched: Mapping[str, str]) -> dict[str, str]:
    if not matched:
        return {}
    told = (mine if mine == theirs else f"{mine} -> {theirs}" for mine, theirs in matched.items())
    return {"layers": ", ".join(told)}

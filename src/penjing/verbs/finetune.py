"""`finetune`: train a network that was cut, with its dense parent as the teacher."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Unpack

from torch import nn

from penjing.distillation import Logits
from penjing.errors import InputError
from penjing.plan import Plan
from penjing.quantization.aware import QuantizationAware
from penjing.quantization.freezing import callbacks_of
from penjing.report import Report
from penjing.sparse_training.keeping import KeepZeros
from penjing.task import Task, Tasks, one_or_several
from penjing.task.randomness import device_of
from penjing.training import Callback, Fit, FitOptions, fit
from penjing.training.settled import settled
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.trained import Trained, in_choices, lessons


@dataclass(frozen=True, slots=True)
class Tuned:
    """A trained network.

    Args:
        model: Of the same class, on the same device, its modes as before.
        report: Every epoch, metrics before and after, and why training ended when it ended early.
        plan: What `train(pruning_ratio=...)` has cut; None where no unit went.
    """

    model: nn.Module
    report: Report
    plan: Plan | None = None


@arguments_checked
def finetune(  # noqa: PLR0913 - the public contract; everything else is in `Fit`
    model: nn.Module,
    task: Task | Tasks | Mapping[str, Task],
    *,
    teacher: nn.Module | Literal["parent"] | None = "parent",
    temperature: float = 4.0,
    weight: float = 0.9,
    keep_zeros: bool = True,
    inplace: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Unpack[FitOptions],
) -> Tuned:
    """Train a network to recover what a cut has cost; with a teacher, by distillation.

    Without labels (or without a loss) the teacher alone is learned from. With validation data the
    best epoch is given back, or the start when none is better.

    Args:
        model: Any network, pruned or not. Left alone unless `inplace`.
        task: `train` data; `loss` where labels are to be learned; `val` and `metrics` to judge by.
            Several in a dict by name, or as `penjing.task.Tasks`, are trained together; drops are
            then against the teacher.
        teacher: Usually the dense parent, on the device of `model`; None trains on the loss alone.
            "parent" is the network that `prepare` was given, and no teacher for any other.
        temperature: Softens the outputs of both, above 0.
        weight: The teacher's share of the loss, in [0, 1].
        keep_zeros: Zeros of sparse matrices and kernels stay zero.
        inplace: Train `model` itself.
        callbacks: What else happens in the training loop.
        **settings: Fields of `penjing.training.Fit`: epochs=3, optimizer="adamw", lr, weight_decay,
            schedule="cosine", warmup, clip, patience, keep="best", minutes, workdir (a checkpoint;
            the same call goes on from there), save_seconds, seed=0, progress, tracker,
            compile, distributed.

    Returns:
        The trained network and the report.

    Raises:
        InputError: No data, nothing to learn from, a teacher with other outputs, values that are
            not finite, or a setting outside its range; nothing was trained then.
        StrategyError: An unknown optimizer, schedule or setting.
        CheckpointError: `workdir` holds a checkpoint that is damaged or of another run.
        OSError: A checkpoint cannot be written.

    Example:
        >>> import torch
        >>> data = [(torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))]
        >>> dense, small = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> tuned = finetune(small, Task(train=data), teacher=dense, epochs=2)
        >>> len(tuned.report.data.epochs)
        2
    """
    started = time.perf_counter()
    Fit.check_names(settings)
    if isinstance(teacher, Sequence) and teacher != "parent":
        raise InputError("finetune has one teacher; give a network, and several to pj.distill")
    if inplace and teacher is model:
        raise InputError("the teacher is the model that is trained in place; give a copy of it")
    goal = settled(one_or_several(task), model)
    before = copy.deepcopy(model) if inplace else model
    tuned = model if inplace else copy.deepcopy(model)
    fitting = Fit(**settings)
    lesson = partial(Logits, temperature=temperature, weight=weight)
    teacher = parent_of(tuned) if isinstance(teacher, str) else teacher
    taught, goal = lessons(teacher, goal, lesson)
    hooks = [*taught, *callbacks, *callbacks_of(tuned), *([KeepZeros()] if keep_zeros else [])]
    result = fit(tuned, goal, fitting, hooks)
    trained = Trained(before, tuned, teacher, goal, result)
    data = trained.report_data({**in_choices(fitting), **_taught_by(teacher, lesson())})
    return Tuned(tuned, Report(replace(data, seconds=time.perf_counter() - started)))


def parent_of(model: nn.Module) -> nn.Module | None:
    """The network that a prepared one was made from, on its device; None for any other."""
    if not isinstance(model, QuantizationAware):
        return None
    parent, home = model.origin.parent, device_of(model)
    return parent if device_of(parent) == home else copy.deepcopy(parent).to(home)


def _taught_by(teacher: nn.Module | None, loss: Logits) -> dict[str, str]:
    if teacher is None:
        return {"teacher": "none"}
    settings = {"temperature": f"{loss.temperature:g}", "weight": f"{loss.weight:g}"}
    return {"teacher": type(teacher).__name__, **settings}

"""`finetune`: train a network that was cut, with its dense parent as the teacher."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from torch import nn

from penjing.distillation import Logits
from penjing.errors import InputError
from penjing.report import ClassFigures, Report, ReportData, environment
from penjing.task import Comparison, Task, agreement, compare
from penjing.task.definition import Split
from penjing.training import Callback, Fit, FitOptions, FitResult, Teacher, fit
from penjing.training.settings import in_words


@dataclass(frozen=True, slots=True)
class Tuned:
    """A trained network.

    Args:
        model: Of the same class, on the same device, its modes as before.
        report: Every epoch, metrics before and after, and why training ended when it ended early.
    """

    model: nn.Module
    report: Report


def finetune(  # noqa: PLR0913 - the public contract; everything else is in `Fit`
    model: nn.Module,
    task: Task,
    *,
    teacher: nn.Module | None = None,
    temperature: float = 4.0,
    weight: float = 0.9,
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
        teacher: Usually the dense parent, on the device of `model`; None trains on the loss alone.
        temperature: Softens the outputs of both, above 0.
        weight: The teacher's share of the loss, in [0, 1].
        inplace: Train `model` itself.
        callbacks: What else happens in the training loop.
        **settings: Fields of `penjing.training.Fit`: epochs=3, optimizer="adamw", lr, weight_decay,
            schedule="cosine", warmup, clip, patience, keep="best", minutes, workdir (a checkpoint;
            the same call goes on from there), save_seconds, seed=0, progress.

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
    if inplace and teacher is model:
        raise InputError("the teacher is the model that is trained in place; give a copy of it")
    before = copy.deepcopy(model) if inplace else model
    tuned = model if inplace else copy.deepcopy(model)
    fitting = Fit(**settings)
    loss = Logits(temperature=temperature, weight=weight, kind=task.kind, class_dim=task.class_dim)
    taught = [] if teacher is None else [Teacher(teacher, loss)]
    result = fit(tuned, task, fitting, [*taught, *callbacks])
    trained = _Trained(before, tuned, teacher, task, result)
    data = trained.report_data(_choices(fitting, teacher, loss))
    return Tuned(tuned, Report(replace(data, seconds=time.perf_counter() - started)))


@dataclass(frozen=True, slots=True)
class _Trained:
    """Everything the report tells of."""

    before: nn.Module
    after: nn.Module
    teacher: nn.Module | None
    task: Task
    result: FitResult

    def report_data(self, choices: dict[str, str]) -> ReportData:
        """Figures on the test split where there is one, else on validation."""
        split = self._split()
        metrics_before, metrics_after = self._metrics(split)
        comparison, notes = self._comparison(split)
        stopped = (self.result.stopped,) if self.result.stopped else ()
        return ReportData(
            kind="finetune",
            title=type(self.before).__name__,
            metrics_before=metrics_before,
            metrics_after=metrics_after,
            higher_is_better=self.task.directions,
            agreement=comparison.agreement if comparison else None,
            per_class=tuple(
                ClassFigures(r.name, r.count, r.before, r.after, r.agreement)
                for r in (comparison.classes if comparison else ())
            ),
            epochs=self.result.epochs,
            choices={**choices, "judged on": split or "nothing"},
            environment=environment(),
            notes=(*stopped, *self.result.notes, *notes),
        )

    def _split(self) -> Split | None:
        if self.task.test is not None:
            return "test"
        return "val" if self.task.val is not None else None

    def _metrics(self, split: Split | None) -> tuple[dict[str, float], dict[str, float]]:
        if split != "test" or not (self.task.metrics or self.task.loss):
            return self.result.metrics_before, self.result.metrics_after
        return self.task.evaluate(self.before, "test"), self.task.evaluate(self.after, "test")

    def _comparison(self, split: Split | None) -> tuple[Comparison | None, list[str]]:
        """Accuracy before and after; agreement with the teacher, else with the former self."""
        if split is None:
            return None, ["without validation data the last epoch is given back, unjudged"]
        data = self.task.data(split)
        try:
            comparison = compare(self.after, self.before, data, task=self.task)
            if self.teacher is None:
                return comparison, []
            was = agreement(self.before, self.teacher, data, task=self.task)
            taught = compare(self.after, self.teacher, data, task=self.task)
        except InputError as error:
            return None, [f"agreement is not known: {error}"]
        rows = tuple(
            replace(row, agreement=like.agreement)
            for row, like in zip(comparison.classes, taught.classes, strict=True)
        )
        note = (
            f"agreement with the teacher on {split}: {was:.2%} before, {taught.agreement:.2%} now"
        )
        return replace(taught, classes=rows), [note]


def _choices(settings: Fit, teacher: nn.Module | None, loss: Logits) -> dict[str, str]:
    """Settings as they were resolved, in words."""
    shown = ("epochs", "optimizer", "lr", "weight_decay", "schedule", "warmup", "clip", "patience")
    choices = {
        name: in_words(getattr(settings, name)) for name in (*shown, "keep", "minutes", "seed")
    }
    if teacher is None:
        return {**choices, "teacher": "none"}
    taught = {"temperature": f"{loss.temperature:g}", "weight": f"{loss.weight:g}"}
    return {**choices, "teacher": type(teacher).__name__, **taught}

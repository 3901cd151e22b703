"""What a training run did, told as a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from penjing.distillation import Logits
from penjing.errors import InputError
from penjing.report import ClassFigures, ReportData, environment
from penjing.task import Comparison, Recovered, Task, Tasks, agreement, chained, compare
from penjing.task.definition import Split
from penjing.training import Callback, Fit, FitResult, Teacher
from penjing.training.settings import in_words

GIVEN = "as given"
STEPS = {"finetune": "fine-tuned", "distill": "distilled", "train": "trained"}
"""Names of the steps of a chain that begins with the teacher."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Everything the report tells of."""

    before: nn.Module
    after: nn.Module
    teacher: nn.Module | None
    task: Task | Tasks
    result: FitResult
    kind: Literal["finetune", "distill", "train"] = "finetune"

    def report_data(self, choices: dict[str, str]) -> ReportData:
        """Figures on the test split where there is one, else on validation."""
        split = self._split()
        metrics_before, metrics_after = self._metrics(split)
        comparison, notes = self._comparison(split)
        like = comparison is not None  # else the teacher has other outputs, and no figures
        stopped = (self.result.stopped,) if self.result.stopped else ()
        return ReportData(
            kind=self.kind,
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
            recovery=self._recovered(metrics_before, metrics_after) if like else (),
            choices={**choices, "judged on": split or "nothing"},
            environment=environment(),
            notes=(*stopped, *self.result.notes, *notes, *self._drops()),
        )

    def _recovered(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> tuple[Recovered, ...]:
        """Figures as given and trained beside the teacher's, on validation and on test.

        Args:
            before: Of the network as it was given, on test where there is such data.
            after: Of the trained one.
        """
        if self.teacher is None or not before:
            return ()
        done, result, rows = STEPS[self.kind], self.result, tuple[Recovered, ...]()
        if result.metrics_before:
            steps = {GIVEN: result.metrics_before, done: result.metrics_after}
            rows = chained("val", self._of_teacher("val"), steps)
        if self._split() == "test":
            own = self._of_teacher("test")
            rows = (*rows, *chained("test", own, {GIVEN: before, done: after}))
        return rows

    def _of_teacher(self, split: Split) -> Mapping[str, float]:
        assert self.teacher is not None  # asked only then
        if isinstance(self.task, Tasks) and self.task.reference and split == "val":
            return self.task.reference
        return self.task.evaluate(self.teacher, split)

    def _drops(self) -> tuple[str, ...]:
        """What each of several tasks has lost against the teacher where epochs were chosen."""
        task, now = self.task, self.result.metrics_after
        if not isinstance(task, Tasks) or not task.reference or not now:
            return ()
        was = task.told(task.reference, self.result.metrics_before)
        return (
            f"on validation, against the teacher: {was} before; {task.told(task.reference, now)}",
        )

    def _split(self) -> Split | None:
        if self.task.test is not None:
            return "test"
        return "val" if self.task.val is not None else None

    def _metrics(self, split: Split | None) -> tuple[dict[str, float], dict[str, float]]:
        if split != "test" or not self.task.scores:
            return self.result.metrics_before, self.result.metrics_after
        return self.task.evaluate(self.before, "test"), self.task.evaluate(self.after, "test")

    def _comparison(self, split: Split | None) -> tuple[Comparison | None, list[str]]:
        """Accuracy before and after; agreement with the teacher, else with the former self."""
        if split is None:
            return None, ["without validation data the last epoch is given back, unjudged"]
        data = self.task.data(split)
        try:
            comparison = compare(self.after, self.before, data, task=self.task.compared)
            if self.teacher is None:
                return comparison, []
            was = agreement(self.before, self.teacher, data, task=self.task.compared)
            taught = compare(self.after, self.teacher, data, task=self.task.compared)
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


def lessons(
    teacher: nn.Module | None, task: Task | Tasks, lesson: Callable[..., Logits]
) -> tuple[list[Callback], Task | Tasks]:
    """A teacher by logits of what each task predicts, and the task with drops against it.

    Args:
        teacher: On the device of the student, or None.
        task: One, or several.
        lesson: Makes the loss, given `kind` and `class_dim` of the outputs of a task.

    Returns:
        Callbacks, and the task or tasks.
    """
    if teacher is None:
        return [], task
    losses = {
        name: lesson(kind=part.kind, class_dim=part.class_dim) for name, part in task.parts.items()
    }
    return [Teacher(teacher, losses)], against(task, teacher)


def against(task: Task | Tasks, teacher: nn.Module) -> Task | Tasks:
    """Several tasks whose drops are against a teacher; one task as it is."""
    if not isinstance(task, Tasks) or task.reference or not task.judges:
        return task
    return replace(task, reference=task.evaluate(teacher))


def in_choices(settings: Fit) -> dict[str, str]:
    """Settings as they were resolved, in words."""
    shown = (
        *("epochs", "optimizer", "lr", "weight_decay", "schedule", "warmup", "clip", "accumulate"),
        *("precision", "patience", "keep", "minutes", "seed"),
    )
    told = {name: in_words(getattr(settings, name)) for name in shown}
    return {**told, **({"lr_by": in_words(settings.lr_by)} if settings.lr_by else {})}

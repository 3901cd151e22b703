"""How far a network does the same as the one it was made from: agreement, whole and per class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.batches import Batch, describe, fresh, split
from penjing.task.calibration import Calibration
from penjing.task.definition import Task
from penjing.task.randomness import device_of, evaluating, random_kept


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Accuracy and agreement on the samples of one class, each a share in [0, 1]."""

    name: str
    count: int
    before: float
    after: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two networks on the same data.

    Args:
        agreement: Share of samples with the same decision; for values, the share of the
            reference's variance that is reproduced, never above 1.
        samples: Samples compared.
        classes: Per class with at least one sample; empty without labels or without classes.
    """

    agreement: float
    samples: int
    classes: tuple[ClassScores, ...] = ()


def agreement(
    model: nn.Module, reference: nn.Module, batches: Any, *, task: Task | None = None
) -> float:
    """Share of samples on which `model` decides as `reference` does; see `compare`."""
    return compare(model, reference, batches, task=task).agreement


def compare(
    model: nn.Module, reference: nn.Module, batches: Any, *, task: Task | None = None
) -> Comparison:
    """Run two networks over the same batches, in eval mode; both are left as they were.

    Args:
        model: The new network.
        reference: The one it was made from.
        batches: A Calibration or any iterable of batches, labelled or not.
        task: Gives `kind`, `class_dim`, `classes`, `forward` and `transform_fn`. Without one,
            outputs that hold no scores of classes in dimension 1 are compared as values.

    Returns:
        Agreement, and rows per class when labels of single-label classes are there.

    Raises:
        InputError: No batches, or outputs of different shapes.
    """
    total: _Total | None = None
    for mine, theirs, labels in _outputs(model, reference, batches, task or Task()):
        total = total or _Total(task or _guess(mine))
        total.add(mine, theirs, labels)
    if total is None:
        raise InputError("nothing to compare: there are no batches")
    return total.comparison()


def _guess(outputs: list[Tensor]) -> Task:
    """Classes where every output has at least two scores in dimension 1, else values."""
    scores = all(x.dim() > 1 and x.shape[1] > 1 for x in outputs)
    return Task(kind="classes" if scores else "values")


def _outputs(
    model: nn.Module, reference: nn.Module, batches: Any, task: Task
) -> Iterator[tuple[list[Tensor], list[Tensor], Any]]:
    """Flat outputs of both networks and labels, batch by batch, on the model's device."""
    device, other = device_of(model), device_of(reference)
    with evaluating(model, reference), random_kept(batches), torch.inference_mode():
        for batch in _batches(batches, task):
            mine = task.predict(model, batch.to(device).inputs)
            theirs = task.predict(reference, batch.to(other).inputs)
            if describe(mine) != describe(theirs):
                raise InputError(
                    f"outputs differ: the network gives {describe(mine)}, the reference "
                    f"{describe(theirs)}; compare networks of one kind"
                )
            flat = [
                [leaf.to(device) for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
                for value in (mine, theirs)
            ]
            yield flat[0], flat[1], batch.to(device).labels


def _batches(batches: Any, task: Task) -> Iterator[Batch]:
    if isinstance(batches, Calibration):
        yield from batches._parts()
        return
    for item in fresh(batches, "batches"):
        yield split(task.transform_fn(item) if task.transform_fn else item)


class _Total:
    """Running sums of a comparison."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.same = self.decisions = self.residual = self.sum = self.squares = 0.0
        self.samples = 0
        self.rows: Tensor | None = None  # (classes, 4): count, before, after, agreement

    def add(self, mine: list[Tensor], theirs: list[Tensor], labels: Any) -> None:
        self.samples += mine[0].shape[0] if mine and mine[0].dim() else 1
        for a, b in zip(mine, theirs, strict=True):
            if self.task.kind == "values":
                self._values(a.double(), b.double())
            else:
                self._decisions(a, b, labels if len(mine) == 1 else None)

    def _values(self, a: Tensor, b: Tensor) -> None:
        self.residual += float((a - b).square().sum())
        self.sum += float(b.sum())
        self.squares += float(b.square().sum())
        self.decisions += b.numel()

    def _decisions(self, a: Tensor, b: Tensor, labels: Any) -> None:
        mine, theirs = (decide(x, self.task.kind, self.task.class_dim) for x in (a, b))
        self.same += float((mine == theirs).sum())
        self.decisions += mine.numel()
        if not isinstance(labels, Tensor) or labels.numel() != mine.numel():
            return
        flat, mine, theirs = labels.reshape(-1).long(), mine.reshape(-1), theirs.reshape(-1)
        count = 2 if self.task.kind == "binary" else a.shape[self.task.class_dim]
        known = (flat >= 0) & (flat < count)  # ignored positions of dense labels lie outside
        columns = (torch.ones_like(known), theirs == flat, mine == flat, mine == theirs)
        rows = [torch.bincount(flat[known & c], minlength=count) for c in columns]
        new = torch.stack(rows, dim=1)
        self.rows = new if self.rows is None else self.rows + new

    def comparison(self) -> Comparison:
        if not self.decisions:
            raise InputError("nothing to compare: the batches are empty")
        if self.task.kind == "values":
            variance = self.squares - self.sum**2 / self.decisions
            share = 1 - self.residual / variance if variance > 0 else float(self.residual == 0)
            return Comparison(share, self.samples)
        return Comparison(self.same / self.decisions, self.samples, self._classes())

    def _classes(self) -> tuple[ClassScores, ...]:
        rows = [] if self.rows is None else self.rows.tolist()
        names = [str(name) for name in self.task.classes]
        return tuple(
            ClassScores(names[i] if i < len(names) else str(i), n, *(x / n for x in shares))
            for i, (n, *shares) in enumerate(rows)
            if n
        )


def decide(outputs: Tensor, kind: str, class_dim: int) -> Tensor:
    """The decision in each output: the class of the highest score, or whether a logit is above 0.

    Raises:
        InputError: Scores of classes are missing, or there is only one.
    """
    if kind == "binary":
        return (outputs > 0).long()
    if outputs.dim() <= class_dim or outputs.shape[class_dim] < 2:
        raise InputError(
            f"outputs {describe(outputs)} hold no scores of classes in dimension {class_dim}; "
            'give Task(kind="binary") for one logit each, Task(kind="values") for regression, '
            "or Task(class_dim=...)"
        )
    return outputs.argmax(dim=class_dim)

"""How far a network does the same as the one it was made from: agreement, whole and per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.batches import Batch, describe, fresh
from penjing.task.calibration import Calibration
from penjing.task.definition import Task
from penjing.task.outputs import Output, Outputs, named_tensors
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
            reference's variance that is reproduced, never above 1. The mean over several outputs.
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
            outputs that look like scores of classes (`penjing.task.outputs`) are compared as such,
            others as values.

    Returns:
        Agreement, and rows per class when labels of single-label classes are there.

    Raises:
        InputError: No batches, or outputs of different shapes.
    """
    total: _Total | None = None
    for mine, theirs, batch in _outputs(model, reference, batches, task or Task()):
        total = total or _Total(task)
        total.add(mine, theirs, batch)
    if total is None:
        raise InputError("nothing to compare: there are no batches")
    return total.comparison()


def _outputs(
    model: nn.Module, reference: nn.Module, batches: Any, task: Task
) -> Iterator[tuple[Any, Any, Batch]]:
    """Outputs of both networks and the batch, batch by batch, on the model's device."""
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
            yield mine, pytree.tree_map(partial(_placed, device), theirs), batch.to(device)


def _placed(device: torch.device, leaf: Any) -> Any:
    return leaf.to(device) if isinstance(leaf, Tensor) else leaf


def _batches(batches: Any, task: Task) -> Iterator[Batch]:
    if isinstance(batches, Calibration):
        yield from batches.parts()
        return
    for item in fresh(batches, "batches"):
        yield task.batch(item)


class _Total:
    """Running sums of a comparison, output by output."""

    def __init__(self, task: Task | None) -> None:
        self.read = Outputs() if task is None else task.outputs
        self.names = () if task is None else tuple(str(name) for name in task.classes)
        self.samples = 0
        self.parts: dict[str, _Decisions | _Values] = {}

    def add(self, mine: Any, theirs: Any, batch: Batch) -> None:
        self.samples += batch.samples
        given = list(named_tensors(theirs).values())
        lone = len(given) == 1
        read = self.read.at(given[0], batch.labels) if lone else self.read
        for out, new in zip(read.read(theirs), named_tensors(mine).values(), strict=True):
            new_part = _Values if out.kind == "values" else _Decisions
            part = self.parts.setdefault(out.name, new_part())
            part.add(out, new, batch.labels if lone else None)

    def comparison(self) -> Comparison:
        seen = [part for part in self.parts.values() if part.count]
        if not seen:
            raise InputError("nothing to compare: the batches are empty")
        shares = [part.share for part in seen]
        rows = [row for part in seen for row in part.classes(self.names)]
        return Comparison(sum(shares) / len(shares), self.samples, tuple(rows))


class _Values:
    """Running sums of an output of values."""

    def __init__(self) -> None:
        self.count = self.residual = self.sum = self.squares = 0.0

    def add(self, out: Output, new: Tensor, labels: Any) -> None:  # noqa: ARG002 - as decisions do
        a, b = new.double(), out.value.double()
        self.residual += float((a - b).square().sum())
        self.sum += float(b.sum())
        self.squares += float(b.square().sum())
        self.count += b.numel()

    @property
    def share(self) -> float:
        """Share of the reference's variance that is reproduced."""
        variance = self.squares - self.sum**2 / self.count
        return 1 - self.residual / variance if variance > 0 else float(self.residual == 0)

    def classes(self, names: Sequence[str]) -> Sequence[ClassScores]:  # noqa: ARG002 - as above
        return ()


class _Decisions:
    """Running sums of an output of scores."""

    def __init__(self) -> None:
        self.same = self.count = 0.0
        self.rows: Tensor | None = None  # (classes, 4): count, before, after, agreement

    def add(self, out: Output, new: Tensor, labels: Any) -> None:
        mine, theirs = decided(out, new), decided(out, out.value)
        self.same += float((mine == theirs).sum())
        self.count += mine.numel()
        if not isinstance(labels, Tensor) or not _in_turn(labels, mine):
            return
        flat, mine, theirs = labels.reshape(-1).long(), mine.reshape(-1), theirs.reshape(-1)
        count = out.scores(new).shape[-1]
        known = (flat >= 0) & (flat < count)  # ignored positions of dense labels lie outside
        columns = (torch.ones_like(known), theirs == flat, mine == flat, mine == theirs)
        rows = [torch.bincount(flat[known & c], minlength=count) for c in columns]
        table = torch.stack(rows, dim=1)
        self.rows = table if self.rows is None else self.rows + table

    @property
    def share(self) -> float:
        """Share of equal decisions."""
        return self.same / self.count

    def classes(self, names: Sequence[str]) -> Sequence[ClassScores]:
        rows = [] if self.rows is None else self.rows.tolist()
        return tuple(
            ClassScores(names[i] if i < len(names) else str(i), n, *(x / n for x in shares))
            for i, (n, *shares) in enumerate(rows)
            if n
        )


def _in_turn(labels: Tensor, decisions: Tensor) -> bool:
    """Whether labels are those of the decisions in the same order, however they are flattened.

    `(B, T)` beside `(T, B)` are as many in another order.
    """
    sizes, others = ([n for n in t.shape if n > 1] for t in (labels, decisions))
    flattened = len(sizes) != len(others)
    return labels.numel() == decisions.numel() and (flattened or sizes == others)


def decided(out: Output, value: Tensor) -> Tensor:
    """The decision in each output: the class of the highest score, or whether a logit is above 0.

    Args:
        out: What the output is; no values.
        value: The scores.
    """
    return (value > 0).long() if out.kind == "binary" else value.argmax(dim=out.class_dim)

"""How much of the original every step of a chain keeps: figures, and their ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from penjing.errors import InputError
from penjing.task.definition import Task
from penjing.task.several import Tasks, one_or_several

JUDGED: tuple[Literal["val", "test"], ...] = ("val", "test")


@dataclass(frozen=True, slots=True)
class Recovered:
    """One figure of one step.

    Args:
        step: Name of the step.
        split: "val" or "test", or what else the step was judged on.
        figure: Name of the metric, or "loss".
        original: Of the original network.
        before: Of the step before; of the original in the first step.
        after: Of this step.
    """

    step: str
    split: str
    figure: str
    original: float
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """The figure over that of the original; NaN where that is 0."""
        return self.after / self.original if self.original else float("nan")

    @property
    def change(self) -> float:
        """The figure over that of the step before; NaN where that is 0."""
        return self.after / self.before if self.before else float("nan")


def recovery(
    task: Task | Tasks | Mapping[str, Task], original: nn.Module, steps: Mapping[str, nn.Module]
) -> tuple[Recovered, ...]:
    """Metrics and loss of every step of a chain, such as cut, tuned, cut again, tuned again.

    Choose by the rows of "val"; those of "test" are for the report.

    Args:
        task: Data, loss and metrics; the splits "val" and "test" that it has are judged. Several
            by name, as the verbs take them.
        original: The network that the chain began with.
        steps: Networks in the order in which they were made, by name of the step.

    Returns:
        A row per split, step and figure, in this order.

    Raises:
        InputError: The task has neither validation nor test data.

    Source:
        Ratios to the original, before and after each recovery, as in Blalock et al. 2020,
        arXiv:2003.03033.

    Example:
        >>> import torch
        >>> data = [(torch.ones(4, 3), torch.zeros(4, 1))]
        >>> task = Task(val=data, loss=nn.functional.mse_loss)
        >>> net, half = nn.Linear(3, 1), nn.Linear(3, 1)
        >>> [row.split for row in recovery(task, net, {"half": half})]
        ['val']
    """
    whole = one_or_several(task)
    splits = [split for split in JUDGED if getattr(whole, split) is not None]
    if not splits:
        raise InputError("the task has no val and no test data to judge by; give Task(val=loader)")
    return tuple(
        row
        for split in splits
        for row in chained(
            split,
            whole.evaluate(original, split),
            {step: whole.evaluate(model, split) for step, model in steps.items()},
        )
    )


def chained(
    split: str, original: Mapping[str, float], steps: Mapping[str, Mapping[str, float]]
) -> tuple[Recovered, ...]:
    """The same from figures that are known.

    Args:
        split: What they were judged on.
        original: Figures of the original network.
        steps: Those of every network of the chain, by name of the step.

    Returns:
        A row per step and figure, in this order.
    """
    befores = [original, *steps.values()]
    return tuple(
        Recovered(step, split, figure, original[figure], before[figure], value)
        for before, (step, after) in zip(befores, steps.items(), strict=False)
        for figure, value in after.items()
    )

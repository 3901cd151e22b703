"""Units of a trunk that several tasks share, judged by the loss of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance._elementwise import Elementwise
from penjing.pruning.importance._taylor import Taylor
from penjing.pruning.importance.protocol import Prepares
from penjing.pruning.importance.scores import Scores
from penjing.task import Calibration, Task
from penjing.task.definition import CALIBRATION_SAMPLES

Normalizer = Literal["mean", "max", "sum"]
TaskReduction = Literal["mean", "max", "vote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTask:
    """One criterion, once for every task on its own data, and the scores brought together.

    Scores of a task are first divided by their mean (or largest, or sum) over all units of the
    network, so that a task with a large loss does not decide alone.

    Args:
        tasks: Name -> task with a loss on the network's outputs (it picks its part of them) and
            labelled training data.
        criterion: What judges, given the loss of each task in turn: `Taylor`, or an `Elementwise`
            of a saliency with a loss.
        task_reduction: "mean" of the tasks; "max": a unit is worth what it is to the task that
            needs it most; "vote": units go in the order in which more than half of the tasks would
            have let them go.
        normalizer: What the scores of a task are divided by.
        samples: Samples of each task at most, the first ones.

    Raises:
        StrategyError: No task, a criterion without a loss, or an unknown name.

    Source:
        Reductions over tasks as in Xiang et al. 2022 (mean, maximum and vote of per-task
        saliencies); the vote here holds for any number of units at once: the rank by which a
        majority has been reached.
    """

    tasks: Mapping[str, Task]
    criterion: Any = field(default_factory=Taylor)
    task_reduction: TaskReduction = "mean"
    normalizer: Normalizer = "mean"
    samples: int = CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        if not self.tasks or not isinstance(self.tasks, Mapping):
            raise StrategyError("multi-task importance needs tasks={'name': Task(...), ...}")
        if self.task_reduction not in get_args(TaskReduction):
            raise StrategyError(
                f"task_reduction is {self.task_reduction!r}; known are "
                f"{', '.join(get_args(TaskReduction))}"
            )
        if self.normalizer not in get_args(Normalizer):
            raise StrategyError(
                f"normalizer is {self.normalizer!r}; known are {', '.join(get_args(Normalizer))}"
            )
        if self.samples < 1:
            raise StrategyError(f"samples is {self.samples}; it must be at least 1")
        for name, task in self.tasks.items():
            if task.loss is None or task.train is None or task.forward is not None:
                raise StrategyError(
                    f"task {name!r} judges by its loss on the network's own outputs: give "
                    "Task(train=..., loss=...) without forward, the loss picks its part"
                )
            with_loss(self.criterion, task.loss)

    @property
    def needs_data(self) -> bool:
        """Never: the tasks have their own."""
        return False

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: the tasks look at the whole network.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise StrategyError("multi-task importance looks at the whole network: call prepare first")

    def prepare(self, network: Network, calibration: Calibration | None) -> Scores:  # noqa: ARG002 - the protocol's
        """Judge by every task, then bring the scores together.

        Args:
            network: The captured network.
            calibration: Not read: every task is judged on its own data.

        Returns:
            An importance for the groups of `network`.
        """
        units = [group.units for group in network.groups]
        found = torch.stack([self._of(task, network) for task in self.tasks.values()])
        parts = self._reduced(found).split(units)
        scores = zip((g.name for g in network.groups), parts, strict=True)
        return Scores("multi_task", dict(scores))

    def _of(self, task: Task, network: Network) -> Tensor:
        """Normalised scores of one task, of all units of the network one after the other."""
        if task.batch_dims is None:
            task = replace(task, batch_dims=network.program.batch_dims)
        data = task.calibration(self.samples)
        judge = with_loss(self.criterion, task.loss).prepare(network, data)
        module = nn.Module()  # prepared scores read no model
        raw = torch.cat([judge(module, group).double().cpu() for group in network.groups])
        by = {"mean": raw.mean(), "max": raw.max(), "sum": raw.sum()}[self.normalizer]
        return raw / by if by > 0 else raw

    def _reduced(self, scores_TU: Tensor) -> Tensor:
        return REDUCTIONS[self.task_reduction](scores_TU)


def with_loss(criterion: Any, loss: Callable[[Any, Any], Tensor] | None) -> Prepares:
    """The criterion with a loss of its own.

    Args:
        criterion: `Taylor`, an `Elementwise`, or another dataclass with a field `loss`.
        loss: `loss(outputs, labels)`.

    Raises:
        StrategyError: It takes no loss.
    """
    if isinstance(criterion, Elementwise) and _takes_loss(criterion.saliency):
        saliency: Any = criterion.saliency
        return replace(criterion, saliency=replace(saliency, loss=loss))
    if not _takes_loss(criterion):
        raise StrategyError(
            f"criterion {type(criterion).__name__} takes no loss; give Taylor(), or "
            "Elementwise(saliency=Fisher()), Snip() or Grasp()"
        )
    found: Prepares = replace(criterion, loss=loss)
    return found


def _takes_loss(strategy: Any) -> bool:
    return is_dataclass(strategy) and "loss" in {f.name for f in fields(strategy)}


def _vote(scores_TU: Tensor) -> Tensor:
    """Rank, as a share, by which more than half of the tasks would have let a unit go."""
    ranks = scores_TU.argsort(dim=1, stable=True).argsort(dim=1).double() + 1
    majority = len(scores_TU) // 2 + 1
    return ranks.kthvalue(majority, dim=0).values / ranks.shape[1]


def _mean(scores_TU: Tensor) -> Tensor:
    return scores_TU.mean(0)


def _max(scores_TU: Tensor) -> Tensor:
    return scores_TU.amax(0)


REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": _mean, "max": _max, "vote": _vote}
"""Name -> scores of tasks by units to one score per unit."""

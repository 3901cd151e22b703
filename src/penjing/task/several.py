"""Several tasks on one network: judged each by its own data, worst one first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from penjing.errors import InputError
from penjing.task.batches import Batch
from penjing.task.calibration import Calibration
from penjing.task.definition import CALIBRATION_SAMPLES, Split, Task
from penjing.task.outputs import Outputs


@dataclass(frozen=True, eq=False, slots=True)
class Tasks:
    """Tasks of one network by name; where one task is asked for, the first answers.

    Args:
        tasks: Name -> task; each picks its part of the outputs in its loss and metrics, or in
            `forward`.
        weights: Name -> what a drop of this task counts, so that one bound holds for all; 1 where
            it is not named.

    Raises:
        InputError: No task, or one that is none.
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, task in self.tasks.items():
            if not isinstance(task, Task):
                raise InputError(f"task {name!r} is a {type(task).__name__}; give a Task")
        if not self.tasks:
            raise InputError("task is an empty dict; give a Task, or several by name")

    @property
    def first(self) -> Task:
        """The task that answers where only one can."""
        return next(iter(self.tasks.values()))

    @property
    def compared(self) -> None:
        """None: where all outputs are compared, their shapes say what they are."""
        return

    @property
    def outputs_as_found(self) -> Outputs:
        """As above, for criteria."""
        return Outputs()

    @property
    def headline(self) -> str:
        """Name of the first figure of the first task."""
        return _figure(next(iter(self.tasks)), self.first.headline)

    @property
    def maximise(self) -> bool:
        """Whether a higher headline figure is better."""
        return self.first.maximise

    @property
    def metrics(self) -> dict[str, Any]:
        """All metrics, by task and name."""
        return {
            _figure(name, metric): value
            for name, task in self.tasks.items()
            for metric, value in (task.metrics or {}).items()
        }

    @property
    def loss(self) -> Any:
        """The loss of the first task."""
        return self.first.loss

    @property
    def train(self) -> None:
        """None: several tasks are not trained together."""
        return

    @property
    def val(self) -> Any:
        """Validation data of the first task; None unless every task has some."""
        return self._shared("val")

    @property
    def test(self) -> Any:
        """Test data of the first task; None unless every task has some."""
        return self._shared("test")

    def _shared(self, name: Split) -> Any:
        found = [getattr(task, name) for task in self.tasks.values()]
        return None if any(data is None for data in found) else found[0]

    def data(self, name: Split) -> Any:
        """Data of a split of the first task."""
        return self.first.data(name)

    @property
    def directions(self) -> dict[str, bool]:
        """Figure -> whether higher is better, where that is known."""
        return {
            _figure(name, figure): up
            for name, task in self.tasks.items()
            for figure, up in task.directions.items()
        }

    def evaluate(self, model: nn.Module, split: Split = "val") -> dict[str, float]:
        """Figures of every task on its own data.

        Args:
            model: Read, never changed.
            split: "train", "val" or "test".

        Returns:
            "task figure" -> value, in the order of the tasks.
        """
        return {
            _figure(name, figure): value
            for name, task in self.tasks.items()
            for figure, value in task.evaluate(model, split).items()
        }

    def drops(self, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
        """How much worse each task's first figure is, absolute.

        Args:
            before: What `evaluate` gave of the original.
            after: What it gave of the other network.
        """
        found = {}
        for name, task in self.tasks.items():
            figure = _figure(name, task.headline)
            fall = before[figure] - after[figure]
            found[name] = fall if task.maximise else -fall
        return found

    def drop(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """The drop of the task that is worst off, each times its weight; NaN where one is."""
        drops = self.drops(before, after).items()
        weighed = [_weighed(fall, self.weights.get(name, 1.0)) for name, fall in drops]
        return math.nan if any(map(math.isnan, weighed)) else max(weighed)

    def limits(self, bound: float) -> dict[str, tuple[float, bool]]:
        """What one bound on the weighed drop permits each task.

        Args:
            bound: On what `drop` gives.

        Returns:
            Figure -> its own bound, and whether higher is better.
        """
        return {
            _figure(name, task.headline): (bound / self.weights.get(name, 1.0), task.maximise)
            for name, task in self.tasks.items()
        }

    def calibration(self, limit: int | None = CALIBRATION_SAMPLES, seed: int = 0) -> Calibration:
        """Unlabelled samples, the same number of every task.

        Args:
            limit: Samples at most.
            seed: Random state while reading.
        """
        each = None if limit is None else max(1, limit // len(self.tasks))
        parts = [task.calibration(each, seed) for task in self.tasks.values()]
        batches = [Batch(inputs) for part in parts for inputs in part.inputs]
        return Calibration.of(batches, dims=parts[0].dims)


def _figure(task: str, figure: str) -> str:
    return f"{task} {figure}"


def _weighed(fall: float, weight: float) -> float:
    """A drop times its weight; no drop at all is permitted where that is infinite."""
    if math.isinf(weight) and not math.isnan(fall):
        return math.inf if fall > 0 else -math.inf
    return fall * weight

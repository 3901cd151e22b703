"""Several tasks on one network: judged each by its own data, worst one first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from statistics import fmean
from typing import Any, get_args

from torch import nn

from penjing.errors import InputError
from penjing.task.batches import Batch
from penjing.task.calibration import Calibration
from penjing.task.definition import CALIBRATION_SAMPLES, Split, Task
from penjing.task.mixing import Mixing, in_proportion, in_turns
from penjing.task.outputs import Outputs
from penjing.task.sharing import ALONE, Peers


@dataclass(frozen=True, eq=False, slots=True)
class Tasks:
    """Tasks of one network by name; where one task is asked for, the first answers.

    Args:
        tasks: Name -> task; each picks its part of the outputs in its loss and metrics, or in
            `forward`.
        weights: Name -> what a drop of this task counts, so that one bound holds for all; 1 where
            it is not named.
        loss_weights: Name -> what the loss of this task counts in training, with all that teachers
            and penalties add to it; 1 where it is not named.
        mixing: Whose batch comes next in training. "proportion" gives every batch of every task
            once an epoch, evenly spread; "turns" one of each in turn until all are through,
            shorter ones again and again.
        reference: What `evaluate` gave of the network that drops are against, on validation data;
            the epoch whose worst drop is least is then the best. Without it, that with the least
            mean drop.

    Raises:
        InputError: No task, one that is none, or weights of other tasks or that are negative.
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    mixing: Mixing = "proportion"
    reference: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Mapping):
            raise InputError(
                f"tasks is a {type(self.tasks).__name__}; give a dict from name to Task"
            )
        for name, task in self.tasks.items():
            if not isinstance(task, Task):
                raise InputError(f"task {name!r} is a {type(task).__name__}; give a Task")
        if not self.tasks:
            raise InputError("task is an empty dict; give a Task, or several by name")
        if self.mixing not in get_args(Mixing):
            raise InputError(
                f"mixing is {self.mixing!r}; it is {' or '.join(map(repr, get_args(Mixing)))}"
            )
        for argument in ("weights", "loss_weights"):
            self._check_weights(argument)
        self._check_reference()

    def _check_weights(self, argument: str) -> None:
        weights = getattr(self, argument)
        if not isinstance(weights, Mapping):
            raise InputError(
                f"{argument} is a {type(weights).__name__}; give a dict from name to number"
            )
        if unknown := sorted(set(weights) - set(self.tasks)):
            raise InputError(
                f"{argument} has {unknown[0]!r}, the tasks are {', '.join(sorted(self.tasks))}"
            )
        for name, weight in weights.items():
            number = isinstance(weight, Real) and float(weight) >= 0
            if not number or (argument == "loss_weights" and math.isinf(weight)):
                raise InputError(
                    f"{argument} has {weight!r} for {name!r}; give a number, 0 or more"
                )

    def _check_reference(self) -> None:
        if not isinstance(self.reference, Mapping):
            raise InputError(
                f"reference is a {type(self.reference).__name__}; give what evaluate returned"
            )
        for name, task in self.tasks.items() if self.reference else ():
            if task.scores and (figure := _figure(name, task.headline)) not in self.reference:
                raise InputError(
                    f"reference has no {figure!r}; give what evaluate returned of these tasks"
                )

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return self.tasks

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
    def train(self) -> Any:
        """Training data of the first task; None unless every task has some."""
        return self._shared("train")

    @property
    def val(self) -> Any:
        """Validation data of the first task; None where no task has any.

        Raises:
            InputError: Some tasks have such data and others none.
        """
        missing = [name for name, task in self.tasks.items() if task.val is None]
        if 0 < len(missing) < len(self.tasks):
            raise InputError(
                f"task {missing[0]!r} has no val data and others have; networks are judged by all "
                "tasks, so give Task(val=loader) for each, or for none"
            )
        return self._shared("val")

    @property
    def test(self) -> Any:
        """Test data of the first task; None unless every task has some."""
        return self._shared("test")

    def _shared(self, name: Split) -> Any:
        found = [getattr(task, name) for task in self.tasks.values()]
        return None if any(data is None for data in found) else found[0]

    def data(self, name: Split) -> Any:
        """Data of a split of the first task.

        Raises:
            InputError: A task has none.
        """
        for own, task in self.tasks.items():
            with _told_of(own):
                task.data(name)
        return self.first.data(name)

    def shared(self, name: Split, peers: Peers) -> Iterator[Batch | None]:
        """This process's batches of all tasks in the order of `mixing`, each with its task's name.

        Raises:
            InputError: "proportion", and a task whose data has no length.
        """
        opens = [partial(_named, own, task, name, peers) for own, task in self.tasks.items()]
        lengths = self._lengths(peers.size)
        if self.mixing == "turns":
            yield from in_turns(opens, list(lengths.values()))
            return
        if unknown := [own for own, length in lengths.items() if length is None]:
            raise InputError(
                f"the training data of task {unknown[0]!r} has no length, so its share is not "
                "known; give Tasks(..., mixing='turns'), or a loader with a length"
            )
        yield from in_proportion(opens, [length or 0 for length in lengths.values()])

    def length(self, processes: int = 1) -> int | None:
        """Training batches per epoch and process, where all data knows."""
        known = [n for n in self._lengths(processes).values() if n is not None]
        if len(known) < len(self.tasks):
            return None
        return sum(known) if self.mixing == "proportion" else len(known) * max(known)

    def _lengths(self, processes: int) -> dict[str, int | None]:
        return {name: task.length(processes) for name, task in self.tasks.items()}

    def loss_weight(self, name: str) -> float:
        """What a batch of a task counts in training."""
        return self.loss_weights.get(name, 1.0)

    def identity(self) -> dict[str, str]:
        """What a checkpoint must know of the tasks beside their data."""
        counts = ", ".join(
            f"{n} ({self.loss_weight(n):g}, {self.weights.get(n, 1.0):g})" for n in self.tasks
        )
        told = {"tasks": f"{counts} by {self.mixing}"}
        if self.reference:  # decides which epoch is the best
            told["reference"] = ", ".join(f"{n} {v:.6g}" for n, v in sorted(self.reference.items()))
        return told

    @property
    def directions(self) -> dict[str, bool]:
        """Figure -> whether higher is better, where that is known."""
        return {
            _figure(name, figure): up
            for name, task in self.tasks.items()
            for figure, up in task.directions.items()
        }

    def evaluate(
        self, model: nn.Module, split: Split = "val", peers: Peers = ALONE
    ) -> dict[str, float]:
        """Figures of every task on its own data.

        Args:
            model: Read, never changed.
            split: "train", "val" or "test".
            peers: Processes that share the batches.

        Returns:
            "task figure" -> value, in the order of the tasks.

        Raises:
            InputError: A task cannot judge the network; it is named.
        """
        found = {}
        for name, task in self.tasks.items():
            with _told_of(name):
                figures = task.evaluate(model, split, peers)
            found.update({_figure(name, figure): value for figure, value in figures.items()})
        return found

    @property
    def scores(self) -> bool:
        """Whether every task has figures: metrics or a loss."""
        return all(task.scores for task in self.tasks.values())

    @property
    def judges(self) -> bool:
        """Whether networks can be judged on validation data."""
        return self.val is not None and self.scores

    @property
    def goal(self) -> str:
        """What is best in the best epoch, in words."""
        return f"{'worst' if self._has_reference else 'mean'} drop of the tasks"

    @property
    def _has_reference(self) -> bool:
        """Whether there are figures that a drop can be against: none of them is NaN."""
        return bool(self.reference) and self.undefined(self.reference) is None

    def best(self, figures: Sequence[Mapping[str, float]]) -> int:
        """Which of several networks is best; the first of equal ones.

        Args:
            figures: What `evaluate` gave of each, at least one.

        Returns:
            Index of the one whose worst drop against `reference` is least; without a reference,
            of the one whose mean drop is. Figures that are NaN lose to all others.
        """
        if self._has_reference:
            falls = [self.drop(self.reference, one) for one in figures]
        else:
            start = next((one for one in figures if not self.undefined(one)), figures[0])
            falls = [self._mean_drop(start, one) for one in figures]
        return min(range(len(falls)), key=lambda i: (math.isnan(falls[i]), falls[i]))

    def undefined(self, figures: Mapping[str, float]) -> str | None:
        """Name of a headline figure that is NaN."""
        if not figures:
            return None
        names = [_figure(name, task.headline) for name, task in self.tasks.items()]
        return next((name for name in names if math.isnan(figures[name])), None)

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
        weighed = self._weighed_drops(before, after)
        return math.nan if any(map(math.isnan, weighed)) else max(weighed)

    def _mean_drop(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """The mean over the tasks; one that may not drop at all adds nothing while it does not."""
        weighed = self._weighed_drops(before, after)
        return fmean(0.0 if fall == -math.inf else fall for fall in weighed)

    def _weighed_drops(
        self, before: Mapping[str, float], after: Mapping[str, float]
    ) -> list[float]:
        drops = self.drops(before, after).items()
        return [_weighed(fall, self.weights.get(name, 1.0)) for name, fall in drops]

    def told(self, before: Mapping[str, float], after: Mapping[str, float]) -> str:
        """What every task lost, in words."""
        falls = ", ".join(f"{name} {fall:.4g}" for name, fall in self.drops(before, after).items())
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return f"drop by task: {falls}{f' (weights {weights})' if weights else ''}"

    def limits(self, bound: float) -> dict[str, tuple[float, bool]]:
        """What one bound on the weighed drop permits each task.

        Args:
            bound: On what `drop` gives.

        Returns:
            Figure -> its own bound, and whether higher is better; nothing of a task that counts 0.
        """
        weights = {name: self.weights.get(name, 1.0) for name in self.tasks}
        return {
            _figure(name, task.headline): (bound / weights[name], task.maximise)
            for name, task in self.tasks.items()
            if weights[name]
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


def one_or_several(task: Task | Tasks | Mapping[str, Task]) -> Task | Tasks:
    """A dict of tasks as `Tasks`; anything else as it is."""
    return Tasks(task) if isinstance(task, Mapping) else task


@contextmanager
def _told_of(name: str) -> Iterator[None]:
    """Errors inside say which task they are about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"task {name!r}: {error}") from error


def _named(name: str, task: Task, split: Split, peers: Peers) -> Iterator[Batch | None]:
    """Batches of a task that say whose they are."""
    for batch in task.shared(split, peers):
        yield None if batch is None else replace(batch, task=name)


def _figure(task: str, figure: str) -> str:
    return f"{task} {figure}"


def _weighed(fall: float, weight: float) -> float:
    """A drop times its weight; no drop at all is permitted where that is infinite."""
    if math.isinf(weight) and not math.isnan(fall):
        return math.inf if fall > 0 else -math.inf
    return fall * weight

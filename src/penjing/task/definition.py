"""The task: what "good" means for one network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.task.batches import Batch, call, check_call, describe, fresh, prediction, split
from penjing.task.calibration import Calibration
from penjing.task.metrics import Scores, higher_is_better, streams, understood
from penjing.task.outputs import Kinds, Outputs, named_tensors
from penjing.task.randomness import device_of, evaluating, random_kept
from penjing.task.sharing import ALONE, Peers, share

Split = Literal["train", "val", "test"]

CALIBRATION_SAMPLES = 1000  # what repair without labels needs (Frantar & Alistarh 2022 use 1024)


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Data, loss and metrics. Everything is optional; what a step needs and does not find, it says.

    Args:
        train: Loader, list of batches, or a function that returns a fresh iterator.
        val: The same; early stop and every choice look at this split.
        test: The same; looked at once, for the report.
        loss: `loss(outputs, labels) -> scalar tensor`, a mean over the batch.
        metrics: Name -> torchmetrics object, or a function `(outputs, labels) -> float` over a
            whole split. The first one is what `max_drop` is about.
        forward: `forward(model, inputs) -> outputs`, where calling the model is not enough.
        transform_fn: Makes a batch, `(inputs, labels)`, of each item that the data yields.
        kind: What the outputs are: scores of "classes", one "binary" logit each, or "values"; of
            several outputs also one for each, by name or in turn (`penjing.task.outputs`); then the
            loss and the metrics get all of them, not `logits` alone.
        class_dim: Dimension of the classes in the outputs; None finds it: the last one of
            `(B, T, C)`, else 1, or the one that the labels say.
        batch_dims: Per input the dimension of the batch, in the order in which `forward` is given
            them; None finds it, by running the network where dimension 0 is in doubt.
        classes: Names of the classes, for reports.
        higher_is_better: Direction by metric name, where the metric does not know its own.
    """

    train: Any = None
    val: Any = None
    test: Any = None
    loss: Callable[[Any, Any], Tensor] | None = None
    metrics: Mapping[str, Any] | None = None
    forward: Callable[[nn.Module, Any], Any] | None = None
    transform_fn: Callable[[Any], Any] | None = None
    kind: Kinds = "classes"
    class_dim: int | None = None
    batch_dims: Sequence[int | None] | None = None
    classes: Sequence[str] = ()
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metrics is not None and not isinstance(self.metrics, Mapping):
            raise InputError(
                f"metrics is {describe(self.metrics)}; give a dict from name to metric, for "
                'instance {"accuracy": Accuracy(task="multiclass", num_classes=10)}'
            )
        for name, metric in (self.metrics or {}).items():
            if not callable(metric) and not streams(metric):
                raise InputError(
                    f"metric {name!r} is {describe(metric)}; give a torchmetrics object or a "
                    "function (outputs, labels) -> float"
                )
        _ = self.outputs  # refuses an unknown kind
        for name in get_args(Split):
            data = getattr(self, name)
            if data is not None and not callable(data):
                fresh(data, name)

    @property
    def outputs(self) -> Outputs:
        """How the outputs are read."""
        return Outputs(self.kind, self.class_dim)

    @property
    def outputs_as_found(self) -> Outputs:
        """The same, with values where there are no scores of classes."""
        return Outputs(None if self.kind == "classes" else self.kind, self.class_dim)

    @property
    def headline(self) -> str:
        """Name of the figure that `max_drop` and early stop look at: the first metric, or the loss.

        Raises:
            InputError: The task has neither metrics nor a loss.
        """
        if self.metrics:
            return next(iter(self.metrics))
        if self.loss is not None:
            return "loss"
        raise InputError("the task has no metrics and no loss; give Task(metrics={...})")

    @property
    def maximise(self) -> bool:
        """Whether a higher headline figure is better."""
        name = self.headline
        if not self.metrics:
            return False
        return higher_is_better(name, self.metrics[name], self.higher_is_better)

    @property
    def directions(self) -> dict[str, bool]:
        """Name of each figure -> whether higher is better, where that is known."""
        known: dict[str, bool] = {}
        for name, metric in (self.metrics or {}).items():
            with suppress(InputError):
                known[name] = higher_is_better(name, metric, self.higher_is_better)
        return known if self.loss is None else {**known, "loss": False}

    def better(self, new: float, old: float) -> bool:
        """Whether headline figure `new` beats `old`; NaN never does, and loses to every number."""
        if new != new:
            return False
        return old != old or (new > old if self.maximise else new < old)

    @property
    def first(self) -> Task:
        """Itself, as of several tasks the first."""
        return self

    @property
    def parts(self) -> Mapping[str, Task]:
        """Itself, without a name, as several tasks have theirs by name."""
        return {"": self}

    @property
    def compared(self) -> Task | None:
        """What says how decisions are read where outputs are compared: itself."""
        return self

    @property
    def goal(self) -> str:
        """What is best in the best epoch, in words."""
        return self.headline

    @property
    def scores(self) -> bool:
        """Whether there are figures: metrics or a loss."""
        return bool(self.metrics) or self.loss is not None

    @property
    def judges(self) -> bool:
        """Whether networks can be judged on validation data."""
        return self.val is not None and self.scores

    def best(self, figures: Sequence[Mapping[str, float]]) -> int:
        """Which of several networks is best by the headline figure; the first of equal ones.

        Args:
            figures: What `evaluate` gave of each, at least one.

        Returns:
            Its index.
        """
        name, best = self.headline, 0
        for index, new in enumerate(figures):
            if self.better(new[name], figures[best][name]):
                best = index
        return best

    def undefined(self, figures: Mapping[str, float]) -> str | None:
        """Name of a headline figure that is NaN."""
        return (
            self.headline if figures and figures[self.headline] != figures[self.headline] else None
        )

    def loss_weight(self, name: str) -> float:  # noqa: ARG002 - of several tasks it decides
        """What a batch counts in training: as much as any other."""
        return 1.0

    def length(self, processes: int = 1) -> int | None:
        """Training batches per epoch and process, where the data knows."""
        if isinstance(self.train, (Tensor, np.ndarray, Mapping)):  # one batch
            return 1
        try:
            return math.ceil(len(self.train) / processes)
        except TypeError:  # iterable data sets have no length
            return None

    def identity(self) -> dict[str, str]:
        """What a checkpoint must know of the task beside its data: nothing."""
        return {}

    def drop(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """How much worse the headline figure is, absolute.

        Args:
            before: What `evaluate` gave of the original.
            after: What it gave of the other network.
        """
        fall = before[self.headline] - after[self.headline]
        return fall if self.maximise else -fall

    def limits(self, bound: float) -> dict[str, tuple[float, bool]]:
        """Figure that a bound on the drop is about -> the bound, and whether higher is better."""
        return {self.headline: (bound, self.maximise)}

    def data(self, name: Split) -> Any:
        """Data of a split.

        Raises:
            InputError: The task has none; the splits that it has are listed.
        """
        data = getattr(self, name)
        if data is None:
            known = [n for n in get_args(Split) if getattr(self, n) is not None]
            has = f"it has {', '.join(known)}" if known else "it has no data at all"
            raise InputError(f"the task has no {name} data, {has}; give Task({name}=loader)")
        return data

    def batches(self, name: Split) -> Iterator[Batch]:
        """Batches of a split, transformed and split into inputs and labels."""
        for item in fresh(self.data(name), name):
            yield self.batch(item)

    def batch(self, item: Any) -> Batch:
        """What the data yields, transformed and split into inputs and labels."""
        made = split(self.transform_fn(item) if self.transform_fn else item)
        return replace(made, dims=tuple(self.batch_dims or ()))

    def shared(self, name: Split, peers: Peers) -> Iterator[Batch | None]:
        """This process's batches of a split; None in a last round that has none for it."""
        for item in share(fresh(self.data(name), name), name, peers):
            yield None if item is None else self.batch(item)

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Outputs as the loss and the metrics get them, in the mode and grad mode of the caller."""
        return self._picked(self._called(model, inputs))

    def left_out(self, model: nn.Module, inputs: Any) -> tuple[str, ...]:
        """Names of outputs in floats that loss, metrics and teachers do not get.

        Args:
            model: Run as the caller has set its modes.
            inputs: Of one batch.
        """
        outputs = self._called(model, inputs)
        seen = {id(tensor) for tensor in named_tensors(self._picked(outputs)).values()}
        names = [name for name, t in named_tensors(outputs).items() if id(t) not in seen]
        return tuple(dict.fromkeys(name.partition(".")[0] for name in names))

    def _called(self, model: nn.Module, inputs: Any) -> Any:
        return self.forward(model, inputs) if self.forward else call(model, inputs)

    def _picked(self, outputs: Any) -> Any:
        whole = self.kind is not None and not isinstance(self.kind, str)
        return outputs if whole else prediction(outputs)

    def loss_of(self, outputs: Any, labels: Any) -> Tensor | None:
        """The loss, or None when there is no loss function or there are no labels.

        Raises:
            InputError: The loss cannot take these, or is not one number.
        """
        if self.loss is None or labels is None:
            return None
        with understood("the loss", outputs, labels):
            value = self.loss(outputs, labels)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError(
                f"the loss gives {describe(value)}; one number per batch is needed, "
                "for instance reduction='mean'"
            )
        return value

    def evaluate(
        self, model: nn.Module, split: Split = "val", peers: Peers = ALONE
    ) -> dict[str, float]:
        """Metrics (first) and mean loss (last) of `model` on a split.

        Modes of the model, random states and metric objects are as before when this returns or
        raises; batches go to the device of the model.

        Args:
            model: Read, never changed.
            split: "train", "val" or "test".
            peers: Processes that share the batches; each gets the figures over all of them.

        Returns:
            Name -> value, in the order of the task's metrics, then "loss" if there is a loss.

        Raises:
            InputError: No such data, no batches, no labels, or nothing to compute.
        """
        figure = self.headline
        device, loss, samples = device_of(model), 0.0, 0
        scores = Scores(self.metrics or {}, device)
        with evaluating(model), random_kept(self.data(split)), torch.inference_mode():
            for index, batch in enumerate(self.shared(split, peers)):
                own = None
                if batch is not None:
                    labelled = _labelled(batch, index, split, figure).to(device)
                    if index == 0 and self.forward is None:
                        check_call(model, labelled.inputs)
                    own = self._judged(model, labelled)
                for outputs, labels, value, count in filter(None, peers.gather(own)):
                    scores.update(outputs, labels)
                    loss += value * count
                    samples += count
        if not samples:
            raise InputError(f"{split} gave no batches; is the loader empty?")
        figures = scores.compute()
        return figures if self.loss is None else {**figures, "loss": loss / samples}

    def _judged(self, model: nn.Module, batch: Batch) -> tuple[Any, Any, float, int]:
        """Outputs, labels, mean loss and samples of a batch."""
        outputs = self.predict(model, batch.inputs)
        value = self.loss_of(outputs, batch.labels)
        return outputs, batch.labels, 0.0 if value is None else float(value), batch.samples

    def calibration(self, limit: int | None = CALIBRATION_SAMPLES, seed: int = 0) -> Calibration:
        """Unlabelled samples from the training data, or from validation where there is none.

        Args:
            limit: Samples at most.
            seed: Random state while reading.

        Returns:
            The samples, on the CPU.

        Raises:
            InputError: The task has no such data, or it cannot be used.
        """
        name: Split = "val" if self.train is None and self.val is not None else "train"
        data = fresh(self.data(name), name)
        dims = tuple(self.batch_dims or ())
        return Calibration.of(data, self.transform_fn, limit, seed, dims, self.outputs_as_found)


def _labelled(batch: Batch, index: int, name: str, figure: str) -> Batch:
    if batch.labels is None:
        raise InputError(
            f"batch {index} of {name} is {describe(batch.inputs)} without labels, and {figure!r} "
            "needs them; give (inputs, labels), or a dict with 'labels'"
        )
    return batch

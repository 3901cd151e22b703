"""The state of one training run, as callbacks see it, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.figures import EpochFigures
from penjing.task import Task, Tasks
from penjing.training.processes import Processes
from penjing.training.settings import Fit

Tensors = dict[str, Tensor]


@dataclass(eq=False, slots=True)
class Run:
    """One run. Callbacks read it; they may call `stop` and change the model and its gradients.

    Args:
        model: Being trained, in place.
        task: Its data, loss and metrics; several of them are trained together.
        settings: How to train.
        optimizer: Over the model's parameters.
        processes: This process among those that train together.
        length: Batches per epoch and process; None until an epoch told.
        epoch: Epochs finished.
        batch: Batches done in the current epoch.
        step: Optimizer steps done.
        of: Name of the task that the current batch is of; empty where there is one.
        inputs: Inputs of the current batch, on the device of the model.
        labels: Its labels, or None.
        outputs: What the model gave for it; without its graph once the gradient is there.
        loss: Loss of the current batch.
        loss_sum: Sum of the loss over the samples of the current epoch.
        samples: Samples of the current epoch so far.
        history: Finished epochs.
        metrics_before: On validation, before the first step.
        kept: Tensors to go back to: the best epoch's, or the last good one's.
        kept_epoch: The epoch they come from; 0 is before training.
        seconds: Time spent in finished calls.
        stopped: Why the run ended early; empty otherwise.
        notes: What a reader of the result must know.
    """

    model: nn.Module
    task: Task | Tasks
    settings: Fit
    optimizer: Optimizer
    processes: Processes = field(default_factory=Processes)
    length: int | None = None
    epoch: int = 0
    batch: int = 0
    step: int = 0
    of: str = ""
    inputs: Any = None
    labels: Any = None
    outputs: Any = None
    loss: float = 0.0
    loss_sum: float = 0.0
    samples: int = 0
    history: list[EpochFigures] = field(default_factory=list)
    metrics_before: dict[str, float] = field(default_factory=dict)
    kept: Tensors = field(default_factory=dict)
    kept_epoch: int = 0
    seconds: float = 0.0
    stopped: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def part(self) -> Task:
        """The task that the current batch is of."""
        return self.task.parts.get(self.of, self.task.first)

    @property
    def place(self) -> str:
        """Where the run is, in words, counted from 1."""
        whose = f" of task {self.of!r}" if self.of else ""
        return f"epoch {self.epoch + 1}, batch {self.batch + 1}{whose} (step {self.step + 1})"

    @property
    def progress(self) -> float:
        """Share of the run at the middle of the current step, in [0, 1].

        In a first epoch over data without a length it is that of the middle of the epoch: at its
        beginning a warm-up would hold the learning rate at zero.
        """
        within = min((self.batch + 0.5) / self.length, 1.0) if self.length else 0.5
        return min((self.epoch + within) / self.settings.epochs, 1.0)

    @property
    def validates(self) -> bool:
        """Whether epochs are judged on validation data."""
        return self.task.judges

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch is given back rather than the last."""
        return self.validates and self.settings.keep == "best"

    def metrics_of(self, epoch: int) -> dict[str, float]:
        """Validation figures after `epoch`; 0 is before training."""
        return dict(self.history[epoch - 1].metrics) if epoch else self.metrics_before

    def best_epoch(self) -> int:
        """The epoch with the best figures from `keep_from` on; the first of equal ones."""
        if not self.validates:
            return self.epoch
        first = min(self.settings.keep_from, self.epoch)
        epochs = range(first, self.epoch + 1)
        return first + self.task.best([self.metrics_of(epoch) for epoch in epochs])

    def stop(self, reason: str) -> None:
        """End the run after the current step."""
        self.stopped = self.stopped or reason


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training run did; the model itself was trained in place.

    Args:
        epochs: Every epoch, in order.
        kept_epoch: The epoch whose state the model holds; 0 is before training.
        metrics_before: On validation, before training; empty without validation data.
        metrics_after: On validation, of the state that the model holds.
        steps: Optimizer steps.
        seconds: Wall-clock time, summed over resumed calls.
        stopped: Why it ended before its last epoch; empty otherwise.
        notes: What a reader must know, one sentence each.
    """

    epochs: tuple[EpochFigures, ...]
    kept_epoch: int
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
    steps: int
    seconds: float
    stopped: str = ""
    notes: tuple[str, ...] = ()


def tensors_of(model: nn.Module) -> Tensors:
    """Parameters and buffers by name, those that a state dict leaves out too; tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def snapshot(model: nn.Module) -> Tensors:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


@torch.no_grad()
def write_back(model: nn.Module, tensors: Tensors) -> None:
    """Write a snapshot into the model, in place, so that the optimizer keeps its parameters."""
    for name, tensor in tensors_of(model).items():
        tensor.copy_(tensors[name])

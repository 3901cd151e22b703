"""Training by the clock: schedules end when the time does, and test figures are noted off it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.task import Task
from penjing.training import Callback, Run
from workloads import load_module

HELD_OUT = 5000  # training images that nothing is trained on; choices are made on them
SHIFT = 4  # pixels, as the networks were trained by their authors
NOW = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock(Callback):
    """Ends a run when its time is over, and notes accuracy on the way with the clock stopped.

    Args:
        task: What accuracy is noted on, its `val` and `test`.
        minutes: Of the run.
        kind: "wall", or "cpu" (process time of all threads).
        points: How many times accuracy is noted, the end included.
        spent: Seconds that went before the run.
    """

    def __init__(
        self, task: Task, minutes: float, kind: str, points: int, spent: float = 0.0
    ) -> None:
        self.task = task
        self.budget, self.kind, self.points = 60 * minutes, kind, points
        self.before = spent
        self.curve: list[dict[str, float]] = []
        self._since = NOW[kind]()

    @property
    def spent(self) -> float:
        """Seconds on the clock."""
        return self.before + NOW[self.kind]() - self._since

    @property
    def progress(self) -> float:
        """Share of the time that is over, in [0, 1]."""
        return min(self.spent / self.budget, 1.0)

    def on_start(self, run: Run, /) -> None:  # noqa: ARG002
        self._since = NOW[self.kind]()

    def on_step(self, run: Run, /) -> None:
        if self.spent >= self.budget * (len(self.curve) + 1) / self.points:
            self._note(run)
        if self.spent >= self.budget:
            run.stop("the time is over")

    def on_end(self, run: Run, /) -> None:
        if not self.curve or self.curve[-1]["step"] != run.step:
            self._note(run)

    def identity(self) -> str:
        return f"Clock({self.budget} s of {self.kind}, {self.points} points)"

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "curve": self.curve}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.before, self.curve = state["spent"], state["curve"]
        self._since = NOW[self.kind]()

    def _note(self, run: Run) -> None:
        spent = self.spent
        note = {"minutes": spent / 60, "step": run.step}
        for split in ("val", "test"):
            note[split] = 100 * self.task.evaluate(run.model, split)["accuracy"]
        self.curve.append(note)
        print({name: round(value, 2) for name, value in note.items()}, flush=True)
        self.before, self._since = spent, NOW[self.kind]()


def images(batch: int) -> Task:
    """CIFAR-10: training images flipped and cropped, held-out ones as validation, the test set."""
    data = load_module()
    arrays = data.cifar10()
    order = torch.from_numpy(np.random.RandomState(0).permutation(50000))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    labels = {part: torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test")}

    def train() -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in rest[torch.randperm(len(rest))].split(batch):
            if len(chosen) == batch:
                x = data.prepare_cifar(arrays["x_train"][chosen.numpy()])
                yield flips_and_crops(x), labels["train"][chosen]

    def fixed(part: str, rows: Tensor) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in rows.split(250):
                yield data.prepare_cifar(arrays[f"x_{part}"][chosen.numpy()]), labels[part][chosen]

        return batches

    return Task(
        train=train,
        val=fixed("train", held[:2000]),
        test=fixed("test", torch.arange(10000)),
        loss=F.cross_entropy,
        metrics={"accuracy": accuracy},
    )


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of right decisions."""
    return float((outputs.argmax(1) == labels).double().mean())


def flips_and_crops(x: Tensor) -> Tensor:
    """Each image flipped by chance and moved by up to four pixels, zeros moving in."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    count, _, height, width = x.shape
    padded = F.pad(x, (SHIFT,) * 4).permute(0, 2, 3, 1)
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    picked = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def run_folder(name: str) -> Path:
    """Where a run leaves its checkpoints: `$PENJING_CACHE` or ~/.cache/penjing."""
    home = os.environ.get("PENJING_CACHE", Path.home() / ".cache" / "penjing")
    return Path(home) / "training" / name

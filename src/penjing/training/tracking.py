"""Figures of the training loop go to trackers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from torch import nn

from penjing.training.callbacks import Callback
from penjing.training.run import Run
from penjing.training.settings import in_words
from penjing.training.trackers.protocol import Tracker

UNTOLD = ("tracker", "progress", "workdir", "save_seconds")


class Tracking(Callback):
    """Loss and learning rate of every step; loss, metrics and sparsity of every epoch.

    Curves: "train/loss" and "train/lr" by step; by epoch "epoch", "train/epoch_loss", "val/..." for
    every figure on validation, "sparsity" (share of zeros in matrices and kernels) and "seconds".

    Args:
        trackers: Where they go.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)
        self._started: list[Tracker] = []
        self._complete = False

    def on_start(self, run: Run, /) -> None:
        """Start the trackers; one that is not installed ends the run here."""
        told = {f.name: in_words(getattr(run.settings, f.name)) for f in fields(run.settings)}
        told = {"model": type(run.model).__name__, **told}
        folder = Path(run.settings.workdir) if run.settings.workdir else None
        self._complete = False
        for tracker in self.trackers:
            tracker.start({n: text for n, text in told.items() if n not in UNTOLD}, folder)
            self._started.append(tracker)

    def on_step(self, run: Run, /) -> None:
        """Loss and learning rate."""
        lr = float(run.optimizer.param_groups[0]["lr"])
        self._log({"train/loss": run.loss, "train/lr": lr}, run.step)

    def on_epoch(self, run: Run, /) -> None:
        """Figures of the epoch."""
        epoch = run.history[-1]
        values = {"epoch": float(epoch.epoch), "train/epoch_loss": epoch.loss}
        values |= {f"val/{name}": value for name, value in epoch.metrics.items()}
        values |= {"sparsity": zeros(run.model), "seconds": epoch.seconds}
        self._log(values, run.step)

    def on_end(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """The run came to its end."""
        self._complete = True

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Close what was started."""
        while self._started:
            self._started.pop().finish(complete=self._complete)

    def identity(self) -> str:
        """None: what only watches decides nothing."""
        return ""

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(values, step)


def zeros(model: nn.Module) -> float:
    """Share of zeros in the matrices and kernels of a network."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    total = sum(p.numel() for p in weights)
    return 1 - sum(int(p.count_nonzero()) for p in weights) / total if total else 0.0

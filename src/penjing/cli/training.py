"""Options that every command which trains has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from penjing.cli.options import Compiled, Distributed, Epochs, Lr, Minutes, Optimizer, Tracker


class TrainingArguments(TypedDict):
    """What the verbs that train take alike."""

    epochs: int
    optimizer: str
    lr: float | None
    minutes: float | None
    tracker: list[str] | None
    compile: bool
    distributed: bool
    workdir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a network is trained, as options of a command."""

    epochs: Epochs = 3
    optimizer: Optimizer = "adamw"
    lr: Lr = None
    minutes: Minutes = None
    tracker: Tracker = None
    compiled: Compiled = False
    distributed: Distributed = False

    def arguments(self, out: Path) -> TrainingArguments:
        """As the verbs take them.

        Args:
            out: Folder of the result; a run that was stopped goes on from what lies there.

        Returns:
            Keyword arguments.
        """
        return {
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "minutes": self.minutes,
            "tracker": self.tracker,
            "compile": self.compiled,
            "distributed": self.distributed,
            "workdir": out / "training",
        }

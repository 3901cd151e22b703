"""Weights & Biases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penjing.errors import require

Mode = Literal["online", "offline", "disabled", "shared"]


@dataclass(eq=False, kw_only=True)
class WandB:
    """Logs to Weights & Biases; offline runs are sent later by `wandb sync`.

    Args:
        project: Where the run appears.
        mode: "offline" needs no account and no network; None is what the environment says
            (`WANDB_MODE`), which is "online" by default.
        name: Of the run; None lets the service choose.
    """

    project: str = "penjing"
    mode: Mode | None = None
    name: str | None = None
    _run: Any = field(default=None, repr=False, init=False)

    def start(self, settings: Mapping[str, str], folder: Path | None, /) -> None:
        """Begin a run, or go on with the one of this folder.

        Raises:
            MissingDependencyError: wandb is not installed.
        """
        wandb = require("wandb", extra="track")
        again = {} if folder is None else {"id": _id(folder), "resume": "allow"}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project,
            mode=self.mode,
            name=self.name,
            config=dict(settings),
            dir=None if folder is None else str(folder),
            **again,
        )
        self._run.define_metric("*", step_metric="step")  # a resumed run may repeat steps

    def log(self, values: Mapping[str, float], step: int, /) -> None:
        """Add a row of figures."""
        self._run.log({**values, "step": step})

    def finish(self, *, complete: bool) -> None:
        """Close the run, as failed where it was not completed."""
        if self._run is not None:
            self._run.finish(exit_code=0 if complete else 1)
            self._run = None


def _id(folder: Path) -> str:
    """The same for every call with the same folder."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]

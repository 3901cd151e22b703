"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penjing.errors import require


@dataclass(eq=False, kw_only=True)
class TensorBoard:
    """Writes event files, which `tensorboard --logdir` shows.

    Args:
        folder: Of the event files; None is "tensorboard" in the run's folder, else
            "runs/tensorboard".
    """

    folder: str | Path | None = None
    _writer: Any = field(default=None, repr=False, init=False)
    _settings: dict[str, str] = field(default_factory=dict, repr=False, init=False)
    _place: Path = field(default=Path(), repr=False, init=False)

    def start(self, settings: Mapping[str, str], folder: Path | None, /) -> None:
        """Choose the folder; the writer begins with the first figures.

        Raises:
            MissingDependencyError: tensorboard is not installed.
        """
        require("tensorboard", extra="track")
        self._settings = dict(settings)
        self._place = Path(self.folder or (folder or Path("runs")) / "tensorboard")

    def log(self, values: Mapping[str, float], step: int, /) -> None:
        """Add a point to each curve; what an earlier call wrote from `step` on is hidden."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # the package is optional

            self._writer = SummaryWriter(str(self._place), purge_step=step)
            rows = "".join(f"| {name} | {text} |\n" for name, text in self._settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, *, complete: bool) -> None:  # noqa: ARG002 - event files have no status
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

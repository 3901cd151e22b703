"""What a tracker is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """Takes the figures of a run. Any object of this shape is one."""

    def start(self, settings: Mapping[str, str], folder: Path | None, /) -> None:
        """Before the first batch: refuse here what is not installed or cannot be reached.

        Args:
            settings: How the run trains, in words.
            folder: Of the run; a call with the same folder goes on where an earlier one ended.
                None where the run leaves no files.
        """

    def log(self, values: Mapping[str, float], step: int, /) -> None:
        """Figures after `step` optimizer steps; after a resume some steps come once more."""

    def finish(self, *, complete: bool) -> None:
        """The last call, also after an error; `complete` is False then."""

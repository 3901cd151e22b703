"""Where a search is, for people who watch a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, slots=True)
class Progress:
    """One line on the error stream, gone when the search is over; nothing without a terminal.

    Args:
        shown: False never shows anything.
        minutes: The time limit, to be named.
    """

    shown: bool
    minutes: float
    started: float = 0.0
    status: Any = None
    text: str = ""

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    def say(self, name: str, doing: str) -> None:
        """Show what is being done to what."""
        seconds = time.monotonic() - self.started
        self.text = f"{name}: {doing}  ({seconds:.0f} s of about {60 * self.minutes:.0f} s)"
        if not (self.shown and sys.stderr.isatty()):
            return
        if self.status is None:
            from rich.console import Console  # only when something is drawn

            self.status = Console(stderr=True).status(self.text)
            self.status.start()
        else:
            self.status.update(self.text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to another display."""
        self.close()
        yield

    def close(self) -> None:
        """Take the line away."""
        if self.status is not None:
            self.status.stop()
            self.status = None

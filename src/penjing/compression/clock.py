"""The time limit: summed over the runs of one call, noted after every candidate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from penjing.compression.folder import RunFolder


@dataclass(slots=True)
class Clock:
    """Seconds that a call has taken and may take.

    Args:
        folder: Where they are noted.
        call: Key of the call.
        limit: Seconds in all.
    """

    folder: RunFolder
    call: str
    limit: float
    started: float = field(default_factory=time.monotonic)
    before: float = 0.0

    def __post_init__(self) -> None:
        self.before = self.folder.seconds(self.call)

    @property
    def spent(self) -> float:
        """Seconds so far, earlier runs included."""
        return self.before + time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds that remain, at least 0."""
        return max(0.0, self.limit - self.spent)

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return self.left == 0.0

    def note(self) -> None:
        """Write down what was spent."""
        self.folder.spend(self.call, self.spent)

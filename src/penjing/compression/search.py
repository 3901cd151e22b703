"""Which candidates are tried, and in which order.

All candidates lie on one line: the allocation's answer to a bound on the MACs, from the smallest
network that is permitted to the largest that keeps the exact budgets. Along it cost rises and the
drop falls, so every boundary is found by narrowing a bracket. What comes next depends only on what
was measured before; a time limit ends the list and never changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from penjing.compression.candidate import Candidate, Verdict

RESOLUTION = 0.02  # of the original's MACs: where narrowing a bracket ends
CLOSE = 0.97  # of a measured budget: near enough to stop
MARGIN = 0.15  # of the bracket: a guess keeps this far from its ends
MOST = 10  # candidates of one search

Trial = Callable[[float], tuple[Candidate, Verdict] | None]
"""Makes the candidate of a share of the MACs; None when the time is over."""


@dataclass(slots=True)
class Line:
    """The line of candidates, and what was found on it.

    Args:
        trial: Makes and judges a candidate.
        floor: Smallest share of the original's MACs that is permitted.
        ceiling: Largest share that keeps the exact budgets.
        ended: Why the search ended before its last candidate; empty otherwise.
    """

    trial: Trial
    floor: float
    ceiling: float
    ended: str = ""
    tried: dict[float, tuple[Candidate, Verdict]] = field(default_factory=dict)

    def point(self, share: float) -> float:
        """The nearest share that is on the line."""
        return round(min(max(share, self.floor), self.ceiling), 4)

    def at(self, share: float) -> tuple[Candidate, Verdict] | None:
        """The candidate at a point, made at most once; None when the search is over."""
        if share in self.tried:
            return self.tried[share]
        if len(self.tried) >= MOST:
            self.ended = f"the search ended after {MOST} candidates"
            return None
        made = self.trial(share)
        if made is None:
            self.ended = "the time was over"
            return None
        self.tried[share] = made
        return made


def largest_within_costs(line: Line) -> None:
    """Try the ceiling, then narrow down on the largest candidate within every measured cost.

    Where the first guess below the ceiling fails too, the lower end of the line is tried next: it
    tells at once whether the budget can be met at all.
    """
    low, high = line.point(line.floor), line.point(line.ceiling)
    first = line.at(high)
    if first is None or first[1].costs_meet:
        return
    low_usage, high_usage, failed = None, first[1].tightest, 1
    while high - low > RESOLUTION:
        enough = low_usage is None and failed > 1
        share = low if enough else line.point(_guess(low, high, low_usage, high_usage))
        made = line.at(share)
        if made is None or (share == low and not made[1].costs_meet):
            return
        used = made[1].tightest
        if not made[1].costs_meet:
            high, high_usage, failed = share, used, failed + 1
        elif used >= CLOSE or (share == low and low_usage is not None):
            return
        else:
            low, low_usage = share, used
    if low_usage is None:
        line.at(low)


def smallest_within_drop(line: Line) -> None:
    """Narrow down on the smallest candidate whose drop is permitted."""
    low, high = line.point(line.floor), line.point(line.ceiling)
    while high - low > RESOLUTION:
        share = line.point((low + high) / 2)
        made = line.at(share)
        if made is None:
            return
        if made[1].meets:
            high = share
        else:
            low = share


def _guess(low: float, high: float, low_usage: float | None, high_usage: float) -> float:
    """Where the tightest cost would be just below its bound if it were linear in the share.

    Before anything was within the bounds, a cost proportional to the share is taken; where that
    points below the line, its lower end decides at once.
    """
    left, used = (0.0, 0.0) if low_usage is None else (low, low_usage)
    if not used < high_usage < float("inf"):
        return (low + high) / 2
    target = (1 + CLOSE) / 2
    share = left + (high - left) * (target - used) / (high_usage - used)
    if share <= low:
        return low
    margin = MARGIN * (high - low)
    return min(max(share, low + margin), high - margin)

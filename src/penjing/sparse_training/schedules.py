"""How sparsity grows over a run: functions of progress, 0 at the start, 1 at the end.

A shape maps progress within its window, [0, 1], to the share of the final sparsity, [0, 1].
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penjing.errors import BudgetError, StrategyError

Shape = Callable[[float], float]

_ALPHA, _BETA = 14.0, 6.0  # Hubens et al. 2022, arXiv:2112.13210, the values of its experiments


def one_shot(_progress: float, /) -> float:
    """All at once, when the window opens."""
    return 1.0


def linear(progress: float, /) -> float:
    """The same amount at each step."""
    return progress


def cubic(progress: float, /) -> float:
    """Fast first, slow last (Zhu & Gupta 2017, arXiv:1710.01878, equation 1)."""
    return 1 - (1 - progress) ** 3


def exponential(progress: float, /) -> float:
    """The same share of what is left at each step, as iterative pruning does.

    Source: Frankle & Carbin 2019, arXiv:1803.03635; here it ends at the final sparsity after three
    time constants.
    """
    return (1 - math.exp(-3 * progress)) / (1 - math.exp(-3))


def cosine(progress: float, /) -> float:
    """Slow at both ends."""
    return (1 - math.cos(math.pi * progress)) / 2


def one_cycle(progress: float, /) -> float:
    """A logistic step (Hubens et al. 2022, arXiv:2112.13210)."""
    return (1 + math.exp(_BETA - _ALPHA)) / (1 + math.exp(_BETA - _ALPHA * progress))


SHAPES: Mapping[str, Shape] = {
    shape.__name__: shape for shape in (one_shot, linear, cubic, exponential, cosine, one_cycle)
}

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("agp", "polynomial", "gmp"), "'cubic'"),
    "iterative": "steps=, which any shape has",
    "constant": "'one_shot'",
}
"""Names by which papers and other tools know a schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsitySchedule:
    """Sparsity as a function of the progress of a run.

    Args:
        sparsity: Final share of zeros, in [0, 1).
        shape: "one_shot", "linear", "cubic", "exponential", "cosine", "one_cycle", or a function
            of progress within the window that gives the share of the final sparsity.
        start: Progress at which zeros begin, in [0, 1).
        end: Progress at which all are there, in [start, 1]. A quarter of the run is left to settle
            by default, which gradual pruning needs.
        steps: Reach it in this many equal pieces of the window; None at every update.

    Raises:
        BudgetError: A sparsity outside its range.
        StrategyError: An unknown shape, no steps, or a window that ends before it begins.

    Source:
        Zhu & Gupta 2017, arXiv:1710.01878, for the window.

    Example:
        >>> schedule = SparsitySchedule(sparsity=0.8, shape="linear", start=0.0, end=0.5)
        >>> [schedule(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.4, 0.8, 0.8]
    """

    sparsity: float
    shape: str | Shape = "cubic"
    start: float = 0.0
    end: float = 0.75
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise BudgetError(
                f"sparsity is {self.sparsity}; it is a share of weights in [0, 1), so 90 percent "
                "is 0.9"
            )
        if not 0 <= self.start < 1 or not self.start <= self.end <= 1:
            raise StrategyError(
                f"the schedule runs from {self.start} to {self.end} of the training; it must "
                "begin in [0, 1) and not end before it begins"
            )
        if self.steps is not None and self.steps < 1:
            raise StrategyError(f"steps is {self.steps}; a schedule has at least one")
        if isinstance(self.shape, str) and self.shape not in SHAPES:
            near = difflib.get_close_matches(self.shape, SHAPES, n=1)
            other = ELSEWHERE.get(self.shape.lower(), repr(near[0]) if near else "")
            hint = f"did you mean {other}? " if other else ""
            raise StrategyError(
                f"no sparsity schedule is called {self.shape!r}; {hint}known are "
                f"{', '.join(SHAPES)}; a function of progress is one too"
            )

    @classmethod
    def of(cls, schedule: SparsitySchedule | float) -> SparsitySchedule:
        """The schedule itself; a number is that sparsity by the cubic schedule."""
        return schedule if isinstance(schedule, SparsitySchedule) else cls(sparsity=float(schedule))

    def __call__(self, progress: float) -> float:
        """Share of zeros that there should be at `progress`, in [0, 1]."""
        if progress < self.start:
            return 0.0
        span = self.end - self.start
        within = min((progress - self.start) / span, 1.0) if span else 1.0
        if self.steps is not None:
            within = math.floor(within * self.steps + 1e-9) / self.steps
        shape = SHAPES[self.shape] if isinstance(self.shape, str) else self.shape
        return self.sparsity * min(max(shape(within), 0.0), 1.0)

"""Learning-rate schedules as functions of progress: 0 at the start, 1 at the end, value a factor.

Closed forms, so that a run that is resumed needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from penjing.errors import StrategyError

Schedule = Callable[[float], float]

ONE_CYCLE_RISE = 0.3  # Smith & Topin 2018 as in torch.optim.lr_scheduler.OneCycleLR: pct_start
ONE_CYCLE_START = 1 / 25  # div_factor
ONE_CYCLE_END = 1 / 25e4  # div_factor * final_div_factor


def constant(_progress: float) -> float:
    """The learning rate stays."""
    return 1.0


def linear(progress: float) -> float:
    """Straight down to zero.

    Example:
        >>> linear(0.25)
        0.75
    """
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine down to zero.

    Source:
        Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts.

    Example:
        >>> cosine(0.5)
        0.5
    """
    return 0.5 + 0.5 * math.cos(math.pi * progress) if progress != 0.5 else 0.5


def one_cycle(progress: float) -> float:
    """Up from a 25th during 30 % of the run, then down to nearly zero; it has its own warm-up.

    Source:
        Smith & Topin 2018, arXiv:1708.07120; momentum is not cycled.

    Example:
        >>> one_cycle(0.3)
        1.0
    """
    if progress < ONE_CYCLE_RISE:
        return 1 - (1 - ONE_CYCLE_START) * cosine(progress / ONE_CYCLE_RISE)
    rest = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * cosine(rest)


SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def schedule(choice: str | Schedule, warmup: float) -> Schedule:
    """The schedule by its name or as it is, after a linear warm-up.

    Args:
        choice: A name in `SCHEDULES`, or a function of progress in [0, 1].
        warmup: Share of the run in which the rate rises from zero; one_cycle ignores it.

    Returns:
        A function of progress over the whole run.

    Raises:
        StrategyError: The name is unknown.
    """
    if isinstance(choice, str) and choice not in SCHEDULES:
        raise StrategyError(
            f"unknown schedule {choice!r}; the known ones are {', '.join(SCHEDULES)}"
        )
    after = SCHEDULES[choice] if isinstance(choice, str) else choice
    if not warmup or choice == "one_cycle":
        return after

    def warmed(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return after((progress - warmup) / (1 - warmup))

    return warmed

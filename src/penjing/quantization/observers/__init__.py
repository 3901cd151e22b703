"""Observers: which range of an activation the grid covers, from its distribution.

An observer is any callable that takes a `Histogram` and returns (minimum, maximum).
"""

from __future__ import annotations

from penjing.errors import StrategyError
from penjing.quantization.observers._entropy import Entropy, entropy
from penjing.quantization.observers._min_max import min_max
from penjing.quantization.observers._mse import MeanSquaredError, mse
from penjing.quantization.observers._percentile import Percentile, percentile
from penjing.quantization.observers.histogram import Histogram, Observer

__all__ = [
    "Entropy",
    "Histogram",
    "MeanSquaredError",
    "Observer",
    "Percentile",
    "entropy",
    "min_max",
    "mse",
    "percentile",
    "resolve",
]

NAMES = ("min_max", "percentile", "mse", "entropy")
"""Short names that `resolve` knows."""


def resolve(observer: str | Observer) -> Observer:
    """An observer from its short name, or the object itself.

    Args:
        observer: One of `NAMES`, or any callable from a histogram to a range.

    Returns:
        The observer.

    Raises:
        StrategyError: The name is not known, or the object cannot be called.

    Example:
        >>> resolve("min_max") is min_max
        True
    """
    if isinstance(observer, str) and observer in NAMES:
        found: Observer = globals()[observer]
        return found
    if callable(observer):
        return observer
    raise StrategyError(
        f"observer is {observer!r}; known are {', '.join(map(repr, NAMES))}, or any callable from "
        "a histogram to (minimum, maximum)"
    )

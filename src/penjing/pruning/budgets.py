"""Budgets as people write them: upper bounds, absolute or as a share of the original."""

from __future__ import annotations

import math
from collections.abc import Mapping

from penjing.errors import BudgetError

COUNTS = ("macs", "params", "nonzero")


def absolute(
    constraints: Mapping[str, float | str], original: Mapping[str, float]
) -> dict[str, float]:
    """Upper bounds in the units of each cost.

    Args:
        constraints: Cost name -> a number, or `"47.4%"` of the original.
        original: Costs of the original network; its names are the known ones.

    Returns:
        Cost name -> absolute upper bound.

    Raises:
        BudgetError: An unknown name, a bound that is no positive number, or a share outside (0,
            100] percent.

    Example:
        >>> absolute({"macs": "50%"}, {"macs": 3000, "params": 7})
        {'macs': 1500.0}
    """
    bounds = {}
    for name, given in constraints.items():
        if name not in original:
            known = ", ".join(repr(k) for k in original)
            raise BudgetError(f"no constraint is called {name!r} here; known are {known}")
        bounds[name] = _bound(name, given, original[name])
    return bounds


def _bound(name: str, given: float | str, whole: float) -> float:
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise BudgetError(
            f"constraint {name!r} is {given!r}; give a number, or a share of the original such as "
            "'50%'"
        ) from error
    if not math.isfinite(value) or value <= 0:
        raise BudgetError(
            f"constraint {name!r} is {given!r}; it is an upper bound and must be finite and "
            "positive"
        )
    if not text.endswith("%"):
        if value < 1 and name in COUNTS:
            raise BudgetError(
                f"constraint {name!r} is {given!r}, less than one of them; a share of the original "
                f"is '{100 * value:g}%'"
            )
        return value
    if value > 100:
        raise BudgetError(
            f"constraint {name!r} is {given!r}; a share of the original lies in (0%, 100%]"
        )
    return whole * value / 100

"""Constraints: upper bounds by name, absolute or in percent of the original, read once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from penjing.errors import BudgetError, UnavailableError

EXACT = ("macs", "params", "ram_kb")
"""Known from shapes alone: allocation meets them without a trial."""

MEASURED = ("flash_kb", "latency_ms")
"""Known once the network is exported: found by search."""

KNOWN = (*EXACT, *MEASURED, "max_drop")

LATER = {"energy_mj": "energy comes with device profiles"}


@dataclass(frozen=True, slots=True)
class Bound:
    """One upper bound.

    Args:
        name: One of `KNOWN`.
        text: As it was given, for reports.
        value: In the unit of the name; a share of the original when `relative`.
        relative: Whether it was given in percent. A percent of `max_drop` is not relative: one
            percent is one point, 0.01.
    """

    name: str
    text: str
    value: float
    relative: bool = False

    def limit(self, original: float) -> float:
        """The bound in its own unit.

        Args:
            original: What the original network has.

        Returns:
            The absolute upper bound.
        """
        return self.value * original if self.relative else self.value

    @property
    def shown(self) -> str:
        """The bound in words."""
        unit = {"ram_kb": " kB", "flash_kb": " kB", "latency_ms": " ms"}.get(self.name, "")
        if self.relative:
            return f"{self.text} of the original"
        return self.text if self.text.endswith("%") else f"{self.value:,.6g}{unit}"


def parse(constraints: Mapping[str, float | str] | None) -> dict[str, Bound]:
    """Read constraints.

    Args:
        constraints: Name -> upper bound: a number, or text such as "47.4%" or "256".

    Returns:
        The bounds by name, in the order given.

    Raises:
        BudgetError: No constraint, an unknown name, no number, or a number outside its range.
        UnavailableError: A budget that this version cannot measure yet.

    Example:
        >>> parse({"macs": "47.4%"})["macs"].limit(1000)
        474.0
        >>> parse({"max_drop": "1%"})["max_drop"].value
        0.01
    """
    if not constraints:
        raise BudgetError(
            "compress needs a budget, for instance constraints={'macs': '50%'} or "
            f"{{'latency_ms': 10, 'max_drop': 0.01}}; known are {', '.join(KNOWN)}"
        )
    if not isinstance(constraints, Mapping):
        raise BudgetError(
            f"constraints is a {type(constraints).__name__}; give a dict from name to upper bound, "
            "for instance {'macs': '50%'}"
        )
    return {name: _bound(name, value) for name, value in constraints.items()}


def _bound(name: str, value: float | str) -> Bound:
    if name in LATER:
        raise UnavailableError(
            f"a budget for {name!r} cannot be measured by this version: {LATER[name]}; "
            f"it has {', '.join(KNOWN)}"
        )
    if name not in KNOWN:
        near = difflib.get_close_matches(str(name), KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise BudgetError(f"no constraint is called {name!r}{hint} Known are {', '.join(KNOWN)}")
    text = str(value).strip()
    percent = text.endswith("%")
    number = _number(name, value, text.removesuffix("%"))
    if name == "max_drop":
        return _max_drop(value, text, number / 100 if percent else number)
    if percent and not 0 < number <= 100:
        raise BudgetError(
            f"the budget for {name!r} is {value!r}; a share of the original is above 0% and "
            "at most 100%, so half of it is '50%'"
        )
    if not number > 0:
        raise BudgetError(f"the budget for {name!r} is {value!r}; an upper bound is above 0")
    return Bound(name, text, number / 100 if percent else number, percent)


def _number(name: str, value: object, text: str) -> float:
    fine = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    try:
        number = float(text.replace(",", "").replace("_", "")) if fine else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BudgetError(
            f"the budget for {name!r} is {value!r}; give a finite number, or text such as '50%'"
        )
    return number


def _max_drop(value: float | str, text: str, number: float) -> Bound:
    if number < 0:
        raise BudgetError(
            f"max_drop is {value!r}; it is how much worse the metric may get, 0 or more, so one "
            "point of accuracy is 0.01 (or '1%')"
        )
    return Bound("max_drop", text, number)

"""Constraints against what was measured: met, not met, or not to be told from this report."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from penjing.report import _wording as wording
from penjing.report._comparison import COSTS, first_metric, higher_is_better, rows
from penjing.report.data import ReportData

# Constraint name -> figure and how many of its units one unit of the constraint is.
FIGURES = {
    **{cost.field: (cost.field, 1) for cost in COSTS},
    "flash_kb": ("size_bytes", wording.KIB),
    "ram_kb": ("ram_bytes", wording.KIB),
}

ROUNDING = 1e-9  # a difference of two metrics is not exact


@dataclass(frozen=True, slots=True)
class Budget:
    """One constraint and what became of it.

    Args:
        name: Name of the constraint.
        limit: The upper bound as given.
        actual: What the result has; empty when not known.
        met: Whether it holds; None when that cannot be told.
    """

    name: str
    limit: str
    actual: str
    met: bool | None

    @property
    def words(self) -> str:
        """The verdict in words."""
        return {True: "met", False: "not met", None: "not measured"}[self.met]


def budgets(data: ReportData) -> list[Budget]:
    """Every constraint of the report with its verdict."""
    return [_budget(data, name, limit) for name, limit in data.constraints.items()]


def _budget(data: ReportData, name: str, limit: str) -> Budget:
    if name == "max_drop":
        return _drop(data, limit)
    field, _ = FIGURES.get(name, ("", 1))
    cost = next((cost for cost in COSTS if cost.field == field), None)
    bound = bound_of(data, name)
    actual = getattr(data.after, field, None) if cost is not None else None
    if cost is None or bound is None or actual is None:
        return Budget(name, limit, "", None)
    if not _read(limit)[1]:
        return Budget(name, limit, cost.show(actual), actual <= bound)
    left = next(row.share for row in rows(data) if row.name == field)
    assert left is not None  # a bound in percent has an original
    text = f"{cost.show(actual)}, {wording.percent(left)} of the original"
    paired = field == "latency_ms"  # the ratio of neighbouring calls decides, as in the search
    original = getattr(data.before, field)
    return Budget(name, limit, text, left <= bound / original if paired else actual <= bound)


def bound_of(data: ReportData, name: str) -> float | None:
    """Upper bound of a constraint in the unit of its figure; None when none can be read."""
    field, unit = FIGURES.get(name, ("", 1))
    number, relative = _read(data.constraints.get(name, ""))
    if number is None or not field:
        return None
    if not relative:
        return number * unit
    original = getattr(data.before, field, None)
    return None if not original else original * number / 100


def max_drop(data: ReportData) -> float | None:
    """Bound on the loss of the first metric, absolute; None when none can be read."""
    number, relative = _read(data.constraints.get("max_drop", ""))
    return number / 100 if relative and number is not None else number


def _drop(data: ReportData, limit: str) -> Budget:
    bound, lost = max_drop(data), drop(data)
    if bound is None or lost is None or math.isnan(lost):
        return Budget("max_drop", limit, "", None)
    name = first_metric(data)
    if name == "agreement":
        return Budget(
            "max_drop",
            limit,
            f"{wording.percent(lost)} answered differently",
            lost <= bound + ROUNDING,
        )
    words = wording.points_words(name, data.metrics_before[name], data.metrics_after[name])
    return Budget("max_drop", limit, f"{name} {words}", lost <= bound + ROUNDING)


def drop(data: ReportData) -> float | None:
    """How much the first metric lost, absolute; without labels one minus the agreement."""
    name = first_metric(data)
    if name == "agreement":
        return None if data.agreement is None else 1 - data.agreement
    before, after = data.metrics_before.get(name), data.metrics_after.get(name)
    if before is None or after is None:
        return None
    return after - before if higher_is_better(data, name) is False else before - after


def _read(limit: str) -> tuple[float | None, bool]:
    """The number that a bound begins with, and whether it is in percent."""
    found = re.match(r"\s*(\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(%?)", limit)
    if found is None:
        return None, False
    return float(found[1].replace(",", "")), bool(found[2])

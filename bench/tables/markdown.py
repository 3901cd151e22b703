"""Tables in Markdown, each declared by its columns: a heading, and the cell made of an item.

An item is a row of results, or the rows of one group, such as the seeds of one setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from tables.rows import Row, Rows

T = TypeVar("T")
Cell = Callable[[Row], str]
GroupCell = Callable[[Rows], str]


def table(items: Iterable[T], columns: Mapping[str, Callable[[T], str]]) -> str:
    """One line per item, numbers to the right; a sentence where there is no item."""
    lines = ["| " + " | ".join(cell(item) for cell in columns.values()) + " |" for item in items]
    if not lines:
        return "No rows yet."
    head = "| " + " | ".join(columns) + " |"
    return "\n".join([head, "|---" + "|---:" * (len(columns) - 1) + "|", *lines])


def value(key: str, form: str = "{}") -> Cell:
    """A field of a row; a dash where it is None."""
    return lambda row: "-" if row[key] is None else form.format(row[key])


def change(before: str, after: str, form: str = "{:.3f}") -> Cell:
    """A field of a row before and after."""
    return lambda row: f"{form.format(row[before])} → {form.format(row[after])}"


def shared(cell: Cell) -> GroupCell:
    """What all rows of a group have in common."""
    return lambda same: cell(same[0])


def seeds(same: Rows) -> str:
    """How many rows a group has."""
    return str(len(same))


def mean(key: str, form: str = "{:.2f}") -> GroupCell:
    """The mean of a field over a group."""
    return lambda same: form.format(average(same, key))


def average(same: Rows, key: str) -> float:
    """The mean of a field, as a number."""
    return statistics.fmean(row[key] for row in same)


def median(key: str, form: str = "{:.2f}") -> GroupCell:
    """The median of a field over a group."""
    return lambda same: form.format(statistics.median(row[key] for row in same))


def medians(before: str, after: str) -> GroupCell:
    """The medians of a field before and after."""
    cells = median(before, "{:.3f}"), median(after, "{:.3f}")
    return lambda same: " → ".join(cell(same) for cell in cells)


def least(key: str, form: str) -> GroupCell:
    """The smallest of a group."""
    return lambda same: form.format(min(row[key] for row in same))


def most(key: str, form: str) -> GroupCell:
    """The largest of a group."""
    return lambda same: form.format(max(row[key] for row in same))


def spread(key: str, digits: int = 2, *, times: float = 1, unit: str = "") -> GroupCell:
    """Mean and range of a field over a group, each number multiplied by `times`."""
    return lambda same: _spread([times * row[key] for row in same], digits) + unit


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def interval(change: Mapping[str, float] | None) -> str:
    """A difference in points with its 95 % interval."""
    if change is None:
        return "-"
    return f"{change['mean']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]"

"""Curves in a frame with two axes, and what their colours stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tables import charts

Curve = Sequence[tuple[float, float]]

ACROSS, BOTTOM, TOP = (60, 500), 350, 50  # pixels: the ends of the two axes
LEGEND = 525, 60  # pixels: where it starts, from the left and from above


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from its first to its last tick.

    Args:
        ticks: Values that are written, rising.
        form: How they are written.
        words: What the axis is.
    """

    ticks: Sequence[float]
    form: str
    words: str = ""

    def share(self, value: float) -> float:
        """How far along the axis a value lies; one below the first tick lies on it."""
        low, high = self.ticks[0], self.ticks[-1]
        return (max(value, low) - low) / (high - low)


def every(step: float, low: float, high: float) -> list[float]:
    """Round ticks that hold all values from `low` to `high`, to a twentieth of a step."""
    return [step * n for n in range(math.floor(low / step), math.ceil(high / step - 0.05) + 1)]


def plot(
    title: str,
    curves: Mapping[str, Curve],
    across: Axis,
    up: Axis,
    *,
    marked: tuple[float, str] | None = None,
) -> str:
    """A picture of curves; `marked` is a height with a dashed line and its name."""

    def x(value: float) -> float:
        return ACROSS[0] + (ACROSS[1] - ACROSS[0]) * across.share(value)

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * up.share(value)

    def frame() -> Iterator[str]:
        for value in up.ticks:
            yield charts.grid(y(value), ACROSS, up.form.format(value))
        if marked:
            yield charts.level(y(marked[0]), ACROSS, dashed=True)
            yield charts.text(ACROSS[1] + 5, y(marked[0]) + 4, marked[1])
        for value in across.ticks:
            yield charts.below(x(value), BOTTOM + 20, across.form.format(value))
        yield charts.below(sum(ACROSS) / 2, BOTTOM + 44, across.words)

    parts = list(frame())
    for number, (name, points) in enumerate(curves.items()):
        colour = charts.colour(number, len(curves))
        places = [(x(a), y(b)) for a, b in points]
        parts.append(charts.polyline(places, colour))
        parts += [charts.dot(*place, colour, radius=3) for place in places]
        parts.append(charts.legend(LEGEND[0], LEGEND[1] + 24 * number, colour, name))
    return charts.svg(title, parts, size=(760, 410))

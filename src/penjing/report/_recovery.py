"""What every step of a chain keeps of the original: a line for each split, a table, a line of text.

A chain is read per split and figure, from the original through its steps in their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

from penjing.report import _wording as wording
from penjing.report._svg import Scale, draw, markup, picture, tooltip
from penjing.task.recovery import Recovered

ORIGINAL = "original"
WIDTH, HEIGHT = 440.0, 216.0
TOP, FLOOR, RIGHT = 34.0, 188.0, 40.0  # of the rectangle that lines are drawn in
LETTER = 8.8  # width of a letter, rather too wide than too narrow
NAMED = 5  # steps whose names have room below the drawing; of more, every second, third, ...
LONGEST = 11  # characters of a name

Chains = Mapping[str, Sequence[tuple[str, float]]]
"""Split -> name of the step and its value, the original first."""


def figures(rows: Sequence[Recovered]) -> list[str]:
    """Names of all figures, in their order."""
    return list(dict.fromkeys(row.figure for row in rows))


def headlines(rows: Sequence[Recovered]) -> list[str]:
    """The figures that are worth a line of text: losses only where there is nothing else."""
    metrics = [name for name in figures(rows) if name.rpartition(" ")[2] != "loss"]
    return metrics or figures(rows)


def splits(rows: Sequence[Recovered], figure: str | None = None) -> list[str]:
    """Names of all splits in their order, or of those that a figure has values on."""
    return list(dict.fromkeys(r.split for r in rows if figure in (None, r.figure)))


def chains(rows: Sequence[Recovered], figure: str) -> dict[str, list[tuple[str, float]]]:
    """Every split's values of one figure, from the original through the steps."""
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        if row.figure == figure:
            chain = found.setdefault(row.split, [(ORIGINAL, row.original)])
            chain.append((row.step, row.after))
    return found


def lines(rows: Sequence[Recovered]) -> list[str]:
    """One line of text per split and metric: every step's value and its ratio to the original."""
    told = []
    for name in headlines(rows):
        for split, ((_, original), *steps) in chains(rows, name).items():
            values = ", ".join(f"{step} {_value(name, v)}{_kept(v, original)}" for step, v in steps)
            text = f"{name} on {split}: original {_value(name, original)}, {values}"
            told.append(" ".join(text.split()))
    return told


def drawing(rows: Sequence[Recovered], figure: str) -> Markup | None:
    """One figure over the steps, a line for each split.

    Args:
        rows: All rows of the report.
        figure: Which.

    Returns:
        A drawing of 440 by 216; None where a value is not finite.
    """
    shown = chains(rows, figure)
    values = [value for chain in shown.values() for _, value in chain]
    if not all(map(math.isfinite, values)):
        return None
    label = f"{figure} from the original through {max(map(len, shown.values())) - 1} steps"
    root = picture(WIDTH, HEIGHT, label, "chart")
    up = Scale.around(values, FLOOR, TOP)
    left = 16 + LETTER * max(len(_tick(figure, tick)) for tick in up.ticks())
    for tick in up.ticks():
        py = up(tick)
        draw(root, "line", x1=left, x2=WIDTH - RIGHT + 20, y1=py, y2=py, class_="grid")
        attributes = {"class_": "tick", "text_anchor": "end"}
        draw(root, "text", _tick(figure, tick), x=left - 10, y=py + 4, **attributes)
    draw(root, "text", figure, x=2, y=15, class_="title")
    _names(root, max(shown.values(), key=len), left)
    places = splits(rows)  # a split looks alike in every drawing
    for split, chain in shown.items():
        kind = "" if split == places[0] else " second"
        _line(root, figure, split, chain, (left, up, kind))
    return markup(root)


def _names(root: ET.Element, chain: Sequence[tuple[str, float]], left: float) -> None:
    """Names of steps below the drawing, as many as have room."""
    draw(root, "line", x1=left, x2=WIDTH - RIGHT + 20, y1=FLOOR, y2=FLOOR, class_="axis")
    every = math.ceil(len(chain) / NAMED)
    across = _across(len(chain), left)
    for index, (step, _) in enumerate(chain):
        if index % every == 0:
            name = step if len(step) <= LONGEST else step[: LONGEST - 1] + "…"
            attributes = {"class_": "tick", "text_anchor": "middle"}
            draw(root, "text", name, x=across(index), y=FLOOR + 20, **attributes)


def _line(
    root: ET.Element,
    figure: str,
    split: str,
    chain: Sequence[tuple[str, float]],
    place: tuple[float, Scale, str],
) -> None:
    left, up, kind = place
    across = _across(len(chain), left)
    points = [(across(index), up(value)) for index, (_, value) in enumerate(chain)]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    draw(root, "polyline", points=path, class_=f"line{kind}")
    for (px, py), (step, value) in zip(points, chain, strict=True):
        dot = draw(root, "circle", cx=px, cy=py, r=3.5, class_=f"dot{kind}")
        kept = "" if step == ORIGINAL else _kept(value, chain[0][1])
        tooltip(dot, f"{step} on {split}: {_value(figure, value)}{kept}")


def _across(count: int, left: float) -> Scale:
    """Places of steps, the first and the last with room for half a name."""
    return Scale(0, max(1, count - 1), left + 36, WIDTH - RIGHT)


def key(place: int) -> Markup:
    """The sign of a split alone, for a legend; silent to screen readers."""
    root = ET.Element("svg", {"viewBox": "0 0 24 24", "class": "key", "aria-hidden": "true"})
    kind = "" if place == 0 else " second"
    draw(root, "line", x1=1, x2=23, y1=12, y2=12, class_=f"line{kind}")
    draw(root, "circle", cx=12, cy=12, r=3.5, class_=f"dot{kind}")
    return markup(root)


def _value(figure: str, value: float) -> str:
    return wording.metric(figure, value)


def _tick(figure: str, value: float) -> str:
    return f"{100 * value:.4g} %" if wording.is_share(figure) else f"{value:.4g}"


def _kept(value: float, original: float) -> str:
    return f" ({value / original:.3f} of it)" if original else ""

"""Which method is most accurate in equal minutes?"""

from __future__ import annotations

from collections.abc import Iterator

from tables import charts
from tables.markdown import average, mean, seeds, spread, table
from tables.names import NAMES, SCHOOLED
from tables.rows import Rows, alike, grouped, rows

KEYS = ("board", "network", "level", "minutes")
PICTURE = "assets/leaderboard.svg"
SLACK = 0.99  # of a level, for rounding to whole units
COLUMN, BOTTOM = 90, 330  # pixels: width of a column, and where the axis lies


def leaderboard_tables(given: Rows | None = None, picture: str = PICTURE) -> str:
    """One table per board, network, level and minutes; the best on validation first.

    Args:
        given: The rows; None takes the committed ones.
        picture: Path of the plot, seen from the page.
    """
    parts = []
    chosen = rows("leaderboard") if given is None else given
    for (board, network, level, minutes), found in grouped(chosen, *KEYS).items():
        name = {**NAMES, **SCHOOLED}[network]
        parts.append(f"{name}, {asked_for(board, level)}, {minutes:g} minutes\n\n{_board(found)}")
    if not parts:
        return "No rows yet."
    drawn = f"![Validation accuracy of every method in equal minutes]({picture})"
    return "\n\n".join([drawn, *parts])


def _board(found: Rows) -> str:
    methods = alike(found, "method")
    least = min((r["zeros"] for r in found if r["method"] == "uniform"), default=0.0)
    return table(
        sorted(methods, key=lambda same: average(same, "validation"), reverse=True),
        {
            "method": lambda same: _method(same, least),
            "seeds": seeds,
            "validation, %": spread("validation", 1),
            "test, %": spread("test", 1),
            "own seconds": mean("method_seconds", "{:.0f}"),
        },
    )


def _method(same: Rows, least: float) -> str:
    """Its name, and what it did not keep to; `least` are the zeros of uniform shares."""
    name, board, level = (same[0][key] for key in ("method", "board", "level"))
    late = "" if all(r["in_time"] for r in same) else " (over time)"
    if name == "dense":
        return f"{name}{late}"
    key, bound = ("fewer_macs", level) if board == "units" else ("zeros", least)
    missed = any(r[key] < SLACK * bound for r in same)
    return f"{name}{late}{' (level not reached)' if missed else ''}"


def asked_for(board: str, level: float) -> str:
    """What a board asks for."""
    return f"{level:g}x fewer MACs" if board == "units" else f"{100 * level:g} % zeros"


def leaderboard_picture(given: Rows | None = None) -> str:
    """Dots of every method, mean validation accuracy, one column per board, network and level.

    Args:
        given: The rows; None takes the committed ones.
    """
    found = grouped(rows("leaderboard") if given is None else given, *KEYS)
    methods = sorted({r["method"] for same in found.values() for r in same})
    colours = {m: charts.colour(n, len(methods), light=42) for n, m in enumerate(methods)}
    right = 60 + COLUMN * len(found)
    parts = [charts.grid(_y(value), (60, right), f"{value} %") for value in range(0, 101, 20)]
    for column, (key, same) in enumerate(found.items()):
        parts += _column(105 + COLUMN * column, key, same, colours)
    for number, (method, colour) in enumerate(colours.items()):
        parts.append(charts.legend(right + 30, 40 + 22 * number, colour, method))
    title = "Validation accuracy of every method in equal minutes"
    return charts.svg(title, parts, size=(right + 260, 400))


def _column(
    x: int, key: tuple[str, str, float, float], found: Rows, colours: dict[str, str]
) -> Iterator[str]:
    board, network, level, minutes = key
    asked = f"MACs / {level:g}" if board == "units" else asked_for(board, level)
    for line, words in enumerate((network, asked, f"{minutes:g} min")):
        yield charts.below(x, BOTTOM + 20 + 16 * line, words)
    for (method,), same in grouped(found, "method").items():
        reached = average(same, "validation")
        title = f"{method}: {reached:.1f} %"
        yield charts.dot(x, _y(reached), colours[method], radius=5, title=title)


def _y(accuracy: float) -> float:
    return BOTTOM - 290 * accuracy / 100

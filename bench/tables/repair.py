"""How accurate is a network right after pruning?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from tables import charts
from tables.markdown import average, interval, mean, most, seeds, shared, spread, table, value
from tables.names import NAMES
from tables.rows import Row, Rows, alike, grouped, rows

BARS = {"ic": 85.0, "vww": 80.0, "kws": 90.0, "ad": 85.0}
COLOURS = ("#1f5fa8", "#2e7d4f", "#b5651d")
LABEL_ROOM = 40  # pixels between two labels of one curve
Curve = list[tuple[float, float]]


def repair_tables() -> str:
    """One table per network: accuracy right after pruning."""
    return "\n\n".join(_of_network(name) for name in NAMES if _chosen(name))


def _chosen(name: str) -> Rows:
    """Rows of penjing's own choices."""
    default = ("obs", "dp", "least_squares")
    return [
        r
        for r in rows(f"repair-{name}")
        if (r["importance"], r["allocation"], r["repair"]) == default
    ]


def _of_network(name: str) -> str:
    found = _chosen(name)
    tuned = [r for r in rows(f"repair-{name}") if r["repair"] == "tune"]
    first = found[0]
    bar = f" Quality bar of the benchmark: {BARS[name]:.0f}." if name in BARS else ""
    drawn = table(
        alike([*found, *tuned], "scope", "fewer_macs", "repair", "samples", "tune_steps"),
        {
            "fewer MACs": mean("measured_fewer_macs", "{:.2f}x"),
            "fewer parameters": mean("fewer_params", "{:.2f}x"),
            "scope": shared(value("scope")),
            "repair": shared(lambda row: _repair(row, first["samples"])),
            "seeds": seeds,
            f"{first['metric']} right after": spread("pruned"),
            "difference, 95 % interval (worst seed)": lambda same: interval(
                _worst(same).get("difference_points")
            ),
            "CPU-s": most("cpu_seconds", "{:.0f}"),
        },
    )
    return (
        f"**{NAMES[name]}**, dense {first['dense']:.2f}; {first['split']}; "
        f"{first['samples']} calibration samples.{bar}\n\n{drawn}{_cleared(name, [*found, *tuned])}"
    )


def _worst(same: Rows) -> Row:
    return min(same, key=lambda r: r["pruned"])


def _repair(row: Row, usual: int) -> str:
    more = "" if row["samples"] == usual else f", {row['samples']:,} samples"
    tuned = row["repair"] == "tune"
    return (f"tuned, {row['tune_steps']:,} steps" if tuned else "least squares") + more


def _cleared(name: str, found: Rows) -> str:
    """The most MACs saved with the whole 95 % interval of the worst seed above the quality bar."""
    if name not in BARS or found[0]["metric"] != "top-1":
        return ""
    passing = []
    for (factor, *_), same in grouped(found, "fewer_macs", "repair", "samples").items():
        worst = min(r["pruned"] for r in same)
        half = 1.96 * math.sqrt(max(worst * (100 - worst), 0) / same[0]["test_samples"])
        if worst - half >= BARS[name]:
            passing.append(factor)
    if not passing:
        return "\n\nThe 95 % interval lies above the bar at none of these."
    factor = max(passing)
    return f"\n\nThe 95 % interval of the worst seed lies above the bar up to {factor}x fewer MACs."


def repair_picture() -> str:
    """Accuracy against MACs of ResNet-56: tuned, after repair, and by magnitude without."""
    default = [r for r in _chosen("resnet56") if r["scope"] == "inner"]
    found = rows("repair-resnet56")
    tuned = [r for r in found if r["repair"] == "tune" and r["samples"] == default[0]["samples"]]
    bare = [r for r in found if r["repair"] is None and r["importance"] == "l1"]
    lines = {
        "penjing: tuned, no labels, two minutes": _curve(tuned),
        "penjing: repaired, no labels, gradients or training": _curve(default),
        "the same MACs by L1 magnitude, not repaired": _curve(bare),
    }
    parts = list(_axes())
    for number, (label, points) in enumerate(lines.items()):
        parts += _draw(number, [(1.0, default[0]["dense"] if default else 100.0), *points])
        parts.append(charts.legend(322, 150 + 26 * number, COLOURS[number], label))
    title = "ResNet-56 on CIFAR-10: top-1 accuracy against the factor of fewer MACs"
    return charts.svg(title, parts, size=(720, 400), font=13)


def _curve(found: Rows) -> Curve:
    cells = alike(found, "fewer_macs")
    return sorted((average(c, "measured_fewer_macs"), average(c, "pruned")) for c in cells)


def _x(factor: float) -> float:
    return 70 + (factor - 1) / 3.2 * 620


def _y(accuracy: float) -> float:
    return 340 - accuracy / 100 * 290


def _axes() -> Iterator[str]:
    yield (
        f'<text x="20" y="28" font-size="15" font-weight="600" fill="{charts.INK}">'
        "ResNet-56 on CIFAR-10, right after the cut</text>"
    )
    for percent in (0, 25, 50, 75, 100):
        yield charts.grid(_y(percent), (70, 690), f"{percent} %", gap=10)
    for factor in (1, 1.5, 2, 2.5, 3, 3.5, 4):
        yield charts.below(_x(factor), 360, f"{factor:g}x")
    yield charts.below(380, 384, "fewer multiply-accumulates")


def _draw(number: int, curve: Curve) -> Iterator[str]:
    """One curve from the dense network on, with numbers where there is room for them."""
    colour = COLOURS[number]
    for (xa, ya), (xb, yb) in pairwise(curve):
        yield (
            f'<line x1="{_x(xa):.1f}" y1="{_y(ya):.1f}" x2="{_x(xb):.1f}" y2="{_y(yb):.1f}" '
            f'stroke="{colour}" stroke-width="2.5"/>'
        )
    written = float(-LABEL_ROOM)
    for factor, accuracy in curve[1:]:
        x, y = _x(factor), _y(accuracy)
        yield charts.dot(x, y, colour)
        if x - written >= LABEL_ROOM:
            written = x
            above = -10 if number == 0 else 18
            yield charts.text(x, y + above, f"{accuracy:.1f}", fill=colour, anchor="middle")

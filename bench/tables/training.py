"""What does training give, in the same minutes?"""

from __future__ import annotations

from collections.abc import Iterator

from tables import charts
from tables.markdown import seeds, shared, spread, table, value
from tables.rows import Row, Rows, alike, rows

WHO = {
    "penjing": "penjing: pruned, repaired, tuned",
    "torch_pruning": "Torch-Pruning: group norm",
    "narrow": "narrower, weights of the parent",
    "scratch": "narrower, fresh weights",
}
METHODS = {"ac/dc": "AC/DC", "agp": "AGP", "rigl": "RigL", "set": "SET", "str": "STR"}
IMAGES = 45_000
ACROSS = (60, 500)  # pixels from the left to the right end of the axis
LOWEST, HIGHEST = 84, 94  # points of the picture's axis


def training_table() -> str:
    """Accuracy of each student right after pruning and after its minutes."""
    return table(
        sorted(rows("training-resnet56"), key=_longest_first),
        {
            "student": lambda r: WHO[r["who"]],
            "minutes": value("minutes", "{:g}"),
            "fewer MACs": value("measured_fewer_macs", "{:.2f}x"),
            "before training": lambda r: f"{r['pruned']['test']:.2f}",
            "learning rate": value("lr", "{:g}"),
            "epochs": lambda r: f"{r['samples_seen'] / IMAGES:.1f}",
            "top-1": lambda r: f"{r['trained']['test']:.2f}",
        },
    )


def _longest_first(row: Row) -> tuple[float, int]:
    return -row["minutes"], list(WHO).index(row["who"])


def training_picture() -> str:
    """Accuracy on the test images against minutes, for the longest budget."""
    found = rows("training-resnet56")
    longest = max(row["minutes"] for row in found)
    curves = {r["who"]: _curve(r) for r in found if r["minutes"] == longest}

    def x(minutes: float) -> float:
        return ACROSS[0] + (ACROSS[1] - ACROSS[0]) * minutes / longest

    def y(points: float) -> float:
        return 350 - 300 * (max(points, LOWEST) - LOWEST) / (HIGHEST - LOWEST)

    def axes() -> Iterator[str]:
        for points in range(LOWEST, HIGHEST + 1, 2):
            yield charts.grid(y(points), ACROSS, f"{points} %")
        for part in range(4):
            yield charts.below(x(longest * part / 3), 370, f"{longest * part / 3:g}")
        yield charts.below(280, 394, "minutes of one thread, pruning included")

    parts = list(axes())
    for number, (who, curve) in enumerate(curves.items()):
        colour = charts.colour(number, len(curves))
        line = charts.polyline([(x(a), y(b)) for a, b in curve], colour)
        parts.append(line + charts.legend(525, 60 + 24 * number, colour, WHO[who]))
    title = "Accuracy of ResNet-56 with 2.11x fewer MACs against minutes of training"
    return charts.svg(title, parts, size=(760, 410))


def _curve(row: Row) -> list[tuple[float, float]]:
    start = [(row["prune_seconds"] / 60, row["pruned"]["test"])]
    return start + [(point["minutes"], point["test"]) for point in row["curve"]]


def sparse_training_table() -> str:
    """What each way of training a network with zeros reaches in the same minutes."""
    found = [{**row, "test": row["accuracy"]["test"]} for row in rows("sparse_training")]
    groups = alike(found, "minutes", "sparsity", "method")
    return table(
        sorted(groups, key=_best_first),
        {
            "training": shared(lambda r: METHODS.get(r["method"], r["method"])),
            "minutes": shared(value("minutes", "{:g}")),
            "zeros": shared(value("zeros", "{:.0%}")),
            "seeds": seeds,
            "epochs": shared(value("epochs", "{:.1f}")),
            "top-1": spread("test"),
        },
    )


def _best_first(same: Rows) -> float:
    return -float(same[0]["test"])

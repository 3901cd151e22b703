"""What does training give, in the same minutes?"""

from __future__ import annotations

from tables.markdown import seeds, shared, spread, table, value
from tables.plot import Axis, every, plot
from tables.rows import Row, Rows, alike, rows

WHO = {
    "penjing": "penjing: pruned, repaired, tuned",
    "torch_pruning": "Torch-Pruning: group norm",
    "narrow": "narrower, weights of the parent",
    "scratch": "narrower, fresh weights",
}
METHODS = {"ac/dc": "AC/DC", "agp": "AGP", "rigl": "RigL", "set": "SET", "str": "STR"}
IMAGES = 45_000
LOWEST = 84  # percent, of the picture's axis


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
    return plot(
        "Accuracy of ResNet-56 with 2.11x fewer MACs against minutes of training",
        {WHO[r["who"]]: _curve(r) for r in found if r["minutes"] == longest},
        Axis(every(15, 0, longest), "{:g}", "minutes of one thread, pruning included"),
        Axis(every(2, LOWEST, 94), "{} %"),
    )


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


def sparse_training_picture() -> str:
    """Accuracy on the test images against minutes, the best at the end first."""
    found = sorted(rows("sparse_training"), key=lambda r: -r["accuracy"]["test"])
    curves = {
        METHODS.get(r["method"], r["method"]): [(p["minutes"], p["test"]) for p in r["curve"]]
        for r in found
        if r["seed"] == 0
    }
    points = [point for curve in curves.values() for point in curve]
    return plot(
        "Accuracy of ResNet-20 with 90 % zeros against minutes of training",
        curves,
        Axis(every(3, 0, max(x for x, _ in points)), "{:g}", "minutes of one thread"),
        Axis(every(10, min(y for _, y in points), max(y for _, y in points)), "{} %"),
    )


def _best_first(same: Rows) -> float:
    return -float(same[0]["test"])

"""What do networks save of which a call takes a part?"""

from __future__ import annotations

from statistics import fmean

from tables.markdown import Cell, table, value
from tables.names import named
from tables.plot import Axis, every, plot
from tables.rows import Row, Rows, rows

FIGURES = {"mean": "mean", "p95": "95th percentile"}


def adaptive_tables() -> str:
    """Early exits, gates, slimmable widths and fewer tokens, as far as there are rows."""
    studies = {
        "gating": gating_table,
        "channels": channels_table,
        "gathering": gathering_table,
        "slimmable": slimmable_table,
        "tokens": tokens_table,
    }
    found = {name: [r for r in rows("adaptive") if r["study"] == name] for name in studies}
    exits = [exits_table(rows("exits"))] if rows("exits") else []
    return "\n\n".join([*exits, *(make(found[k]) for k, make in studies.items() if found[k])])


def exits_table(found: Rows) -> str:
    """Accuracy against the distribution of latency over single samples."""
    return table(
        sorted(found, key=lambda r: (r["network"], not r["frozen"], r["images"], r["max_drop"])),
        {
            "network with exits": named,
            "trunk": lambda r: "frozen" if r["frozen"] else f"trained, lr {r['lr']:g}",
            "heads": lambda r: f"{r['head']}, lr {r['head_lr']:g}",
            "images, epochs": lambda r: f"{r['images']}, {r['epochs']}",
            "may lose": lambda r: f"{100 * r['max_drop']:g} points",
            "accuracy": accuracies,
            "leave at exit 1 / 2 / end": lambda r: " / ".join(f"{s:.0%}" for s in r["taken"]),
            "mean ms": latencies("mean"),
            "median": latencies("median"),
            "95th percentile": latencies("p95"),
        },
    )


def exits_picture() -> str:
    """Accuracy against milliseconds, of single samples: their mean and their 95th percentile."""
    found = sorted(rows("exits"), key=lambda r: r["latency_ms"]["mean"])
    curves = {
        f"{words}, with exits": [(r["latency_ms"][key], r["accuracy"]) for r in found]
        for key, words in FIGURES.items()
    }
    whole = {
        f"{words}, without": [
            (fmean(r["dense_latency_ms"][key] for r in found), found[0]["dense_accuracy"])
        ]
        for key, words in FIGURES.items()
    }
    points = [point for curve in (curves | whole).values() for point in curve]
    return plot(
        "ResNet-56 with two exits: accuracy against milliseconds of single images",
        curves | whole,
        Axis(every(0.5, 0, max(x for x, _ in points)), "{:g}", "milliseconds, one thread"),
        Axis(every(1, min(y for _, y in points), max(y for _, y in points)), "{} %"),
    )


def gating_table(found: Rows) -> str:
    """Accuracy against the distribution of latency, with gates and with fixed switches."""
    return table(
        found,
        {
            "network with gated blocks": named,
            "gates": lambda r: "fixed for all inputs" if r["static"] else "look at the input",
            "target": value("target", "{:g}"),
            "images, epochs": lambda r: f"{r['training_images']}, {r['epochs']}",
            "lr, of gates": lambda r: f"{r['lr']:g}, {r['gate_lr']:g}",
            "accuracy": accuracies,
            "fewer MACs, mean": lambda r: f"{r['dense_macs'] / r['macs']:.2f}x",
            "million MACs, 5th to 95th percentile": lambda r: " to ".join(
                f"{macs / 1e6:.1f}" for macs in r["macs_p5_p95"]
            ),
            "mean ms": latencies("mean"),
            "95th percentile, ms": latencies("p95"),
        },
    )


def channels_table(found: Rows) -> str:
    """Accuracy and latency of networks whose inputs choose their channels."""
    return table(
        found,
        {
            "network with gated channels": named,
            "density": value("target", "{:g}"),
            "images, epochs": lambda r: f"{r['training_images']}, {r['epochs']}",
            "lr, of gates": lambda r: f"{r['lr']:g}, {r['gate_lr']:g}",
            "accuracy": accuracies,
            "fewer MACs": lambda r: f"{r['dense_macs'] / r['macs']:.2f}x",
            "mean ms": latencies("mean"),
            "95th percentile, ms": latencies("p95"),
        },
    )


def gathering_table(found: Rows) -> str:
    """What it costs to choose rows of weights while a layer runs."""

    def faster(density: str) -> Cell:
        return lambda r: (
            f"{r['dense_latency_ms']['median'] / r['latency_ms'][density]['median']:.2f}x"
        )

    return table(
        found,
        {
            "layers with gated channels": value("network", "{}"),
            "ms with all": lambda r: f"{r['dense_latency_ms']['median']:.3f}",
            "times faster with half": faster("0.5"),
            "with a quarter": faster("0.25"),
        },
    )


def slimmable_table(found: Rows) -> str:
    """One set of weights at several widths."""
    return table(
        found,
        {
            "slimmable network": named,
            "width": value("width", "{:g}"),
            "before training": value("untrained_accuracy", "{:.2f}"),
            "accuracy": accuracies,
            "million MACs": lambda r: f"{r['macs'] / 1e6:.1f}",
            "times faster": value("times_faster", "{:.2f}x"),
        },
    )


def tokens_table(found: Rows) -> str:
    """Fewer tokens, without training."""
    return table(
        found,
        {
            "network with fewer tokens": named,
            "how": lambda r: f"{r['method']}, {r['r']} a layer",
            "accuracy": accuracies,
            "fewer MACs": lambda r: f"{r['dense_macs'] / r['macs']:.2f}x",
            "times faster, batch 1": lambda r: f"{r['times_faster']['1']:.2f}x",
            "batch 32": lambda r: f"{r['times_faster']['32']:.2f}x",
        },
    )


def accuracies(row: Row) -> str:
    """Of the original, then of the result."""
    return f"{row['dense_accuracy']:.2f} → {row['accuracy']:.2f}"


def latencies(figure: str) -> Cell:
    """Of the original, then of the result, in milliseconds."""
    return lambda r: f"{r['dense_latency_ms'][figure]:.3f} → {r['latency_ms'][figure]:.3f}"

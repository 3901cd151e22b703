"""What do networks save of which a call takes a part?"""

from __future__ import annotations

from tables.markdown import Cell, table, value
from tables.names import named
from tables.rows import Row, Rows, rows


def adaptive_tables() -> str:
    """Early exits, gated blocks, slimmable widths and fewer tokens, as far as there are rows."""
    studies = {
        "exits": exits_table,
        "gating": gating_table,
        "slimmable": slimmable_table,
        "tokens": tokens_table,
    }
    found = {name: [r for r in rows("adaptive") if r["study"] == name] for name in studies}
    return "\n\n".join(make(found[name]) for name, make in studies.items() if found[name])


def exits_table(found: Rows) -> str:
    """Accuracy against the distribution of latency over single samples."""
    return table(
        found,
        {
            "network with exits": named,
            "how": lambda r: f"{r['criterion']}, {'frozen' if r['frozen'] else 'trained'} trunk",
            "may lose": lambda r: f"{100 * r['max_drop']:g} points",
            "accuracy": accuracies,
            "leave at exit 1 / 2 / end": lambda r: " / ".join(f"{s:.0%}" for s in r["taken"]),
            "mean ms": latencies("mean"),
            "95th percentile, ms": latencies("p95"),
        },
    )


def gating_table(found: Rows) -> str:
    """Accuracy against the distribution of latency, with gates and with fixed switches."""
    return table(
        found,
        {
            "network with gated blocks": named,
            "gates": lambda r: "fixed for all inputs" if r["static"] else "look at the input",
            "target": value("target", "{:g}"),
            "accuracy": accuracies,
            "fewer MACs, mean": lambda r: f"{r['dense_macs'] / r['macs']:.2f}x",
            "million MACs, 5th to 95th percentile": lambda r: " to ".join(
                f"{macs / 1e6:.1f}" for macs in r["macs_p5_p95"]
            ),
            "mean ms": latencies("mean"),
            "95th percentile, ms": latencies("p95"),
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

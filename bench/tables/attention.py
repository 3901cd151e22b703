"""How much of a transformer is left after a cut?"""

from __future__ import annotations

from tables.markdown import interval, mean, seeds, shared, spread, table, value
from tables.names import TRANSFORMERS
from tables.rows import Row, Rows, alike, rows


def attention_table() -> str:
    """Transformers right after a cut, and after distillation, beside random without repair."""
    keys = ("network", "fewer_macs", "importance", "distilled_epochs", "dense")
    return table(
        alike(rows("attention"), *keys),
        {
            "network": shared(lambda r: TRANSFORMERS[r["network"]]),
            "fewer MACs": shared(value("fewer_macs", "{:g}x")),
            "how": shared(_how),
            "seeds": seeds,
            "dense": shared(value("dense", "{:.2f}")),
            "accuracy": spread("pruned"),
            "difference, 95 % interval (worst seed)": _worst,
            "retained": spread("retained"),
            "CPU-s": mean("cpu_seconds", "{:.0f}"),
        },
    )


def _how(row: Row) -> str:
    how = "random, no repair" if row["importance"] == "random" else "judged and repaired"
    epochs = row["distilled_epochs"]
    epoch = "epoch" if epochs == 1 else "epochs"
    return f"{how}, {epochs} {epoch} of distillation" if epochs else how


def _worst(same: Rows) -> str:
    return interval(min((r["difference_points"] for r in same), key=lambda d: d["mean"]))

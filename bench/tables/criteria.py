"""Criterion, allocation or repair; what a criterion costs; what zeros of activations cost."""

from __future__ import annotations

from collections.abc import Callable

from tables.markdown import average, change, median, most, seeds, shared, spread, table, value
from tables.names import NAMES, SCHOOLED
from tables.rows import Row, alike, grouped, rows


def criteria_table() -> str:
    """Every criterion beside random, with and without repair."""
    found = [r for r in rows("repair-resnet20") if r["fewer_macs"] == 2.0 and r["scope"] == "inner"]
    cells = grouped(found, "importance", "allocation", "repair")

    def judged(allocation: str, repair: str | None) -> Callable[[str], str]:
        def cell(importance: str) -> str:
            same = cells.get((importance, allocation, repair))
            return spread("pruned", 1)(same) if same else "-"

        return cell

    columns = {
        "uniform": judged("uniform", None),
        "uniform, repaired": judged("uniform", "least_squares"),
        "solver": judged("dp", None),
        "solver, repaired": judged("dp", "least_squares"),
    }
    known = [
        importance
        for importance in ("random", "l1", "l2", "taylor", "obs")
        if any(cell(importance) != "-" for cell in columns.values())
    ]
    return table(known, {"importance": str, **columns})


def cost_table() -> str:
    """What each criterion costs and what is left, all else equal; the best repaired one first."""
    found = alike(rows("criteria"), "criterion")
    return table(
        sorted(found, key=lambda same: average(same, "repaired"), reverse=True),
        {
            "criterion": shared(value("criterion")),
            "seeds": seeds,
            "CPU-seconds": median("cpu_seconds"),
            "MiB more": most("extra_peak_mb", "{:.0f}"),
            "top-1 cut, %": spread("cut", 1),
            "repaired, %": spread("repaired", 1),
        },
    )


def activations_table() -> str:
    """What zeros among activations cost and gain, by network, rule and share."""
    found = sorted(rows("activations"), key=lambda r: (r["network"], r["rule"], r["sparsity"]))
    return table(
        found,
        {
            "network": lambda r: {**NAMES, **SCHOOLED}[r["network"]],
            "rule": value("rule"),
            "share asked for": value("sparsity", "{:.0%}"),
            "zeros": value("zeros", "{:.1%}"),
            "top-1 or AUC": change("dense", "quiet", "{:.2f}"),
            "ms, not skipping → skipping": _skipping,
            "times faster": lambda r: f"{r['times_faster']:.2f}" if "times_faster" in r else "-",
        },
    )


def _skipping(row: Row) -> str:
    if "times_faster" not in row:
        return "-"
    return change("plain_median_ms", "skipping_median_ms", "{:.4f}")(row)

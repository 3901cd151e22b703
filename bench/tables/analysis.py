"""Which networks are cut right, and how do time and memory grow with them?"""

from __future__ import annotations

from collections import Counter

from tables.markdown import Cell, table, value
from tables.rows import rows

TOOLS = ("penjing", "torch_pruning")


def coverage_table() -> str:
    """How many networks are cut right, beside the peer."""
    found = rows("coverage")
    ours, theirs = (Counter(r[tool]["verdict"] for r in found) for tool in TOOLS)
    drawn = table(
        sorted({*ours, *theirs}),
        {
            "verdict": str,
            "penjing": lambda verdict: str(ours[verdict]),
            "Torch-Pruning 1.6.1": lambda verdict: str(theirs[verdict]),
        },
    )
    return f"{len(found)} networks.\n\n{drawn}"


def growth_table() -> str:
    """Milliseconds of analysis by depth, minimum and median."""
    return table(
        sorted(rows("growth"), key=lambda r: (r["kind"], r["layers"])),
        {
            "kind": value("kind"),
            "layers": value("layers"),
            "export, s": value("export_seconds", "{:.1f}"),
            "penjing, ms": _milliseconds("penjing"),
            "Torch-Pruning graph, ms": _milliseconds("torch_pruning"),
            "with its groups, ms": _milliseconds("torch_pruning_with_groups"),
            "n": value("n"),
        },
    )


def _milliseconds(tool: str) -> Cell:
    def cell(row: dict[str, float]) -> str:
        least, median = row[f"{tool}_min_seconds"], row[f"{tool}_seconds"]
        return "-" if median is None else f"{1000 * least:.1f} / {1000 * median:.1f}"

    return cell


def random_networks_table() -> str:
    """Random networks, and the invariants that failed."""
    found = rows("random_networks")
    networks = sum(r["n"] for r in found)
    reach = sum(r["mean_reachable"] * r["n"] for r in found) / networks
    facts = {
        "networks": str(networks),
        "groups": str(sum(r["groups"] for r in found)),
        "mean share of parameters within reach": f"{reach:.1%}",
        "plan moved no output, nothing to prove": str(sum(r["silent"] for r in found)),
        "an invariant failed": str(sum(len(r["failures"]) for r in found)),
    }
    return table(facts, {"": str, "count": facts.__getitem__})


def memory_table() -> str:
    """Peak memory of pruning with repair."""
    return table(
        rows("memory"),
        {
            "network": value("network"),
            "images": value("images"),
            "importance": value("importance"),
            "peak above start, MiB": value("peak_above_mb", "{:.0f}"),
            "images, MiB": value("images_mb", "{:.0f}"),
            "CPU-s": value("cpu_seconds", "{:.0f}"),
        },
    )

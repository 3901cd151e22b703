"""What do zeros, whole blocks and widths cost in accuracy, each alone and together?"""

from __future__ import annotations

from tables.markdown import average, most, seeds, shared, spread, table, value
from tables.names import named
from tables.rows import Row, Rows, alike, rows

WHAT_GOES = {
    "inner+residual": "widths",
    "depth": "whole branches",
    "inner+residual+depth": "both in one call",
}


def sparsity_table() -> str:
    """Accuracy with zeros, by choice and share."""
    found = rows("sparsity-resnet20")
    keys = ("pattern", "importance", "allocation", "repair", "samples", "sparsity")
    drawn = table(
        alike(found, *keys),
        {
            "pattern": shared(value("pattern")),
            "choice": shared(lambda r: f"{r['importance']}, {r['allocation']}"),
            "repair": shared(_repair),
            "images": shared(value("samples", "{:,}")),
            "zeros": lambda same: f"{100 * average(same, 'measured_sparsity'):.0f} %",
            "seeds": seeds,
            "top-1": spread("sparse"),
            "CPU-s": most("cpu_seconds", "{:.0f}"),
        },
    )
    dense = f"ResNet-20, CIFAR-10, dense {found[0]['dense']:.2f}.\n\n" if found else ""
    return dense + drawn


def _repair(row: Row) -> str:
    return {"auto": "least squares", None: "off"}.get(row["repair"], str(row["repair"]))


def depth_table() -> str:
    """Whole blocks, widths, or both, at equal MACs."""
    return table(
        alike(rows("depth"), "network", "fewer_macs", "scope"),
        {
            "network": shared(named),
            "asked": shared(value("fewer_macs", "{:.2f}x")),
            "what goes": shared(lambda r: WHAT_GOES[r["scope"]]),
            "seeds": seeds,
            "fewer MACs": spread("measured_fewer_macs", unit="x"),
            "branches left": _branches,
            "top-1": spread("pruned"),
            "times faster": spread("latency_ratio", unit="x"),
            "CPU-s": most("cpu_seconds", "{:.0f}"),
        },
    )


def _branches(same: Rows) -> str:
    return ", ".join(f"{r['blocks_kept']}/{r['blocks']}" for r in same if r["blocks"]) or "all"


def mixed_table() -> str:
    """Widths and zeros together, one after the other, and each alone, at equal effective MACs."""
    return table(
        alike(rows("mixed"), "network", "share", "way"),
        {
            "network": shared(named),
            "asked": shared(lambda r: f"{100 * r['share']:g} %"),
            "how": shared(value("way")),
            "seeds": seeds,
            "effective MACs, %": spread("effective_macs", 1, times=100),
            "MACs, %": spread("macs", 1, times=100),
            "nonzero, %": spread("nonzero", 1, times=100),
            "top-1": spread("top1"),
            "CPU-s": most("cpu_seconds", "{:.0f}"),
        },
    )

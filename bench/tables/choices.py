"""What do zeros, whole blocks and widths cost in accuracy, each alone and together?"""

from __future__ import annotations

from collections import Counter

from tables.markdown import average, interval, mean, most, seeds, shared, spread, table, value
from tables.names import named, short
from tables.rows import Row, Rows, alike, rows

WHAT_GOES = {
    "inner+residual": "widths",
    "depth": "whole branches",
    "inner+residual+depth": "both in one call",
}


def sparsity_table() -> str:
    """Accuracy with zeros, by choice and share."""
    found = rows("sparsity-resnet20")
    keys = ("pattern", "importance", "allocation", "repair", "samples", "tune_steps", "sparsity")
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
    if row["repair"] == "tune":
        return f"tuned, {row['tune_steps']:,} steps"
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


def joint_table() -> str:
    """Integer networks of the same bytes: channels, zeros and bits, alone and together."""
    found = rows("joint")
    drawn = table(
        alike([row for row in found if "infeasible" not in row], "network", "share", "way"),
        {
            "network": shared(named),
            "bytes asked": shared(lambda r: f"{100 * r['share']:g} %"),
            "what gives way": shared(value("way")),
            "seeds": seeds,
            "bytes, %": spread("share_of_floats", 1, times=100),
            "weights": mean("weights_left", "{:,.0f}"),
            "nonzero": mean("nonzero", "{:,.0f}"),
            "layers of bits": shared(_layers_of_bits),
            "floats": mean("dense"),
            "top-1": spread("top1"),
            "CPU-s": most("cpu_seconds", "{:.0f}"),
        },
    )
    return f"{drawn}\n\n{_not_so_small([row for row in found if 'infeasible' in row])}".strip()


def _not_so_small(missing: Rows) -> str:
    """The ways that do not get down to some number of bytes, in words."""
    ways: dict[str, list[str]] = {}
    for row in missing:
        ways.setdefault(f"{named(row)}, {100 * row['share']:g} %", []).append(row["way"])
    told = "; ".join(f"{what}: {', '.join(some)}" for what, some in sorted(ways.items()))
    return f"Infeasible, since nothing else may give way: {told}." if told else ""


def _layers_of_bits(row: Row) -> str:
    counts = Counter(row["layer_bits"].values())
    return ", ".join(f"{count} of {bits}" for bits, count in sorted(counts.items()))


def composition_table() -> str:
    """Every order of the steps, and what each keeps."""
    found = rows("composition")
    ran = [row for row in found if "refused" not in row]
    drawn = table(
        sorted(ran, key=lambda r: (r["network"], len(r["steps"]))),
        {
            "network": short,
            "steps, in turn": _chain,
            "top-1": value("top1", "{:.2f}"),
            "difference": lambda r: interval(r["difference_points"]),
            "zeros": value("zeros", "{:.1%}"),
            "zeros kept": value("zeros_kept", "{:.1%}"),
            "MACs, before → after": _macs_kept,
            "saved, kB": lambda r: f"{r['stored_bytes'] / 1024:.1f}",
            "loaded again, within": value("loaded_difference", "{:.0e}"),
            "CPU-s": value("cpu_seconds", "{:.1f}"),
        },
    )
    return f"{drawn}\n\n{_refusals([row for row in found if 'refused' in row])}".strip()


def _chain(row: Row) -> str:
    return " → ".join(row["steps"])


def _macs_kept(row: Row) -> str:
    return f"{100 * row['macs_before']:.1f} % → {100 * row['macs']:.1f} %"


def _refusals(refused: Rows) -> str:
    told = dict.fromkeys(f'{_chain(row)}: "{row["refused"]}"' for row in refused)
    return f"Refused, since it means nothing: {'; '.join(told)}." if told else ""

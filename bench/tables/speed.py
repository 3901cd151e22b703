"""Do fewer MACs mean fewer milliseconds?"""

from __future__ import annotations

from tables.markdown import change, table, value
from tables.names import short
from tables.rows import rows


def speed_table() -> str:
    """Fewer MACs against fewer milliseconds."""
    return table(
        rows("speed"),
        {
            "network": short,
            "scope": value("scope"),
            "fewer MACs": value("measured_fewer_macs", "{:.2f}x"),
            "top-1": lambda r: f"{r['pruned']:.2f} ({r['pruned'] - r['dense']:+.2f})",
            "ms, median": change("median_ms_dense", "median_ms"),
            "faster": value("times_faster", "{:.2f}x"),
            "per 2.0x MACs": value("times_faster_per_2x_macs", "{:.2f}x"),
            "n": value("n"),
        },
    )


def families_table() -> str:
    """Latency of one network of each family, before and after."""
    return table(
        rows("speed_families"),
        {
            "network": value("network"),
            "fewer MACs": value("fewer_macs", "{:.2f}x"),
            "fewer parameters": value("fewer_params", "{:.2f}x"),
            "ms, median": change("median_ms_dense", "median_ms"),
            "faster": value("times_faster", "{:.2f}x"),
            "n": value("n"),
        },
    )

"""What does compiling cost, in seconds and in bytes?"""

from __future__ import annotations

from tables.markdown import table, value
from tables.names import without_metric
from tables.rows import Row, rows


def compiling_tables() -> str:
    """Seconds of compiling by the number of layers, and sizes by the share of zeros."""
    return f"{_growth()}\n\nSizes in bytes.\n\n{_sizes()}"


def _growth() -> str:
    return table(
        sorted(
            (r for r in rows("compiling") if r["part"] == "growth"),
            key=lambda r: (r["kind"], r["form"], r["layers"]),
        ),
        {
            "network": value("kind"),
            "form and target": lambda r: f"{r['form']}, {'host' if r['form'] == 'fp32' else 'M4'}",
            "layers": value("layers"),
            "capture, s": value("capture_seconds", "{:.2f}"),
            "quantize, s": lambda r: f"{r['quantize_seconds']:.2f}" if r["form"] == "int8" else "-",
            "write C, s": value("write_seconds", "{:.2f}"),
            "C compiler, s": value("build_seconds", "{:.2f}"),
            "ms per layer": _milliseconds_per_layer,
            "n": value("n"),
        },
    )


def _milliseconds_per_layer(row: Row) -> str:
    return f"{1000 * (row['write_seconds'] + row['build_seconds']) / row['layers']:.0f}"


def _sizes() -> str:
    return table(
        sorted(
            (r for r in rows("compiling") if r["part"] == "size"),
            key=lambda r: (r["network"], r["target"], r["aim"], r["sparsity"]),
        ),
        {
            "network": without_metric,
            "form and target": lambda r: {"cortex-m4": "int8, M4"}.get(r["target"], "fp32, host"),
            "optimize": value("aim"),
            "zeros": value("sparsity", "{:.0%}"),
            "code": value("code_bytes", "{:,}"),
            "constants": value("constant_bytes", "{:,}"),
            "arena": value("arena_bytes", "{:,}"),
            "stack": value("stack_bytes", "{:,}"),
        },
    )

"""What do networks need on microcontrollers?"""

from __future__ import annotations

from collections.abc import Callable

from penjing.codegen.cycles import estimate_cycles
from tables.markdown import table, value
from tables.names import without_metric
from tables.rows import Row, rows

FITTED_ON = ("ic", "kws", "ad")


def microcontrollers_table() -> str:
    """Flash, RAM and instructions of int8 networks on emulated cores."""
    drawn = table(
        sorted(
            rows("microcontrollers"),
            key=lambda r: (r["network"], -len(r["form"]), r["form"], len(r["core"]), r["core"]),
        ),
        {
            "network": without_metric,
            "form": _form,
            "core": _core,
            "code": value("code_bytes", "{:,}"),
            "constants": value("constant_bytes", "{:,}"),
            "flash": value("flash_bytes", "{:,}"),
            ".tflite": value("tflite_bytes", "{:,}"),
            "arena": value("arena_bytes", "{:,}"),
            "TFLM's arena": value("tflm_arena_bytes", "{:,}"),
            "million instructions": lambda r: f"{r['instructions'] / 1e6:.2f}",
            "per MAC": value("instructions_per_mac", "{:.2f}"),
            "million cycles, estimated": _cycles,
            "top-1 or AUC, %": lambda r: f"{100 * r['quality']:.1f}",
        },
    )
    return f"Sizes in bytes.\n\n{drawn}"


def float_boards_table() -> str:
    """Flash, RAM and instructions of float networks, dense and sparse, on emulated cores."""
    found = rows("float_boards")
    dense = {(r["network"], r["core"]): r["instructions"] for r in found if not r["sparsity"]}
    drawn = table(
        sorted(found, key=lambda r: (r["network"], len(r["core"]), r["core"], r["sparsity"])),
        {
            "network": without_metric,
            "zeros": value("sparsity", "{:.0%}"),
            "core": _core,
            "code": value("code_bytes", "{:,}"),
            "constants": value("constant_bytes", "{:,}"),
            "flash": value("flash_bytes", "{:,}"),
            "arena": value("arena_bytes", "{:,}"),
            "million instructions": lambda r: f"{r['instructions'] / 1e6:.2f}",
            "per dense MAC": value("instructions_per_mac", "{:.2f}"),
            "fewer than dense": lambda r: (
                f"{dense[r['network'], r['core']] / r['instructions']:.1f}x"
            ),
        },
    )
    return f"Sizes in bytes.\n\n{drawn}"


def _core(row: Row) -> str:
    return str(row["core"]).removeprefix("cortex-").upper()


def _form(row: Row) -> str:
    if row["form"] == "sparse":
        return f"sparse, {row['sparsity']:.0%} zeros"
    if row["form"] == "pruned":
        return f"pruned, {row['fewer_macs']:.2f}x fewer MACs"
    if row["form"] == "dense16":
        return "dense, 16-bit activations"
    return "file" if row["form"] == "tflite" else "dense"


def _cycles(row: Row) -> str:
    """The estimate and its interval, where there is one and no kernel leaves zeros out."""
    found = estimate_cycles(row["core"], row["instructions"])
    if found is None or row["sparse_layers"] or row["form"] == "dense16":
        return "-"
    cycles, low, high = (f"{n / 1e6:.2g}" for n in (found.cycles, found.low, found.high))
    return f"{cycles} ({low} to {high})"


def cycles_tables() -> str:
    """Published cycles per instruction of ours, and the factors fitted on them."""
    kinds = {"submission": "per_instruction", "pair": "of_m4"}  # and where its ratios stand
    found = rows("cycles")
    published = table(
        [{**r, "ratio": r[key]} for kind, key in kinds.items() for r in found if r["kind"] == kind],
        {
            "submission": lambda r: f"[{r['runtime']}]({r['source']})",
            "round and board": lambda r: f"{r['round']}, {r['board']}, {r['mhz']} MHz",
            **{f"{n}, million cycles": _of_network("cycles", n, 1e-6) for n in FITTED_ON},
            **{f"{n}, ratio": _of_network("ratio", n) for n in FITTED_ON},
        },
    )
    fitted = table(
        [r for r in found if r["kind"] == "fit"],
        {
            "core": _core,
            "cycles per instruction": value("factor", "{:.2f}"),
            "interval": lambda r: f"{r['low']:.2f} to {r['high']:.2f}",
            **{f"off when {n} is left out": _left_out(n) for n in FITTED_ON},
        },
    )
    return f"{published}\n\n{fitted}"


def _of_network(key: str, network: str, times: float = 1) -> Callable[[Row], str]:
    return lambda row: f"{row[key][network] * times:.2f}"


def _left_out(network: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        low, high = row["left_out"][network]
        return f"{low - 1:+.0%} to {high - 1:+.0%}"

    return cell

"""What do the committed results say? Writes them into docs/benchmarks.md and docs/assets.

    python bench/page.py

Every table of the page stands between two marks and is made from bench/results/*.json alone.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from penjing.codegen.cycles import estimate_cycles
from penjing.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "assets" / "repair.svg"
Row = dict[str, Any]
ZEROS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LABEL_ROOM = 40  # pixels between two labels of one curve

NAMES = {
    "resnet20": "ResNet-20, CIFAR-10",
    "resnet56": "ResNet-56, CIFAR-10",
    "ic": "MLPerf Tiny ResNet-8, CIFAR-10",
    "vww": "MLPerf Tiny MobileNetV1-0.25, visual wake words",
    "kws": "MLPerf Tiny DS-CNN, keywords",
    "ad": "MLPerf Tiny autoencoder, machine sounds (AUC)",
}
SCHOOLED = {"digits": "GRU, spoken digits, speakers held out", "text": "text encoder, SST-2"}
TRANSFORMERS = {"vit": "vision transformer, CIFAR-10", "text": "text encoder, SST-2"}
BARS = {"ic": 85.0, "vww": 80.0, "kws": 90.0, "ad": 85.0}


def rows(name: str) -> list[Row]:
    """Rows of one results file; none when it is not there."""
    path = ROOT / "bench" / "results" / f"{name}.json"
    found: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    return found


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in body)])


def listed(found: Iterable[Row], columns: dict[str, Callable[[Row], str]]) -> str:
    """A table of one line per row."""
    return table(tuple(columns), [[cell(row) for cell in columns.values()] for row in found])


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and range."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def grouped(found: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some fields, in order."""
    out: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in found:
        out[tuple(row[k] for k in keys)].append(row)
    return dict(sorted(out.items(), key=lambda item: str(item[0])))


def is_default(row: Row) -> bool:
    """Whether a row is of penjing's own choices."""
    return (row["importance"], row["allocation"], row["repair"]) == ("obs", "dp", "least_squares")


def repair_tables() -> str:
    """One table per network: accuracy right after pruning."""
    parts = []
    for name, title in NAMES.items():
        found = [r for r in rows(f"repair-{name}") if is_default(r)]
        if not found:
            continue
        tuned = [r for r in rows(f"repair-{name}") if r["repair"] == "tune"]
        cells = grouped([*found, *tuned], "scope", "fewer_macs", "repair")
        body = [_repair_row(same) for same in cells.values()]
        first = found[0]
        bar = f" Quality bar of the benchmark: {BARS[name]:.0f}." if name in BARS else ""
        parts.append(
            f"**{title}**, dense {first['dense']:.2f}; {first['split']}; "
            f"{first['samples']} calibration samples.{bar}\n\n"
            + table(
                (
                    "fewer MACs",
                    "fewer parameters",
                    "scope",
                    "repair",
                    "seeds",
                    f"{first['metric']} right after",
                    "difference, 95 % interval (worst seed)",
                    "CPU-s",
                ),
                body,
            )
            + _cleared(name, found)
        )
    return "\n\n".join(parts)


def _cleared(name: str, found: list[Row]) -> str:
    """The most MACs saved with the whole 95 % interval of the worst seed above the quality bar."""
    if name not in BARS or found[0]["metric"] != "top-1":
        return ""
    passing = []
    for (factor,), same in grouped(found, "fewer_macs").items():
        worst = min(r["pruned"] for r in same)
        half = 1.96 * math.sqrt(max(worst * (100 - worst), 0) / same[0]["test_samples"])
        if worst - half >= BARS[name]:
            passing.append(factor)
    if not passing:
        return "\n\nThe 95 % interval lies above the bar at none of these."
    most = max(passing)
    return f"\n\nThe 95 % interval of the worst seed lies above the bar up to {most}x fewer MACs."


def _repair_row(same: list[Row]) -> list[str]:
    worst = min(same, key=lambda r: r["pruned"])
    change = worst.get("difference_points")
    return [
        f"{statistics.fmean(r['measured_fewer_macs'] for r in same):.2f}x",
        f"{statistics.fmean(r['fewer_params'] for r in same):.2f}x",
        worst["scope"],
        f"tuned, {worst['tune_steps']} steps" if worst["repair"] == "tune" else "least squares",
        str(len(same)),
        spread([r["pruned"] for r in same]),
        f"{change['mean']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]" if change else "-",
        f"{max(r['cpu_seconds'] for r in same):.0f}",
    ]


def criteria_table() -> str:
    """Every criterion beside random, with and without repair."""
    found = [r for r in rows("repair-resnet20") if r["fewer_macs"] == 2.0 and r["scope"] == "inner"]
    cells = grouped(found, "importance", "allocation", "repair")
    body = []
    for importance in ("random", "l1", "l2", "taylor", "obs"):
        line = [importance]
        for allocation in ("uniform", "dp"):
            for repair in (None, "least_squares"):
                same = cells.get((importance, allocation, repair), [])
                line.append(spread([r["pruned"] for r in same], 1) if same else "-")
        if any(cell != "-" for cell in line[1:]):
            body.append(line)
    header = ("importance", "uniform", "uniform, repaired", "solver", "solver, repaired")
    return table(header, body)


def attention_table() -> str:
    """Transformers right after a cut, and after distillation, beside random without repair."""
    body = []
    found = grouped(
        rows("attention"), "network", "fewer_macs", "importance", "distilled_epochs", "dense"
    )
    for (name, factor, importance, epochs, dense), same in sorted(found.items(), key=str):
        how = "random, no repair" if importance == "random" else "judged and repaired"
        epoch = "epoch" if epochs == 1 else "epochs"
        worst = min(same, key=lambda r: r["difference_points"]["mean"])["difference_points"]
        body.append([
            TRANSFORMERS[name],
            f"{factor:g}x",
            f"{how}, {epochs} {epoch} of distillation" if epochs else how,
            str(len(same)),
            f"{dense:.2f}",
            spread([r["pruned"] for r in same]),
            f"{worst['mean']:+.2f} [{worst['low']:+.2f}, {worst['high']:+.2f}]",
            spread([r["retained"] for r in same]),
            f"{statistics.fmean(r['cpu_seconds'] for r in same):.0f}",
        ])  # fmt: skip
    header = (
        "network", "fewer MACs", "how", "seeds", "dense", "accuracy",
        "difference, 95 % interval (worst seed)", "retained", "CPU-s",
    )  # fmt: skip
    return table(header, body)


def sparsity_table() -> str:
    """Accuracy with zeros, by choice and share."""
    found = rows("sparsity-resnet20")
    keys = ("pattern", "importance", "allocation", "repair", "samples", "sparsity")
    body = [
        [
            same[0]["pattern"],
            f"{same[0]['importance']}, {same[0]['allocation']}",
            {"auto": "least squares", None: "off"}.get(same[0]["repair"], same[0]["repair"]),
            f"{same[0]['samples']:,}",
            f"{100 * statistics.fmean(r['measured_sparsity'] for r in same):.0f} %",
            str(len(same)),
            spread([r["sparse"] for r in same]),
            f"{max(r['cpu_seconds'] for r in same):.0f}",
        ]
        for same in grouped(found, *keys).values()
    ]
    header = ("pattern", "choice", "repair", "images", "zeros", "seeds", "top-1", "CPU-s")
    dense = f"ResNet-20, CIFAR-10, dense {found[0]['dense']:.2f}.\n\n" if found else ""
    return dense + table(header, body)


def quantization_table() -> str:
    """Integers after training: accuracy, bytes and latency."""
    keys = ("network", "fewer_macs", "observer", "rounding")
    body = [
        [
            NAMES[same[0]["network"]].partition(",")[0],
            "no" if same[0]["fewer_macs"] == 1 else f"{same[0]['fewer_macs']:g}x fewer MACs",
            f"{same[0]['observer']}, {same[0]['rounding']}",
            str(len(same)),
            f"{statistics.fmean(r['floats'] for r in same):.2f}",
            spread([r["integers"] for r in same]),
            f"{statistics.fmean(r['points_lost'] for r in same):+.2f}",
            f"{same[0]['reference_integers'] or '-'}",
            f"{min(r['times_smaller'] for r in same):.2f}x",
            f"{min(r['onnx_times_smaller'] for r in same):.2f}x",
            f"{statistics.median(r['floats_ms'] for r in same):.3f} → "
            f"{statistics.median(r['integers_ms'] for r in same):.3f}",
            f"{statistics.median(r['times_faster'] for r in same):.2f}x",
        ]
        for same in grouped(rows("quantization"), *keys).values()
    ]
    header = (
        *("network", "pruned", "choice", "seeds", "floats", "integers", "points lost"),
        *("reference int8", "smaller", "ONNX smaller", "ms, median", "faster"),
    )
    return table(header, body)


def bits_table() -> str:
    """Weights of fewer bits: all alike, mixed, and trained."""
    body = [
        [
            NAMES[same[0]["network"]].partition(",")[0],
            str(same[0]["bits"]),
            same[0]["method"],
            str(len(same)),
            f"{statistics.fmean(r['floats'] for r in same):.2f}",
            spread([r["integers"] for r in same]),
            f"{min(r['times_smaller'] for r in same):.2f}x",
            f"{statistics.median(r['cpu_seconds'] for r in same):.0f}",
        ]
        for same in grouped(rows("bits"), "network", "bits", "method").values()
    ]
    header = ("network", "bits", "method", "seeds", "floats", "integers", "smaller", "CPU-s")
    return table(header, body)


def recurrent_table() -> str:
    """A GRU in integers: accuracy, bytes and milliseconds."""
    body = [
        [
            SCHOOLED[same[0]["network"]],
            str(len(same)),
            f"{statistics.fmean(r['floats'] for r in same):.1f}",
            spread([r["matrices"] for r in same], 1),
            spread([r["integers"] for r in same], 1),
            f"{same[0]['floats_flash_bytes']:,} → {same[0]['flash_bytes']:,}",
            f"{same[0]['floats_arena_bytes']:,} → {same[0]['arena_bytes']:,}",
            f"{statistics.median(r['floats_ms'] for r in same):.3f} → "
            f"{statistics.median(r['integers_ms'] for r in same):.3f}",
        ]
        for same in grouped(rows("recurrent"), "network").values()
    ]
    header = (
        *("network", "seeds", "floats", "int8 matrices, ONNX", "integers, C"),
        *("flash bytes", "arena bytes", "ms, median"),
    )
    return table(header, body) if body else "No rows yet."


def bits_picture(found: list[Row]) -> str:
    """Accuracy against the bytes of weights, biases and scales, of one network; floats are marked.

    Args:
        found: Rows of one network.

    Returns:
        SVG text.
    """
    methods = grouped(found, "method")
    most = 1.05 * max(r["stored_bytes"] for r in found)
    floats, least = found[0]["floats"], 10 * (min(r["integers"] for r in found) // 10)

    def x(size: float) -> float:
        return 60 + 440 * size / most

    def y(value: float) -> float:
        return 350 - 310 * (value - least) / (100 - least)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 410" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{NAMES[found[0]['network']]}: accuracy against bytes</title>",
        '<rect width="720" height="410" rx="8" fill="#fbfaf7"/>',
        f'<line x1="60" x2="500" y1="{y(floats):.1f}" y2="{y(floats):.1f}" stroke="#22301f" '
        'stroke-dasharray="5 4"/>',
        f'<text x="505" y="{y(floats) + 4:.1f}" fill="#22301f">floats</text>',
        '<text x="280" y="394" text-anchor="middle" fill="#555">kilobytes of weights, biases and '
        "scales</text>",
    ]
    for value in range(int(least), 101, 10):
        parts.append(
            f'<line x1="60" x2="500" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd9cf"/>'
            f'<text x="54" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value} %</text>'
        )
    for part in range(5):
        size = part * most / 4
        parts.append(
            f'<text x="{x(size):.1f}" y="370" text-anchor="middle" fill="#555">'
            f"{size / 1000:.0f}</text>"
        )
    for number, ((method,), same) in enumerate(methods.items()):
        colour = f"hsl({number * 360 // len(methods)} 55% 38%)"
        for (bits,), points in grouped(same, "bits").items():
            size = statistics.fmean(r["stored_bytes"] for r in points)
            place = x(size), y(statistics.fmean(r["integers"] for r in points))
            parts.append(
                f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="4" fill="{colour}"/>'
                f'<text x="{place[0] + 6:.1f}" y="{place[1] + 14:.1f}" fill="{colour}">'
                f"{bits}</text>"
            )
        parts.append(
            f'<circle cx="545" cy="{100 + 24 * number}" r="4" fill="{colour}"/>'
            f'<text x="557" y="{104 + 24 * number}" fill="#22301f">{method}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def speed_table() -> str:
    """Fewer MACs against fewer milliseconds."""
    body = [
        [
            NAMES[r["network"]].partition(",")[0],
            r["scope"],
            f"{r['measured_fewer_macs']:.2f}x",
            f"{r['pruned']:.2f} ({r['pruned'] - r['dense']:+.2f})",
            f"{r['median_ms_dense']:.3f} → {r['median_ms']:.3f}",
            f"{r['times_faster']:.2f}x",
            f"{r['times_faster_per_2x_macs']:.2f}x",
            str(r["n"]),
        ]
        for r in rows("speed")
    ]
    header = (
        "network",
        "scope",
        "fewer MACs",
        "top-1",
        "ms, median",
        "faster",
        "per 2.0x MACs",
        "n",
    )
    return table(header, body)


def coverage_table() -> str:
    """How many networks are cut right, beside the peer."""
    counts: dict[str, dict[str, int]] = {
        "penjing": defaultdict(int),
        "torch_pruning": defaultdict(int),
    }
    found = rows("coverage")
    for row in found:
        for peer, tally in counts.items():
            tally[row[peer]["verdict"]] += 1
    verdicts = sorted({v for tally in counts.values() for v in tally})
    body = [[v, *(str(counts[p].get(v, 0)) for p in counts)] for v in verdicts]
    return f"{len(found)} networks.\n\n" + table(
        ("verdict", "penjing", "Torch-Pruning 1.6.1"), body
    )


def families_table() -> str:
    """Latency of one network of each family, before and after."""
    body = [
        [
            r["network"],
            f"{r['fewer_macs']:.2f}x",
            f"{r['fewer_params']:.2f}x",
            f"{r['median_ms_dense']:.3f} → {r['median_ms']:.3f}",
            f"{r['times_faster']:.2f}x",
            str(r["n"]),
        ]
        for r in rows("speed_families")
    ]
    return table(("network", "fewer MACs", "fewer parameters", "ms, median", "faster", "n"), body)


def growth_table() -> str:
    """Milliseconds of analysis by depth, minimum and median."""

    def both(row: dict[str, Any], tool: str) -> str:
        least, median = row[f"{tool}_min_seconds"], row[f"{tool}_seconds"]
        return "-" if median is None else f"{1000 * least:.1f} / {1000 * median:.1f}"

    body = [
        [
            r["kind"],
            str(r["layers"]),
            f"{r['export_seconds']:.1f}",
            *(both(r, tool) for tool in ("penjing", "torch_pruning", "torch_pruning_with_groups")),
            str(r["n"]),
        ]
        for r in sorted(rows("growth"), key=lambda r: (r["kind"], r["layers"]))
    ]
    header = (
        "kind",
        "layers",
        "export, s",
        "penjing, ms",
        "Torch-Pruning graph, ms",
        "with its groups, ms",
        "n",
    )
    return table(header, body)


def random_networks_table() -> str:
    """Random networks, and the invariants that failed."""
    found = rows("random_networks")
    networks, silent = (sum(r[key] for r in found) for key in ("n", "silent"))
    failed = sum(len(r["failures"]) for r in found)
    mean = sum(r["mean_reachable"] * r["n"] for r in found) / networks
    body = [
        ["networks", str(networks)],
        ["groups", str(sum(r["groups"] for r in found))],
        ["mean share of parameters within reach", f"{mean:.1%}"],
        ["plan moved no output, nothing to prove", str(silent)],
        ["an invariant failed", str(failed)],
    ]
    return table(("", "count"), body)


def memory_table() -> str:
    """Peak memory of pruning with repair."""
    body = [
        [
            r["network"],
            str(r["images"]),
            r["importance"],
            f"{r['peak_above_mb']:.0f}",
            f"{r['images_mb']:.0f}",
            f"{r['cpu_seconds']:.0f}",
        ]
        for r in rows("memory")
    ]
    return table(
        ("network", "images", "importance", "peak above start, MiB", "images, MiB", "CPU-s"), body
    )


def microcontrollers_table() -> str:
    """Flash, RAM and instructions of int8 networks on emulated cores."""
    body = [
        [
            NAMES[r["network"]].removesuffix(" (AUC)"),
            _form(r),
            r["core"].removeprefix("cortex-").upper(),
            f"{r['code_bytes']:,}",
            f"{r['constant_bytes']:,}",
            f"{r['flash_bytes']:,}",
            f"{r['tflite_bytes']:,}",
            f"{r['arena_bytes']:,}",
            "-" if r["tflm_arena_bytes"] is None else f"{r['tflm_arena_bytes']:,}",
            f"{r['instructions'] / 1e6:.2f}",
            f"{r['instructions_per_mac']:.2f}",
            _cycles(r),
            f"{100 * r['quality']:.1f}",
        ]
        for r in sorted(
            rows("microcontrollers"),
            key=lambda r: (r["network"], -len(r["form"]), r["form"], len(r["core"]), r["core"]),
        )
    ]
    header = (
        "network", "form", "core", "code", "constants", "flash", ".tflite", "arena",
        "TFLM's arena", "million instructions", "per MAC", "million cycles, estimated",
        "top-1 or AUC, %",
    )  # fmt: skip
    return "Sizes in bytes.\n\n" + table(header, body)


def _cycles(row: Row) -> str:
    """The estimate and its interval, where there is one and no kernel leaves zeros out."""
    found = estimate_cycles(row["core"], row["instructions"])
    if found is None or row["sparse_layers"]:
        return "-"
    cycles, low, high = (f"{n / 1e6:.2g}" for n in (found.cycles, found.low, found.high))
    return f"{cycles} ({low} to {high})"


def _form(row: Row) -> str:
    if row["form"] == "sparse":
        return f"sparse, {row['sparsity']:.0%} zeros"
    if row["form"] == "pruned":
        return f"pruned, {row['fewer_macs']:.2f}x fewer MACs"
    return "file" if row["form"] == "tflite" else "dense"


def cycles_table() -> str:
    """Published cycles per instruction of ours, and the factors fitted on them."""
    found = rows("cycles")
    used = ("ic", "kws", "ad")
    body = [
        [
            f"[{r['runtime']}]({r['source']})",
            f"{r['round']}, {r['board']}, {r['mhz']} MHz",
            *(f"{r['cycles'][n] / 1e6:.2f}" for n in used),
            *(f"{r[key][n]:.2f}" for n in used),
        ]
        for kind, key in (("submission", "per_instruction"), ("pair", "of_m4"))
        for r in found
        if r["kind"] == kind
    ]
    header = ["submission", "round and board", *(f"{n}, million cycles" for n in used)]
    fits = [
        [
            r["core"].removeprefix("cortex-").upper(),
            f"{r['factor']:.2f}",
            f"{r['low']:.2f} to {r['high']:.2f}",
            *(f"{low - 1:+.0%} to {high - 1:+.0%}" for low, high in r["left_out"].values()),
        ]
        for r in found
        if r["kind"] == "fit"
    ]
    missed = (f"off when {n} is left out" for n in used)
    fitted = ("core", "cycles per instruction", "interval", *missed)
    return table([*header, *(f"{n}, ratio" for n in used)], body) + "\n\n" + table(fitted, fits)


def compiling_tables() -> str:
    """Seconds of compiling by the number of layers, and sizes by the share of zeros."""
    found = rows("compiling")
    growth = [
        [
            r["kind"], f"{r['form']}, {'host' if r['form'] == 'fp32' else 'M4'}", str(r["layers"]),
            f"{r['capture_seconds']:.2f}",
            f"{r['quantize_seconds']:.2f}" if r["form"] == "int8" else "-",
            f"{r['write_seconds']:.2f}", f"{r['build_seconds']:.2f}",
            f"{1000 * (r['write_seconds'] + r['build_seconds']) / r['layers']:.0f}",
            str(r["n"]),
        ]
        for r in sorted(
            (r for r in found if r["part"] == "growth"),
            key=lambda r: (r["kind"], r["form"], r["layers"]),
        )
    ]  # fmt: skip
    sizes = [
        [
            NAMES[r["network"]].removesuffix(" (AUC)"),
            "int8, M4" if r["target"] == "cortex-m4" else "fp32, host", r["aim"],
            f"{r['sparsity']:.0%}", f"{r['code_bytes']:,}", f"{r['constant_bytes']:,}",
            f"{r['arena_bytes']:,}",
            "-" if r["stack_bytes"] is None else f"{r['stack_bytes']:,}",
        ]
        for r in sorted(
            (r for r in found if r["part"] == "size"),
            key=lambda r: (r["network"], r["target"], r["aim"], r["sparsity"]),
        )
    ]  # fmt: skip
    grown = (
        "network", "form and target", "layers", "capture, s", "quantize, s", "write C, s",
        "C compiler, s", "ms per layer", "n",
    )  # fmt: skip
    sized = (
        "network",
        "form and target",
        "optimize",
        "zeros",
        "code",
        "constants",
        "arena",
        "stack",
    )
    return table(grown, growth) + "\n\nSizes in bytes.\n\n" + table(sized, sizes)


def integers_table() -> str:
    """Latency of int8 programs on the host beside ONNX Runtime."""
    body = [
        [
            r["network"],
            f"{r['sparsity']:.0%}",
            f"{r['penjing_int8_median_ms']:.3f}",
            f"{r['onnxruntime_int8_median_ms']:.3f}",
            f"{r['onnxruntime_median_ms']:.3f}",
            f"{r['times_faster_than_int8']:.2f}x",
            f"{r['times_faster_than_fp32']:.2f}x",
            str(r["n"]),
        ]
        for r in rows("integers")
    ]
    header = (
        "network", "zeros", "penjing int8, ms", "ONNX Runtime int8, ms", "its fp32, ms",
        "against int8", "against fp32", "n",
    )  # fmt: skip
    return "Medians; batch 1, one thread, in turn in one process.\n\n" + table(header, body)


def picture() -> str:
    """Accuracy against MACs of ResNet-56: after repair, and by magnitude without."""
    found = rows("repair-resnet56")
    default = [r for r in found if is_default(r) and r["scope"] == "inner"]
    bare = [r for r in found if r["repair"] is None and r["importance"] == "l1"]
    lines = {
        "penjing: repaired, no labels, gradients or training": _curve(default),
        "the same MACs by L1 magnitude, not repaired": _curve(bare),
    }
    return _draw(lines, default[0]["dense"] if default else 100.0)


def _curve(found: list[Row]) -> list[tuple[float, float]]:
    cells = grouped(found, "fewer_macs")
    points = [
        (
            statistics.fmean(r["measured_fewer_macs"] for r in same),
            statistics.fmean(r["pruned"] for r in same),
        )
        for same in cells.values()
    ]
    return sorted(points)


def _draw(lines: dict[str, list[tuple[float, float]]], dense: float) -> str:
    """A line chart, 720 x 400, that reads on light and on dark pages."""
    colours = ("#2e7d4f", "#b5651d")

    def x(value: float) -> float:
        return 70 + (value - 1) / 3.2 * 620

    def y(value: float) -> float:
        return 340 - value / 100 * 290

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 400" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>ResNet-56 on CIFAR-10: top-1 accuracy against the factor of fewer MACs</title>",
        '<rect width="720" height="400" rx="8" fill="#fbfaf7"/>',
        '<text x="20" y="28" font-size="15" font-weight="600" fill="#22301f">'
        "ResNet-56 on CIFAR-10, right after the cut</text>",
    ]
    for value in (0, 25, 50, 75, 100):
        parts.append(
            f'<line x1="70" x2="690" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd9cf"/>'
            f'<text x="60" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value} %</text>'
        )
    for value in (1, 1.5, 2, 2.5, 3, 3.5, 4):
        parts.append(
            f'<text x="{x(value):.1f}" y="360" text-anchor="middle" fill="#555">{value:g}x</text>'
        )
    parts.append(
        '<text x="380" y="384" text-anchor="middle" fill="#555">fewer multiply-accumulates</text>'
    )
    for number, (label, points) in enumerate(lines.items()):
        path = [(1.0, dense), *points]
        for (xa, ya), (xb, yb) in pairwise(path):
            parts.append(
                f'<line x1="{x(xa):.1f}" y1="{y(ya):.1f}" x2="{x(xb):.1f}" y2="{y(yb):.1f}" '
                f'stroke="{colours[number]}" stroke-width="2.5"/>'
            )
        written = -LABEL_ROOM
        for xa, ya in points:
            above = -10 if number == 0 else 18
            parts.append(
                f'<circle cx="{x(xa):.1f}" cy="{y(ya):.1f}" r="4" fill="{colours[number]}"/>'
            )
            if x(xa) - written >= LABEL_ROOM:
                written = x(xa)
                parts.append(
                    f'<text x="{x(xa):.1f}" y="{y(ya) + above:.1f}" text-anchor="middle" '
                    f'fill="{colours[number]}">{ya:.1f}</text>'
                )
        place = 150 + 26 * number
        parts.append(
            f'<circle cx="322" cy="{place}" r="4" fill="{colours[number]}"/>'
            f'<text x="334" y="{place + 4}" fill="#22301f">{label}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def zeros_table() -> str:
    """Speed of compiled sparse networks against ONNX Runtime's dense code."""
    body = [
        [
            str(network), str(batch), str(threads),
            *(_zeros_cell([r for r in same if r["sparsity"] == s]) for s in ZEROS),
        ]
        for (network, batch, threads), same in grouped(
            rows("zeros"), "network", "batch", "threads"
        ).items()
    ]  # fmt: skip
    if not body:
        return "No rows yet."
    header = ["network", "batch", "threads", *(f"{100 * s:g} % zeros" for s in ZEROS)]
    return table(header, body)


def _zeros_cell(found: list[Row]) -> str:
    return f"{found[-1]['times_faster']:.2f}" if found else ""


def patterns_table() -> str:
    """Microseconds of single layers by pattern and kind of kernel."""
    body = []
    for row in rows("patterns"):
        times = row["microseconds"]
        dense = times.get("dense_conv", times.get("dense_linear"))
        element = min(
            v for k, v in times.items() if k in {"sparse_conv", "window_linear", "column_linear"}
        )
        best = min(times, key=times.__getitem__)
        body.append(
            [
                row["layer"], row["pattern"], f"{row['sparsity']:.0%}", f"{dense:.1f}",
                f"{element:.1f}", f"{times[best]:.1f}", best, f"{dense / times[best]:.2f}",
                f"{row['chosen_over_best']:.2f}",
            ]
        )  # fmt: skip
    header = (
        "layer", "pattern", "zeros", "dense, us", "element, us", "best, us", "best kernel",
        "times dense", "chosen / best",
    )  # fmt: skip
    return table(header, body) if body else "No rows yet."


def peak_table() -> str:
    """Share of the peak per network and kind of kernel."""
    body = []
    for row in rows("peak"):
        counted = [layer for layer in row["layers"] if "share" in layer]
        rest = row["microseconds"] - sum(layer["microseconds"] for layer in counted)
        for (kernel,), same in grouped(counted, "kernel").items():
            time = sum(layer["microseconds"] for layer in same)
            done = sum(layer["operations"] for layer in same) / time / 1e3
            body.append(
                [
                    row["network"], f"{row['sparsity']:.0%}", kernel, str(len(same)),
                    f"{time:.1f}", f"{done:.0f}",
                    f"{done / row['gflops_of_machine']['registers']:.0%}", same[0]["reason"],
                ]
            )  # fmt: skip
        body.append(
            [row["network"], f"{row['sparsity']:.0%}", "others", "", f"{rest:.1f}", *[""] * 3]
        )
    header = (
        "network", "zeros", "kernel", "layers", "us", "GFLOP/s of nonzeros", "of peak", "why",
    )  # fmt: skip
    return table(header, body) if body else "No rows yet."


def zeros_picture() -> str:
    """Times faster against the share of zeros, batch 1, one thread; even is marked."""
    lines = {
        str(network): sorted((r["sparsity"], r["times_faster"]) for r in same)
        for (network,), same in grouped(
            [r for r in rows("zeros") if r["batch"] == r["threads"] == 1], "network"
        ).items()
    }
    top = max(2.0, math.ceil(max(v for points in lines.values() for _, v in points)))

    def x(value: float) -> float:
        return 60 + 440 * value

    def y(value: float) -> float:
        return 350 - 300 * value / top

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 410" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Times faster than ONNX Runtime's dense code against the share of zeros</title>",
        '<rect width="720" height="410" rx="8" fill="#fbfaf7"/>',
        f'<line x1="60" x2="500" y1="{y(1):.1f}" y2="{y(1):.1f}" stroke="#22301f" '
        'stroke-dasharray="5 4"/>',
        f'<text x="54" y="{y(1) + 4:.1f}" text-anchor="end" fill="#22301f">even</text>',
    ]
    for value in range(2, int(top) + 1):
        parts.append(
            f'<line x1="60" x2="500" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd9cf"/>'
            f'<text x="54" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value}x</text>'
        )
    for value in (0, 25, 50, 75, 100):
        parts.append(
            f'<text x="{x(value / 100):.1f}" y="370" text-anchor="middle" fill="#555">'
            f"{value} %</text>"
        )
    parts.append(
        '<text x="280" y="394" text-anchor="middle" fill="#555">weights that are zero</text>'
    )
    for number, (name, points) in enumerate(lines.items()):
        colour = f"hsl({number * 360 // len(lines)} 55% 38%)"
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="525" cy="{60 + 24 * number}" r="4" fill="{colour}"/>'
            f'<text x="537" y="{64 + 24 * number}" fill="#22301f">{name}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def cost_table() -> str:
    """What each criterion costs and what is left, all else equal; the best repaired one first."""
    body = []
    for (criterion,), same in grouped(rows("criteria"), "criterion").items():
        body.append(
            (
                statistics.fmean(r["repaired"] for r in same),
                [
                    str(criterion),
                    str(len(same)),
                    f"{statistics.median(r['cpu_seconds'] for r in same):.2f}",
                    f"{max(r['extra_peak_mb'] for r in same):.0f}",
                    spread([r["cut"] for r in same], 1),
                    spread([r["repaired"] for r in same], 1),
                ],
            )
        )
    if not body:
        return "No rows yet."
    header = ("criterion", "seeds", "CPU-seconds", "MiB more", "top-1 cut, %", "repaired, %")
    return table(header, [line for _, line in sorted(body, reverse=True)])


def leaderboard_table() -> str:
    """One table per board, network, level and minutes; the best on validation first."""
    parts = []
    keys = ("board", "network", "level", "minutes")
    for (board, network, level, minutes), found in grouped(rows("leaderboard"), *keys).items():
        what = level_in_words(board, level)
        body = []
        for (method,), same in grouped(found, "method").items():
            judged = [r["validation"] for r in same]
            late = "" if all(r["in_time"] for r in same) else " (over time)"
            body.append(
                (
                    statistics.fmean(judged),
                    [
                        f"{method}{late}",
                        str(len(same)),
                        spread(judged, 1),
                        spread([r["test"] for r in same], 1),
                        f"{statistics.fmean(r['method_seconds'] for r in same):.0f}",
                    ],
                )
            )
        header = ("method", "seeds", "validation, %", "test, %", "own seconds")
        lines = table(header, [line for _, line in sorted(body, reverse=True)])
        parts.append(f"{({**NAMES, **SCHOOLED})[network]}, {what}, {minutes:g} minutes\n\n{lines}")
    if not parts:
        return "No rows yet."
    drawn = "![Validation accuracy of every method in equal minutes](assets/leaderboard.svg)"
    return "\n\n".join([drawn, *parts])


def level_in_words(board: str, level: float) -> str:
    """What a board asks for."""
    return f"{level:g}x fewer MACs" if board == "units" else f"{100 * level:g} % zeros"


def depth_table() -> str:
    """Whole blocks, widths, or both, at equal MACs."""
    named = {
        "inner+residual": "widths",
        "depth": "whole branches",
        "inner+residual+depth": "both in one call",
    }
    body = [
        [
            NAMES.get(network, network),
            f"{factor:.2f}x",
            named[str(scope)],
            str(len(same)),
            spread([r["measured_fewer_macs"] for r in same]) + "x",
            ", ".join(f"{r['blocks_kept']}/{r['blocks']}" for r in same if r["blocks"]) or "all",
            spread([r["pruned"] for r in same]),
            spread([r["latency_ratio"] for r in same]) + "x",
            f"{max(r['cpu_seconds'] for r in same):.0f}",
        ]
        for (network, factor, scope), same in grouped(
            rows("depth"), "network", "fewer_macs", "scope"
        ).items()
    ]
    header = (
        "network", "asked", "what goes", "seeds", "fewer MACs", "branches left", "top-1",
        "times faster", "CPU-s",
    )  # fmt: skip
    return table(header, body) if body else "No rows yet."


def adaptive_tables() -> str:
    """Early exits, slimmable widths and fewer tokens, as far as there are rows."""
    studies = {"exits": exits_table, "slimmable": slimmable_table, "tokens": tokens_table}
    found = {name: [r for r in rows("adaptive") if r["study"] == name] for name in studies}
    return "\n\n".join(make(found[name]) for name, make in studies.items() if found[name])


def exits_table(found: list[Row]) -> str:
    """Accuracy against the distribution of latency over single samples."""
    return listed(
        found,
        {
            "network with exits": network_name,
            "how": lambda r: f"{r['criterion']}, {'frozen' if r['frozen'] else 'trained'} trunk",
            "may lose": lambda r: f"{100 * r['max_drop']:g} points",
            "accuracy": accuracies,
            "leave at exit 1 / 2 / end": lambda r: " / ".join(f"{s:.0%}" for s in r["taken"]),
            "mean ms": lambda r: latencies(r, "mean"),
            "95th percentile, ms": lambda r: latencies(r, "p95"),
        },
    )


def slimmable_table(found: list[Row]) -> str:
    """One set of weights at several widths."""
    return listed(
        found,
        {
            "slimmable network": network_name,
            "width": lambda r: f"{r['width']:g}",
            "before training": lambda r: f"{r['untrained_accuracy']:.2f}",
            "accuracy": accuracies,
            "million MACs": lambda r: f"{r['macs'] / 1e6:.1f}",
            "times faster": lambda r: f"{r['times_faster']:.2f}x",
        },
    )


def tokens_table(found: list[Row]) -> str:
    """Fewer tokens, without training."""
    return listed(
        found,
        {
            "network with fewer tokens": network_name,
            "how": lambda r: f"{r['method']}, {r['r']} a layer",
            "accuracy": accuracies,
            "fewer MACs": lambda r: f"{r['dense_macs'] / r['macs']:.2f}x",
            "times faster, batch 1": lambda r: f"{r['times_faster']['1']:.2f}x",
            "batch 32": lambda r: f"{r['times_faster']['32']:.2f}x",
        },
    )


def network_name(row: Row) -> str:
    """What a reader calls the network of a row."""
    return NAMES.get(row["network"], row["network"])


def accuracies(row: Row) -> str:
    """Of the original, then of the result."""
    return f"{row['dense_accuracy']:.2f} → {row['accuracy']:.2f}"


def latencies(row: Row, figure: str) -> str:
    """Of the original, then of the result, in milliseconds."""
    return f"{row['dense_latency_ms'][figure]:.3f} → {row['latency_ms'][figure]:.3f}"


def mixed_table() -> str:
    """Widths and zeros together, one after the other, and each alone, at equal effective MACs."""
    body = [
        [
            NAMES[network],
            f"{100 * share:g} %",
            str(way),
            str(len(same)),
            spread([100 * r["effective_macs"] for r in same], 1),
            spread([100 * r["macs"] for r in same], 1),
            spread([100 * r["nonzero"] for r in same], 1),
            spread([r["top1"] for r in same]),
            f"{max(r['cpu_seconds'] for r in same):.0f}",
        ]
        for (network, share, way), same in grouped(rows("mixed"), "network", "share", "way").items()
    ]
    header = (
        "network",
        "asked",
        "how",
        "seeds",
        "effective MACs, %",
        "MACs, %",
        "nonzero, %",
        "top-1",
        "CPU-s",
    )
    return table(header, body) if body else "No rows yet."


def leaderboard_picture() -> str:
    """Dots of every method, mean validation accuracy, one column per board, network and level."""
    found = grouped(rows("leaderboard"), "board", "network", "level", "minutes")
    methods = sorted({r["method"] for same in found.values() for r in same})
    width, bottom = 160 + 90 * len(found) + 160, 330

    def y(value: float) -> float:
        return bottom - 290 * value / 100

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 400" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Validation accuracy of every method in equal minutes</title>",
        f'<rect width="{width}" height="400" rx="8" fill="#fbfaf7"/>',
    ]
    for value in range(0, 101, 20):
        parts.append(
            f'<line x1="60" x2="{60 + 90 * len(found)}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#ddd9cf"/><text x="54" y="{y(value) + 4:.1f}" text-anchor="end" '
            f'fill="#555">{value} %</text>'
        )
    for column, ((board, network, level, minutes), same) in enumerate(found.items()):
        place = 105 + 90 * column
        asked = f"MACs / {level:g}" if board == "units" else level_in_words(board, level)
        for line, text in enumerate((str(network), asked, f"{minutes:g} min")):
            parts.append(
                f'<text x="{place}" y="{bottom + 20 + 16 * line}" text-anchor="middle" '
                f'fill="#555">{text}</text>'
            )
        for (method,), own in grouped(same, "method").items():
            mean = statistics.fmean(r["validation"] for r in own)
            parts.append(
                f'<circle cx="{place}" cy="{y(mean):.1f}" r="5" fill="{_colour(methods, method)}">'
                f"<title>{method}: {mean:.1f} %</title></circle>"
            )
    for number, method in enumerate(methods):
        left = 90 * len(found) + 90
        parts.append(
            f'<circle cx="{left}" cy="{40 + 22 * number}" r="4" fill="{_colour(methods, method)}"/>'
            f'<text x="{left + 12}" y="{44 + 22 * number}" fill="#22301f">{method}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _colour(names: Sequence[str], name: str) -> str:
    return f"hsl({names.index(name) * 360 // len(names)} 55% 42%)"


PARTS: dict[str, Callable[[], str]] = {
    "criterion-cost": cost_table,
    "leaderboard": leaderboard_table,
    "mixed": mixed_table,
    "depth": depth_table,
    "adaptive": adaptive_tables,
    "zeros": zeros_table,
    "patterns": patterns_table,
    "peak": peak_table,
    "repair": repair_tables,
    "attention": attention_table,
    "sparsity": sparsity_table,
    "criteria": criteria_table,
    "quantization": quantization_table,
    "bits": bits_table,
    "recurrent": recurrent_table,
    "speed": speed_table,
    "coverage": coverage_table,
    "families": families_table,
    "growth": growth_table,
    "random_networks": random_networks_table,
    "memory": memory_table,
    "microcontrollers": microcontrollers_table,
    "cycles": cycles_table,
    "compiling": compiling_tables,
    "integers": integers_table,
}


def main() -> None:
    """Write page and picture."""
    text = PAGE.read_text()
    for name, make in PARTS.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        content = make()
        text = mark.sub(lambda found, c=content: f"{found[1]}\n{c}\n\n{found[2]}", text)
    write_text(PAGE, text)
    if rows("repair-resnet56"):
        write_text(PICTURE, picture())
    if rows("zeros"):
        write_text(PICTURE.with_name("zeros.svg"), zeros_picture())
    bits = [row for row in rows("bits") if row["network"] == "resnet20"]
    if bits:
        write_text(PICTURE.with_name("bits.svg"), bits_picture(bits))
    if rows("leaderboard"):
        write_text(PICTURE.with_name("leaderboard.svg"), leaderboard_picture())


if __name__ == "__main__":
    main()

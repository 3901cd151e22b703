"""What do integers cost, and what do they save?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tables import charts
from tables.markdown import (
    average,
    change,
    least,
    mean,
    median,
    medians,
    seeds,
    shared,
    spread,
    table,
    value,
)
from tables.names import NAMES, SCHOOLED, short
from tables.rows import Row, Rows, alike, grouped, rows

ACROSS = (60, 500)  # pixels from the left to the right end of the axis


def quantization_table() -> str:
    """Integers after training: accuracy, bytes and latency."""
    timed = [row for row in rows("quantization") if "times_faster" in row]
    return table(
        alike(timed, "network", "fewer_macs"),
        {
            "network": shared(short),
            "pruned": shared(_pruned),
            "seeds": seeds,
            "floats": mean("floats"),
            "integers": spread("integers"),
            "points lost": mean("points_lost", "{:+.2f}"),
            "reference int8": shared(value("reference_integers")),
            "smaller": least("times_smaller", "{:.2f}x"),
            "ONNX smaller": least("onnx_times_smaller", "{:.2f}x"),
            "ms, median": medians("floats_ms", "integers_ms"),
            "faster": median("times_faster", "{:.2f}x"),
        },
    )


def observers_table() -> str:
    """Points that each observer and each rounding loses, network by network."""
    ways = list(dict.fromkeys((r["observer"], r["rounding"]) for r in rows("quantization")))
    return table(
        alike(rows("quantization"), "network", "fewer_macs"),
        {
            "network": shared(short),
            "pruned": shared(_pruned),
            "floats": mean("floats"),
            **{", ".join(way): _points_lost(*way) for way in sorted(ways, key=_order)},
        },
    )


def _order(way: tuple[str, str]) -> tuple[bool, str, str]:
    return way[1] != "nearest", *way


def _points_lost(observer: str, rounding: str) -> Callable[[Rows], str]:
    def cell(same: Rows) -> str:
        these = [r for r in same if (r["observer"], r["rounding"]) == (observer, rounding)]
        return spread("points_lost")(these) if these else ""

    return cell


def _pruned(row: Row) -> str:
    return "no" if row["fewer_macs"] == 1 else f"{row['fewer_macs']:g}x fewer MACs"


def bits_table() -> str:
    """Weights of fewer bits: all alike, mixed, and trained."""
    return table(
        alike(rows("bits"), "network", "bits", "method"),
        {
            "network": shared(short),
            "bits": shared(value("bits")),
            "method": shared(value("method")),
            "seeds": seeds,
            "floats": mean("floats"),
            "integers": spread("integers"),
            "smaller": least("times_smaller", "{:.2f}x"),
            "CPU-s": median("cpu_seconds", "{:.0f}"),
        },
    )


def recurrent_table() -> str:
    """A GRU in integers: accuracy, bytes and milliseconds."""
    return table(
        alike(rows("recurrent"), "network"),
        {
            "network": shared(lambda r: SCHOOLED[r["network"]]),
            "seeds": seeds,
            "floats": mean("floats", "{:.1f}"),
            "int8 matrices, ONNX": spread("matrices", 1),
            "integers, C": spread("integers", 1),
            "flash bytes": shared(change("floats_flash_bytes", "flash_bytes", "{:,}")),
            "arena bytes": shared(change("floats_arena_bytes", "arena_bytes", "{:,}")),
            "ms, median": medians("floats_ms", "integers_ms"),
        },
    )


def host_table() -> str:
    """Latency of int8 programs on the host beside ONNX Runtime."""
    drawn = table(
        rows("integers"),
        {
            "network": value("network"),
            "zeros": value("sparsity", "{:.0%}"),
            "penjing int8, ms": value("penjing_int8_median_ms", "{:.3f}"),
            "ONNX Runtime int8, ms": value("onnxruntime_int8_median_ms", "{:.3f}"),
            "its fp32, ms": value("onnxruntime_median_ms", "{:.3f}"),
            "against int8": value("times_faster_than_int8", "{:.2f}x"),
            "against fp32": value("times_faster_than_fp32", "{:.2f}x"),
            "n": value("n"),
        },
    )
    return f"Medians; batch 1, one thread, in turn in one process.\n\n{drawn}"


def bits_picture() -> str:
    """Accuracy of ResNet-20 against the bytes of weights, biases and scales; floats are marked."""
    found = [row for row in rows("bits") if row["network"] == "resnet20"]
    largest = 1.05 * max(r["stored_bytes"] for r in found)
    lowest = 10 * (min(r["integers"] for r in found) // 10)

    def x(size: float) -> float:
        return 60 + 440 * size / largest

    def y(accuracy: float) -> float:
        return 350 - 310 * (accuracy - lowest) / (100 - lowest)

    def axes() -> Iterator[str]:
        floats = y(found[0]["floats"])
        yield charts.level(floats, ACROSS, dashed=True)
        yield charts.text(505, floats + 4, "floats")
        yield charts.below(280, 394, "kilobytes of weights, biases and scales")
        for percent in range(int(lowest), 101, 10):
            yield charts.grid(y(percent), ACROSS, f"{percent} %")
        for part in range(5):
            size = part * largest / 4
            yield charts.below(x(size), 370, f"{size / 1000:.0f}")

    parts = list(axes())
    methods = grouped(found, "method")
    for number, ((method,), same) in enumerate(methods.items()):
        colour = charts.colour(number, len(methods))
        for (bits,), points in grouped(same, "bits").items():
            place = x(average(points, "stored_bytes")), y(average(points, "integers"))
            label = charts.text(place[0] + 6, place[1] + 14, bits, fill=colour)
            parts.append(charts.dot(*place, colour) + label)
        parts.append(charts.legend(545, 100 + 24 * number, colour, method))
    return charts.svg(f"{NAMES['resnet20']}: accuracy against bytes", parts, size=(720, 410))

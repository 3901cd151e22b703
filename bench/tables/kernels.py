"""How fast is compiled code with zeros, and how near its peak?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tables.markdown import shared, table, value
from tables.plot import Axis, every, plot
from tables.rows import Row, Rows, alike, grouped, rows

ZEROS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
ELEMENT_KERNELS = ("sparse_conv", "window_linear", "column_linear")


def zeros_table() -> str:
    """Speed of compiled sparse networks against ONNX Runtime's dense code."""
    return table(
        alike(rows("zeros"), "network", "batch", "threads"),
        {
            **{key: shared(value(key)) for key in ("network", "batch", "threads")},
            **{f"{100 * share:g} % zeros": _times_faster(share) for share in ZEROS},
            "even at": _break_even,
            "90 %, against int8": _against_integers,
        },
    )


def _times_faster(share: float) -> Callable[[Rows], str]:
    def cell(found: Rows) -> str:
        same = [r for r in found if r["sparsity"] == share]
        return f"{same[-1]['times_faster']:.2f}" if same else ""

    return cell


def _break_even(found: Rows) -> str:
    """The least share of zeros from which compiled code is no slower, between rows by a line."""
    points = sorted((r["sparsity"], r["times_faster"]) for r in found)
    if points[0][0] > 0:
        return ""
    slower = [i for i, (_, faster) in enumerate(points) if faster < 1]
    if not slower:
        return f"{points[0][0]:.0%}"
    if slower[-1] == len(points) - 1:
        return "never"
    (a, low), (b, high) = points[slower[-1]], points[slower[-1] + 1]
    return f"{a + (b - a) * (1 - low) / (high - low):.0%}"


def _against_integers(found: Rows) -> str:
    """How many times faster 90 % zeros in floats are than ONNX Runtime's dense integers."""
    timed = [r for r in found if r["sparsity"] == 0.9 and "onnxruntime_int8_median_ms" in r]
    if not timed:
        return ""
    return f"{timed[-1]['onnxruntime_int8_median_ms'] / timed[-1]['penjing_median_ms']:.2f}"


def zeros_picture() -> str:
    """Times faster against the share of zeros, batch 1, one thread; even is marked."""
    single = [r for r in rows("zeros") if r["batch"] == r["threads"] == 1]
    curves = {
        name: sorted((100 * r["sparsity"], r["times_faster"]) for r in same)
        for (name,), same in grouped(single, "network").items()
    }
    top = max(faster for points in curves.values() for _, faster in points)
    return plot(
        "Times faster than ONNX Runtime's dense code against the share of zeros",
        curves,
        Axis((0, 25, 50, 75, 100), "{} %", "weights that are zero"),
        Axis(every(1, 0, max(2, top)), "{}x"),
        marked=(1, "even"),
    )


def patterns_table() -> str:
    """Microseconds of single layers by pattern and kind of kernel."""
    return table(
        rows("patterns"),
        {
            "layer": value("layer"),
            "pattern": value("pattern"),
            "zeros": value("sparsity", "{:.0%}"),
            "dense, us": lambda r: f"{_dense(r):.1f}",
            "element, us": lambda r: f"{_element(r):.1f}",
            "best, us": lambda r: f"{r['microseconds'][_best(r)]:.1f}",
            "best kernel": _best,
            "times dense": lambda r: f"{_dense(r) / r['microseconds'][_best(r)]:.2f}",
            "chosen / best": value("chosen_over_best", "{:.2f}"),
        },
    )


def _dense(row: Row) -> float:
    times: dict[str, float] = row["microseconds"]
    return times["dense_conv"] if "dense_conv" in times else times["dense_linear"]


def _element(row: Row) -> float:
    return min(row["microseconds"][k] for k in ELEMENT_KERNELS if k in row["microseconds"])


def _best(row: Row) -> str:
    times: dict[str, float] = row["microseconds"]
    return min(times, key=times.__getitem__)


@dataclass(frozen=True, slots=True)
class _Share:
    """What the layers of one kind of kernel reach; `peak` is None where nothing is counted."""

    network: str
    sparsity: float
    kernel: str
    microseconds: float
    layers: str = ""
    gflops: float | None = None
    peak: float | None = None
    reason: str = ""


def peak_table() -> str:
    """Share of the peak per network and kind of kernel."""
    return table(
        [share for row in rows("peak") for share in _shares(row)],
        {
            "network": lambda s: s.network,
            "zeros": lambda s: f"{s.sparsity:.0%}",
            "kernel": lambda s: s.kernel,
            "layers": lambda s: s.layers,
            "us": lambda s: f"{s.microseconds:.1f}",
            "GFLOP/s of nonzeros": lambda s: "" if s.gflops is None else f"{s.gflops:.0f}",
            "of peak": lambda s: "" if s.peak is None else f"{s.peak:.0%}",
            "why": lambda s: s.reason,
        },
    )


def _shares(row: Row) -> Iterator[_Share]:
    """One line for every kind of kernel, and one for all that is not counted."""
    counted = [layer for layer in row["layers"] if "share" in layer]
    rest = row["microseconds"] - sum(layer["microseconds"] for layer in counted)
    for (kernel,), same in grouped(counted, "kernel").items():
        time = sum(layer["microseconds"] for layer in same)
        gflops = sum(layer["operations"] for layer in same) / time / 1e3
        yield _Share(
            row["network"],
            row["sparsity"],
            kernel,
            time,
            str(len(same)),
            gflops,
            gflops / row["gflops_of_machine"]["registers"],
            same[0]["reason"],
        )
    yield _Share(row["network"], row["sparsity"], "others", rest)

"""Latency on ONNX Runtime: one thread, no spinning, alternating with the original.

Two networks that are compared are timed call by call in one process, so that whatever else the
machine does meets both; their ratio is the median of the ratios of neighbouring calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import InputError
from penjing.exporters.session import open_session, runtime_errors, runtime_name
from penjing.figures import LatencyFigures

Feeds = Mapping[str, NDArray[Any]]
"""Input name -> values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How a network is timed.

    Args:
        threads: Intra-op threads.
        batch: Samples per call.
        n: Timed calls.
        warmup: Calls before them that are not timed.
        seconds: Stop timing after this long, though not before five calls; None for no limit.
    """

    threads: int = 1
    batch: int = 1
    n: int = 50
    warmup: int = 5
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "n"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; timing needs at least 1")
        if self.warmup < 0:
            raise InputError(f"warmup is {self.warmup}; it is a number of calls, 0 or more")


FEWEST_CALLS = 5


def time_onnx(
    path: str | Path, timing: Timing | None = None, feeds: Feeds | None = None
) -> LatencyFigures:
    """Time an ONNX file on the CPU.

    Args:
        path: The file.
        timing: Threads, batch and number of calls; by default 50 calls on one thread at batch one.
        feeds: Input values by name; more names than the file has do no harm. None for random ones.

    Returns:
        Median, fastest and 95th percentile, milliseconds.

    Raises:
        ExportError: ONNX Runtime cannot run the file.
        InputError: The file has another batch size, or a feed is missing.
    """
    timing = timing or Timing()
    rounds = rounds_of([_call(Path(path), timing, feeds)], timing)
    return latency_figures(rounds[:, 0], timing, runtime_name())


def time_pair(
    path: str | Path,
    original: str | Path,
    timing: Timing | None = None,
    feeds: Feeds | None = None,
    original_feeds: Feeds | None = None,
) -> tuple[LatencyFigures, LatencyFigures]:
    """Time two ONNX files call by call, each first in every other round.

    Args:
        path: The file that is of interest.
        original: The file it is compared with.
        timing: As for `time_onnx`.
        feeds: Inputs of the first, and of the second where `original_feeds` is None.
        original_feeds: Inputs of the second.

    Returns:
        Figures of the file, whose `ratio` is original / file, and of the original in the same
        rounds.

    Raises:
        ExportError: ONNX Runtime cannot run one of the files.
        InputError: A file has another batch size, or a feed is missing.
    """
    timing = timing or Timing()
    other = feeds if original_feeds is None else original_feeds
    calls = [_call(Path(path), timing, feeds), _call(Path(original), timing, other)]
    return pair_figures(rounds_of(calls, timing), timing, runtime_name())


def random_feeds(session: Any, batch: int) -> dict[str, NDArray[Any]]:
    """Inputs of the shapes and dtypes that a session takes: floats normal, all others zero.

    Args:
        session: An `onnxruntime.InferenceSession`.
        batch: Size of every free dimension.

    Returns:
        Input name -> values, the same ones every time.
    """
    generator = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for needed in session.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in needed.shape]
        dtype = _DTYPES[needed.type]
        normal = generator.standard_normal(shape)
        feeds[needed.name] = (normal if np.issubdtype(dtype, np.floating) else 0 * normal).astype(
            dtype
        )
    return feeds


_DTYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _call(path: Path, timing: Timing, feeds: Feeds | None) -> Callable[[], object]:
    """A function that runs the file once, warmed up."""
    session = open_session(path, timing.threads)
    values = random_feeds(session, timing.batch) if feeds is None else feeds
    names = [needed.name for needed in session.get_inputs()]
    missing = [name for name in names if name not in values]
    if missing:
        raise InputError(f"{path.name!r} needs input {missing[0]!r}; given are {sorted(values)}")
    own = {name: np.ascontiguousarray(values[name]) for name in names}
    for needed in session.get_inputs():
        size = needed.shape[0] if needed.shape else None
        if isinstance(size, int) and own[needed.name].shape[0] != size:
            raise InputError(
                f"{path.name!r} takes batch {size} alone, not {own[needed.name].shape[0]}: the "
                "network's forward fixes it"
            )
    with runtime_errors(path):
        for _ in range(max(1, timing.warmup)):
            session.run(None, own)
    return lambda: session.run(None, own)


def rounds_of(calls: list[Callable[[], object]], timing: Timing) -> NDArray[np.float64]:
    """Time functions in turns, each first in every other round.

    Args:
        calls: Warmed up.
        timing: How often, and how long at most.

    Returns:
        Milliseconds, one row per round and one column per function.
    """
    started = time.perf_counter()
    rows: list[list[float]] = []
    for round_ in range(timing.n):
        row = [0.0] * len(calls)
        order = range(len(calls)) if round_ % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            before = time.perf_counter()
            calls[i]()
            row[i] = (time.perf_counter() - before) * 1e3
        rows.append(row)
        late = timing.seconds is not None and time.perf_counter() - started > timing.seconds
        if late and len(rows) >= FEWEST_CALLS:
            break
    return np.array(rows)


def pair_figures(
    rounds_ms: NDArray[np.float64], timing: Timing, runtime: str
) -> tuple[LatencyFigures, LatencyFigures]:
    """Figures of two networks that were timed in turns.

    Args:
        rounds_ms: Milliseconds, one row per round: of the network of interest, of the original.
        timing: How they were had.
        runtime: Its name and version.

    Returns:
        Figures of the network, which carry the ratio original / network and the original's, and
        of the original.
    """
    mine, theirs = (latency_figures(column, timing, runtime) for column in rounds_ms.T)
    ratio = float(np.median(rounds_ms[:, 1] / rounds_ms[:, 0]))
    return replace(mine, ratio=ratio, original=theirs), theirs


def latency_figures(calls_ms: NDArray[np.float64], timing: Timing, runtime: str) -> LatencyFigures:
    """Median, minimum and 95th percentile of timed calls.

    Args:
        calls_ms: Milliseconds of every call, of one dimension.
        timing: How they were had.
        runtime: Its name and version.
    """
    return LatencyFigures(
        runtime=runtime,
        threads=timing.threads,
        batch=timing.batch,
        n=len(calls_ms),
        median_ms=float(np.median(calls_ms)),
        min_ms=float(calls_ms.min()),
        p95_ms=float(np.percentile(calls_ms, 95)),
    )

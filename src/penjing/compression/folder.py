"""The work folder: every finished candidate is whole on disk before the next one starts.

    workdir/
      calls.json                 seconds spent, by call
      candidates/<key>/          spec.json, model.safetensors, plan.json, report.json,
                                 model.onnx
        candidate.json           written last: a candidate without it is not finished

A key hashes the weights, the data, the arguments and the versions that make a candidate, so a call
finds what an earlier one finished and never takes what another network or other data made. A
candidate depends on nothing that came before it, random states included, so a search that was
killed goes on exactly as it would have gone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from penjing import checkpoint, files
from penjing.compression.candidate import Candidate
from penjing.decode import Malformed, decode
from penjing.errors import CheckpointError
from penjing.graph.capture import Example
from penjing.plan import Plan
from penjing.report import Report

FOLDER_VERSION = 1
RECORD = "candidate.json"
ONNX = "model.onnx"
CALLS = "calls.json"
PARTIAL = "training.json"


def key_of(parts: Mapping[str, str]) -> str:
    """Short hash of named parts; their order plays no part."""
    text = json.dumps({"version": str(FOLDER_VERSION), **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Record:
    """What is written down of a finished candidate beside its report and its network."""

    version: int
    name: str
    metric: float | None
    drop: float | None
    trained: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One work folder.

    Args:
        path: The folder; it is made when something is written.
    """

    path: Path

    def of(self, key: str) -> Path:
        """Folder of the candidate with this key."""
        return self.path / "candidates" / key

    def onnx(self, key: str) -> Path:
        """ONNX file of the candidate with this key; absent where ONNX cannot express it."""
        return self.of(key) / ONNX

    def find(self, key: str, name: str) -> Candidate | None:
        """A finished candidate, or None.

        Args:
            key: Its key.
            name: What to call it.

        Returns:
            The candidate, without its network.

        Raises:
            CheckpointError: It is finished and damaged.
        """
        folder = self.of(key)
        if not (folder / RECORD).is_file():
            return None
        content = _read(folder / RECORD)
        try:
            record = decode(_Record, content, "candidate")
        except Malformed as error:
            raise CheckpointError(
                f"{folder / RECORD} is damaged: {error}; delete {folder}"
            ) from error
        return Candidate(
            name=name,
            key=key,
            data=Report.read(folder / "report.json").data,
            metric=record.metric,
            drop=record.drop,
            trained=record.trained,
            seconds=record.seconds,
            folder=folder,
        )

    def keep(self, candidate: Candidate, model: nn.Module, example: Example, plan: Plan) -> None:
        """Write a finished candidate.

        Args:
            candidate: What is known about it.
            model: Its network.
            example: Example inputs of the network, on its device.
            plan: What was cut.

        Raises:
            OSError: The disk is full or the folder cannot be written; it stays unfinished.
        """
        folder = candidate.folder
        checkpoint.save(model, folder, example, plan=plan)
        files.write_text(folder / "plan.json", plan.to_json())
        Report(candidate.data).save(folder / "report.json")
        record = _Record(
            FOLDER_VERSION,
            candidate.name,
            candidate.metric,
            candidate.drop,
            candidate.trained,
            candidate.seconds,
        )
        written = {name: _written(value) for name, value in asdict(record).items()}
        files.write_json(folder / RECORD, written)

    def network(self, candidate: Candidate, dense: nn.Module) -> nn.Module:
        """The network of a finished candidate, in eval mode.

        Args:
            candidate: A finished candidate.
            dense: The network it was made from; not changed.

        Returns:
            A module of the class of `dense` when the candidate is one, else its graph form.

        Raises:
            CheckpointError: What is on disk is damaged.
        """
        graph = candidate.data.proof is not None and candidate.data.proof.form == "graph"
        return checkpoint.load(candidate.folder, None if graph else dense)

    def partial(self, key: str) -> float:
        """Seconds of training that an earlier run of a candidate spent and did not finish."""
        path = self.of(key) / PARTIAL
        return float(_read(path).get("seconds", 0.0)) if path.is_file() else 0.0

    def put_off(self, key: str, seconds: float) -> None:
        """Note how long the unfinished training of a candidate has taken."""
        files.write_json(self.of(key) / PARTIAL, {"seconds": round(seconds, 3)})

    def seconds(self, call: str) -> float:
        """Seconds that earlier runs of the same call took."""
        path = self.path / CALLS
        if not path.is_file():
            return 0.0
        try:
            return float(_read(path).get(call, 0.0))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: {error}; delete it") from error

    def spend(self, call: str, seconds: float) -> None:
        """Note how many seconds a call has taken so far."""
        path = self.path / CALLS
        known = _read(path) if path.is_file() else {}
        files.write_json(path, {**known, call: round(seconds, 3)})


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it to start again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} was not written by penjing; use another workdir")
    return content


def _written(value: Any) -> Any:
    """A value that JSON has, or the name of a number that it lacks."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

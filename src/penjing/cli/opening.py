"""From the words of a call to a network and what belongs to it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from penjing.checkpoint import load
from penjing.record import record_of
from penjing.source import PARTS, Source, load_source
from penjing.task import one_or_several
from penjing.task.recovery import JUDGED
from penjing.training.settled import settled


def open_source(net: str, *, trust: bool = False, want: Collection[str] = PARTS) -> Source:
    """Open what a person named.

    Args:
        net: A Python file, a module, a `.pt2` file, a saved folder, or the folder of a run.
        trust: Read a `.pt2`.
        want: Parts besides the model.

    Returns:
        The network in eval mode, and the parts that were wanted and are there.

    Raises:
        SourceError: It cannot be found, read or run; with the cause.
        CheckpointError: A saved folder that is damaged.
        UnavailableError: An `.onnx` file.
    """
    source = load_source(net, trust=trust, want=want, open_folder=_folder)
    source.model.eval()
    return source


def data_of(source: Source) -> Any:
    """Unlabelled samples of a source: its calibration, else those of its task, else None."""
    if source.calibration is not None or source.task is None:
        return source.calibration
    task = settled(one_or_several(source.task), source.model)
    return task.calibration() if task.train is not None or task.val is not None else None


def judged_by(source: Source) -> Any:
    """The task of a source where it can say how good a network is, else None."""
    if source.task is None:
        return None
    task = one_or_several(source.task)
    known = task.scores and any(getattr(task, split) is not None for split in JUDGED)
    return source.task if known else None


def _folder(path: Path) -> Source:
    inner = path / "model"
    model = load(inner if (inner / "spec.json").is_file() else path)
    record = record_of(model)
    return Source(model, example_inputs=None if record is None else record.example_inputs())

"""The checkpoint of a run: all that decides what comes next, in one file, whole or not there."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from penjing import files
from penjing.errors import CheckpointError
from penjing.figures import EpochFigures
from penjing.training.callbacks import Callback
from penjing.training.run import Run, snapshot, write_back

FIT_VERSION = 1
NAME = "fit.pt"
COUNTERS = ("length", "epoch", "batch", "step", "loss_sum", "samples", "kept_epoch")
TEXTS = ("metrics_before", "stopped", "notes")


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a checkpoint was taken.

    Args:
        epoch_random: Random states at the start of its epoch, loaders included.
        step_random: Random states after its last step, of every process.
        finished: Whether the run was over.
    """

    epoch_random: dict[str, Any]
    step_random: list[dict[str, Any]]
    finished: bool


def save(
    folder: Path, run: Run, callbacks: Sequence[Callback], identity: dict[str, str], saved: Saved
) -> None:
    """Write the checkpoint of `run`; an older one stays until the new one is whole.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    content = {
        "version": FIT_VERSION,
        "identity": identity,
        **{name: getattr(run, name) for name in (*COUNTERS, *TEXTS, "seconds", "kept")},
        "history": [asdict(epoch) for epoch in run.history],
        "model": snapshot(run.model),
        "optimizer": run.optimizer.state_dict(),
        "callbacks": [callback.state_dict() for callback in callbacks],
        "epoch_random": saved.epoch_random,
        "step_random": saved.step_random,
        "finished": saved.finished,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_bytes(folder / NAME, buffer.getvalue())


def load(
    folder: Path, run: Run, callbacks: Sequence[Callback], identity: dict[str, str]
) -> Saved | None:
    """Put `run`, its model and callbacks where the checkpoint was taken.

    Args:
        folder: Folder of the run.
        run: A run at its start.
        callbacks: Started, in the same order.
        identity: Of this run.

    Returns:
        Where it was taken; None when there is no checkpoint.

    Raises:
        CheckpointError: Damaged, of a newer version, or of another run.
    """
    path = folder / NAME
    for part in folder.glob(f".{path.stem}-*{path.suffix}"):  # of a call that was killed writing
        part.unlink(missing_ok=True)  # another process may have been faster
    if not path.exists():
        return None
    content = _read(path)
    _check(path, content, identity)
    try:
        write_back(run.model, content["model"])
        run.optimizer.load_state_dict(content["optimizer"])
        for name in (*COUNTERS, *TEXTS, "seconds", "kept"):
            setattr(run, name, content[name])
        run.history = [EpochFigures(**epoch) for epoch in content["history"]]
        for callback, state in zip(callbacks, content["callbacks"], strict=True):
            callback.load_state_dict(state)
        return Saved(content["epoch_random"], content["step_random"], content["finished"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it to start again") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a training checkpoint ({type(error).__name__}); it is "
            "damaged or foreign. Delete it to start again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path} is no training checkpoint; was another folder meant?")
    return content


def _check(path: Path, content: dict[str, Any], identity: dict[str, str]) -> None:
    if content["version"] > FIT_VERSION:
        raise CheckpointError(
            f"{path} has version {content['version']}, this penjing reads up to {FIT_VERSION}; "
            "upgrade penjing"
        )
    theirs = dict(content.get("identity", {}))
    different = [name for name in {**theirs, **identity} if theirs.get(name) != identity.get(name)]
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} belongs to another run: {name} was {theirs.get(name)}, now it is "
            f"{identity.get(name)}; use another workdir, or delete the file to start again"
        )

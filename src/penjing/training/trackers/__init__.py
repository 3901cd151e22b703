"""Where the figures of a training run go: TensorBoard, Weights & Biases, MLflow, or an object."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.errors import StrategyError
from penjing.training.trackers._mlflow import MLflow
from penjing.training.trackers._tensorboard import TensorBoard
from penjing.training.trackers._wandb import WandB
from penjing.training.trackers.protocol import Tracker

__all__ = ["MLflow", "TensorBoard", "Tracker", "WandB", "resolve"]

Choice = str | Tracker | Sequence[str | Tracker] | None


def resolve(choice: Choice) -> tuple[Tracker, ...]:
    """The trackers that names and objects stand for.

    Args:
        choice: "tensorboard", "wandb", "mlflow", an object, several of them, or None.

    Returns:
        Trackers, none of them started.

    Raises:
        StrategyError: An unknown name, or an object that lacks a method.

    Example:
        >>> resolve("tensorboard")
        (TensorBoard(folder=None),)
    """
    if choice is None:
        return ()
    several = [choice] if isinstance(choice, str) or not isinstance(choice, Sequence) else choice
    return tuple(_one(each) for each in several)


def _one(choice: str | Tracker) -> Tracker:
    known = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
    if isinstance(choice, str):
        if choice not in known:
            raise StrategyError(
                f"no tracker is called {choice!r}; known are {', '.join(known)}, and any object "
                "with start, log and finish"
            )
        tracker: Tracker = known[choice]()
        return tracker
    for name in ("start", "log", "finish"):
        if not callable(getattr(choice, name, None)):
            raise StrategyError(
                f"{type(choice).__name__} has no {name}; a tracker has start(settings, folder), "
                "log(values, step) and finish(complete=...)"
            )
    return choice

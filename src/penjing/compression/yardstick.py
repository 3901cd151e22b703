"""How good a network is while candidates are compared: on validation data, or by agreement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from penjing.errors import BudgetError, InputError
from penjing.task import Batch, Calibration, Task, Tasks, agreement

HELD_OUT = 0.2  # of the calibration samples, where there is no validation data
FINGERPRINT_SAMPLES = 256  # of validation data that tell it from other data


@dataclass(frozen=True, eq=False)
class Yardstick:
    """One figure of merit.

    Args:
        task: What good means, or None.
        reference: The original network, on the device where networks are compared.
        held_out: Samples for the agreement; None when there is validation data.
    """

    task: Task | Tasks | None
    reference: nn.Module
    held_out: Calibration | None

    @property
    def _judging(self) -> Task | Tasks | None:
        """The task when it judges, None when agreement does."""
        return self.task if self.held_out is None else None

    @property
    def name(self) -> str:
        """What the figure is called."""
        return "agreement" if self._judging is None else self._judging.headline

    @property
    def higher_is_better(self) -> bool:
        """Direction of the figure."""
        return True if self._judging is None else self._judging.maximise

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Figures of a network, the decisive one first."""
        if self._judging is not None:
            return self._judging.evaluate(model, "val")
        task = None if self.task is None else self.task.compared
        return {"agreement": agreement(model, self.reference, self.held_out, task=task)}

    def drop(self, original: Mapping[str, float], figures: Mapping[str, float]) -> float:
        """How much worse than the original, absolute."""
        if self._judging is not None:
            return self._judging.drop(original, figures)
        return original[self.name] - figures[self.name]

    def check_bound(self, bound: float, original: Mapping[str, float]) -> None:
        """Refuse a bound on the drop that any network would meet.

        Raises:
            BudgetError: A figure that falls to zero would be within it.
        """
        judging = self._judging
        limits = {self.name: (bound, True)} if judging is None else judging.limits(bound)
        for name, (limit, higher_is_better) in limits.items():
            best = original[name]
            if higher_is_better and 0 < best <= limit:
                raise BudgetError(
                    f"max_drop is {limit:g}, and {name} of the original is {best:.4g}: every "
                    "network would do. It is in the metric's own units, so one point of accuracy "
                    "is 0.01 (or '1%')"
                )


def divide(
    calibration: Calibration, task: Task | Tasks | None
) -> tuple[Calibration, Calibration | None]:
    """Samples to repair with, and samples to judge by where the task has no validation data.

    Args:
        calibration: All samples.
        task: What good means, or None.

    Returns:
        All samples and None when candidates can be judged on validation data; else the first four
        fifths and the last one.

    Raises:
        InputError: There are too few samples to hold any out.
    """
    if task is not None and task.judges:
        return calibration, None
    if calibration.samples < 2:
        raise InputError(
            "calibration has 1 sample; without validation data some are held out to compare the "
            "networks by, so give at least 2, better a few hundred"
        )
    used = calibration.samples - max(1, round(HELD_OUT * calibration.samples))
    (rest,) = calibration.batches(calibration.samples)
    tail = Batch(rest, None, calibration.dims).part(used, calibration.samples)
    held = Calibration.of([tail], dims=calibration.dims, outputs=calibration.outputs)
    return Calibration.of(calibration, limit=used), held


def fingerprint(task: Task | Tasks, seed: int) -> str:
    """Short hash of the first validation samples and their labels; empty without such data."""
    if isinstance(task, Tasks):
        parts = {name: fingerprint(part, seed) for name, part in task.tasks.items()}
        return hashlib.sha256(json.dumps([parts, dict(task.weights)]).encode()).hexdigest()[:16]
    if task.val is None:
        return ""
    val = task.data("val")
    seen = Calibration.of(
        val() if callable(val) and not hasattr(val, "__iter__") else val,
        task.transform_fn,
        FINGERPRINT_SAMPLES,
        seed,
        tuple(task.batch_dims or ()),
    )
    labels = [x.tolist() if isinstance(x, Tensor) else str(x) for x in seen.labels]
    text = seen.fingerprint() + json.dumps(labels)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""What a quantized network loses, judged on data that its making has not seen."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from penjing.errors import BudgetError, InputError
from penjing.graph.capture import Program
from penjing.quantization.module import QuantizedModule
from penjing.quantization.network import QuantizedNetwork
from penjing.task import Calibration, Task
from penjing.task import agreement as share_alike
from penjing.verbs.soundness import whole_batches

PATIENCE_SECONDS = 2.0
_EVERY = 4  # each fourth sample is held back
_FEWEST = 8


def bound(value: float | str) -> float:
    """How much may be lost, as a share.

    Args:
        value: 0.01, or "1%" for the same.

    Returns:
        The number.

    Raises:
        BudgetError: It is no number from 0 up to below 1.

    Example:
        >>> bound("1%")
        0.01
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1:
        raise BudgetError(
            f"max_drop is {value!r}; it is the share that may be lost, from 0 up to below 1, so "
            "one point is 0.01 or '1%'"
        )
    return number


def apart(samples: Calibration) -> tuple[Calibration, Calibration]:
    """Three quarters of the samples for ranges and roundings, and one quarter to judge by.

    Args:
        samples: At least 8.

    Returns:
        Both parts; each fourth sample is in the second.

    Raises:
        InputError: There are too few.
    """
    samples.at_least(_FEWEST, "max_drop, which holds a quarter of them back,")
    held = torch.arange(samples.samples) % _EVERY == _EVERY - 1
    return samples.those(~held), samples.those(held)


def likeness(
    result: nn.Module,
    model: nn.Module,
    program: Program,
    samples: Calibration,
    task: Task | None = None,
) -> float | None:
    """Agreement of two networks, in batches that the program takes.

    Args:
        result: The new network.
        model: The one it was made from.
        program: Of the latter.
        samples: What both are run on.
        task: Says what the outputs are.

    Returns:
        The share, None where there is no whole batch.
    """
    batches = whole_batches(program, samples)
    kind = (
        None
        if task is None
        else Task(kind=task.kind, class_dim=task.class_dim, forward=task.forward)
    )
    return share_alike(result, model, batches, task=kind) if batches else None


@dataclass(eq=False, slots=True)
class Referee:
    """Says what a network loses: by the task's first metric, or by agreement without labels.

    Args:
        model: The original, on the CPU.
        program: Its program.
        held: Samples that were held back.
        task: Its validation data and metrics are looked at where it has them; never its test data.
    """

    model: nn.Module
    program: Program
    held: Calibration
    task: Task | None = None
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether it looks at labels."""
        task = self.task
        return task is not None and task.judges

    def __call__(self, network: QuantizedNetwork) -> float:
        """The drop, 0 or less where nothing is lost."""
        result = QuantizedModule(network)
        if self.task is not None and self.labelled:
            self.before = self.before or self.task.evaluate(self.model, "val")
            self.after = self.task.evaluate(result, "val")
            name = self.task.headline
            lost = self.before[name] - self.after[name]
            drop = lost if self.task.maximise else -lost
            return math.inf if math.isnan(drop) else drop
        share = likeness(result, self.model, self.program, self.held, self.task)
        if share is None:
            raise InputError(
                f"the network has a fixed batch and {self.held.samples} samples were held back for "
                "max_drop, less than one batch; give four times as many as a batch has"
            )
        return 1 - share

    def words(self, drop: float) -> str:
        """A drop, and by what it was had."""
        if self.task is not None and self.labelled:
            return f"{self.task.headline} on the validation data drops by {drop:.4g}"
        return f"agreement on {self.held.samples} samples held back drops by {drop:.4g}"


@contextmanager
def watched() -> Iterator[Callable[[str], None]]:
    """A function to say what is being done; shown on a terminal after two seconds.

    Yields:
        Takes a few words.
    """
    started, status = time.monotonic(), None

    def say(text: str) -> None:
        nonlocal status
        if not sys.stderr.isatty() or time.monotonic() - started < PATIENCE_SECONDS:
            return
        if status is None:
            from rich.console import Console  # only when something is drawn

            status = Console(stderr=True).status(text)
            status.start()
        status.update(text)

    try:
        yield say
    finally:
        if status is not None:
            status.stop()

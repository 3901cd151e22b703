"""Settings of one training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

from penjing.errors import InputError, StrategyError
from penjing.training.optimizers import Factory, Rates
from penjing.training.schedules import schedule
from penjing.training.trackers import Choice, resolve

Keep = Literal["best", "last"]
Precision = Literal["fp32", "bf16"]


class FitOptions(TypedDict, total=False):
    """The fields of `Fit` as keywords."""

    epochs: int
    optimizer: str | Factory
    lr: float | None
    lr_by: Rates | None
    weight_decay: float | None
    schedule: str | Callable[[float], float]
    warmup: float
    clip: float | None
    accumulate: int
    precision: Precision
    patience: int | None
    keep: Keep
    keep_from: int
    minutes: float | None
    workdir: str | Path | None
    save_seconds: float
    seed: int
    progress: bool
    tracker: Choice
    compile: bool
    distributed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How to train. The defaults suit a trained network that was cut.

    Args:
        epochs: Passes over the training data, at least 1.
        optimizer: "adamw", "adam", "sgd", "package.module:name", a class, or a function of the
            parameters.
        lr: Base learning rate; None is the optimizer's own.
        lr_by: Base learning rates of parts in its place: `{"heads": 0.01, "*.bias": 1e-4}` by names
            of modules or parameters, globs over these, or types of modules. Of several that fit,
            the last one counts.
        weight_decay: None is the optimizer's own; by name, vectors never decay.
        schedule: "cosine", "linear", "one_cycle", "constant", or a function of progress in [0, 1].
            Data without a length stand at the middle of the first epoch until they were read once.
        warmup: Share of the run in which the learning rate rises from zero, in [0, 1).
        clip: Largest norm of the gradient; None does not clip.
        accumulate: Batches whose gradients are averaged into one step, at least 1.
        precision: "bf16" computes products in bfloat16 (weights and sums stay float32); float16,
            which would need a scaled loss, is not offered.
        patience: Stop after this many epochs without a better headline figure on validation.
        keep: With validation data, "best" gives back the best epoch, or the start when none is
            better; "last" the last one. Without validation data it is the last.
        keep_from: First epoch that counts as best, 0 being the state before training. For callbacks
            that only finish a network by then.
        minutes: Time limit, summed over resumed calls; it truncates the run and never changes it.
        workdir: Folder of the checkpoint; a call with the same arguments goes on from there.
        save_seconds: A checkpoint at least this often; 0 is after every step.
        seed: Of everything random.
        progress: Show a bar on a terminal when it takes more than two seconds.
        tracker: "tensorboard", "wandb", "mlflow", an object of `penjing.training.trackers`, or
            several; None tracks nothing.
        compile: Run the training steps through `torch.compile`; sums come out in another order.
        distributed: Share every step with the other processes that `torchrun` started, as if one
            process had a batch as large as all of theirs. Each makes the same task and model; the
            first one's weights count, and it alone writes files. Batch norms see their own
            process's batch, their running statistics are averaged.

    Raises:
        InputError: A number outside its range.
        StrategyError: An unknown schedule or tracker.
    """

    epochs: int = 3
    optimizer: str | Factory = "adamw"
    lr: float | None = None
    lr_by: Rates | None = None
    weight_decay: float | None = None
    schedule: str | Callable[[float], float] = "cosine"
    warmup: float = 0.05
    clip: float | None = None
    accumulate: int = 1
    precision: Precision = "fp32"
    patience: int | None = None
    keep: Keep = "best"
    keep_from: int = 0
    minutes: float | None = None
    workdir: str | Path | None = None
    save_seconds: float = 60.0
    seed: int = 0
    progress: bool = True
    tracker: Choice = None
    compile: bool = False
    distributed: bool = False

    def __post_init__(self) -> None:
        ranges = (
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("lr", self.lr, self.lr is None or self.lr > 0, "above 0"),
            ("warmup", self.warmup, 0 <= self.warmup < 1, "a share of the run in [0, 1)"),
            ("clip", self.clip, self.clip is None or self.clip > 0, "a norm above 0"),
            ("accumulate", self.accumulate, self.accumulate >= 1, "at least 1"),
            ("precision", self.precision, self.precision in get_args(Precision), "fp32 or bf16"),
            ("patience", self.patience, self.patience is None or self.patience >= 1, "at least 1"),
            ("keep", self.keep, self.keep in {"best", "last"}, "'best' or 'last'"),
            ("minutes", self.minutes, self.minutes is None or self.minutes > 0, "above 0"),
        )
        for name, value, fine, rule in ranges:
            if not fine:
                raise InputError(f"{name} is {value!r}; it must be {rule}")
        _check_rates({} if self.lr_by is None else self.lr_by)
        schedule(self.schedule, self.warmup)
        resolve(self.tracker)

    @classmethod
    def check_names(cls, names: object) -> None:
        """Refuse settings that do not exist.

        Raises:
            StrategyError: A name is unknown; the known ones are listed.
        """
        unknown = sorted(set(names) - set(FitOptions.__annotations__))  # type: ignore[call-overload]
        if unknown:
            known = ", ".join(FitOptions.__annotations__)
            raise StrategyError(f"unknown setting {unknown[0]!r}; the known ones are {known}")


def _check_rates(lr_by: object) -> None:
    if not isinstance(lr_by, Mapping):
        raise InputError(f"lr_by is {lr_by!r}; give rates by parts, such as {{'heads': 0.01}}")
    for part, rate in lr_by.items():
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise InputError(
                f"lr_by[{part!r}] is {rate!r}; it must be a finite number above 0. What is not to "
                "be trained gets .requires_grad_(False)"
            )


def in_words(value: object) -> str:
    """A setting in words that are the same in every process.

    Example:
        >>> in_words(3), in_words(in_words)
        ('3', 'in_words')
        >>> in_words({"heads": 0.01, Fit: 0.1})
        'heads: 0.01, Fit: 0.1'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{in_words(part)}: {in_words(of)}" for part, of in value.items())
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else str(value)

"""Figures of every step of a chain beside those of the original, for the report alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from penjing.errors import InputError
from penjing.task import Recovered, Task, Tasks, chained, random_kept
from penjing.task.recovery import JUDGED
from penjing.verbs.preparation import Preparation
from penjing.verbs.work import Work, repairs, unrepaired

CUT, REPAIRED = "cut", "repaired"

Figures = Mapping[str, float]


@dataclass(eq=False, slots=True)
class Judging:
    """Judges the network after every step, before and after its repair.

    Args:
        task: Data, loss and metrics; "val" and "test" are judged where it has them.
        original: The network that the chain began with.
        steps: How many there are; one alone is not numbered.
        found: By split and name of the network, its figures in the order of the steps.

    Raises:
        InputError: The task has neither validation nor test data, or no figures.
    """

    task: Task | Tasks
    original: nn.Module
    steps: int
    found: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        splits = [split for split in JUDGED if getattr(self.task, split) is not None]
        if not splits or not self.task.scores:
            raise InputError(
                "the task has nothing to judge steps by: give Task(val=loader, metrics=...) with "
                "a metric or a loss, or leave task out"
            )
        self.found = {split: {} for split in splits}

    def look(self, preparation: Preparation, work: Work, step: int) -> None:
        """Judge one step.

        Args:
            preparation: What the step was made from.
            work: Its network, with what repair did.
            step: Its number, from 1.
        """
        number = f"{step} " if self.steps > 1 else ""
        with random_kept():
            mended = repairs(preparation, work.plan)
            if mended:
                torch.manual_seed(preparation.choices.seed)
                self.judge(f"{number}{CUT}", unrepaired(preparation, work.plan))
            self.judge(f"{number}{REPAIRED if mended else CUT}", work.model)

    def rows(self) -> tuple[Recovered, ...]:
        """A row per split, step and figure, in this order."""
        return tuple(
            row
            for split in JUDGED
            if split in self.found
            for row in chained(split, self.task.evaluate(self.original, split), self.found[split])
        )

    def judge(self, name: str, model: nn.Module) -> None:
        """Judge one network of the chain.

        Args:
            name: Of the step that made it.
            model: The network; it comes back on the CPU.
        """
        home = next((p.device for p in self.original.parameters()), torch.device("cpu"))
        model.to(home)
        for split in JUDGED:
            if split in self.found:
                self.found[split][name] = self.task.evaluate(model, split)
        model.cpu()

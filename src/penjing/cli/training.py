"""Options that every command which trains has, told once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from penjing.cli.options import Compiled, Distributed, Epochs, Lr, Minutes, Optimizer, Tracker


class TrainingArguments(TypedDict):
    """What the verbs that train take alike."""

    epochs: int
    optimizer: str
    lr: float | None
    minutes: float | None
    tracker: list[str] | None
    compile: bool
    distributed: bool
    workdir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a network is trained, as options of a command."""

    epochs: Epochs = 3
    optimizer: Optimizer = "adamw"
    lr: Lr = None
    minutes: Minutes = None
    tracker: Tracker = None
    compiled: Compiled = False
    distributed: Distributed = False

    def arguments(self, out: Path) -> TrainingArguments:
        """As the verbs take them.

        Args:
            out: Folder of the result; a run that was stopped goes on from what lies there.

        Returns:
            Keyword arguments.
        """
        return {
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "minutes": self.minutes,
            "tracker": self.tracker,
            "compile": self.compiled,
            "distributed": self.distributed,
            "workdir": out / "training",
        }


def with_training(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Training` in the place of its parameter `training`.

    Args:
        command: Its parameter `training` has a `Training` as default, whose values are those of the
            options.

    Returns:
        The command as typer takes it.
    """
    hints = get_type_hints(Training, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    names = [field.name for field in fields(Training)]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "training":
            parameters.append(parameter.replace(annotation=own[parameter.name]))
            continue
        parameters += [
            parameter.replace(
                name=name, annotation=hints[name], default=getattr(parameter.default, name)
            )
            for name in names
        ]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        training = Training(**{name: given.pop(name) for name in names})
        command(**given, training=training)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect's own
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call

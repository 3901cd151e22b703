"""What decides a candidate, as text: weights, data, choices, versions."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from penjing.compression.yardstick import fingerprint
from penjing.report import environment
from penjing.task import Calibration, Task, Tasks
from penjing.training.teacher import weights_hash
from penjing.verbs.choices import Choices

VERSIONS = ("penjing", "torch", "onnx", "onnxruntime")


def identity_of(
    model: nn.Module,
    task: Task | Tasks | None,
    used: Calibration,
    held_out: Calibration | None,
    choices: Choices,
) -> dict[str, str]:
    """All that decides what a candidate is, apart from its plan and training.

    Args:
        model: The original network.
        task: What good means, or None.
        used: Samples to repair with.
        held_out: Samples to judge by, or None.
        choices: How to prune.

    Returns:
        Name -> text; equal for equal calls in different processes.
    """
    machine = environment()
    what = {f.name: in_words(getattr(choices, f.name), model) for f in fields(choices)}
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "weights": weights_hash(model),
        "calibration": used.fingerprint(),
        "judged on": fingerprint(task, choices.seed) if held_out is None and task else "",
        "held out": held_out.fingerprint() if held_out is not None else "",
        "metrics": ", ".join(task.metrics or {}) if task else "",
        **what,
        **{name: machine.get(name, "") for name in VERSIONS},
    }


def in_words(value: Any, model: nn.Module | None = None) -> str:
    """A setting as text that is the same in every process; a module goes by its name."""
    match value:
        case nn.Module() if model is not None:
            return next((name for name, m in model.named_modules() if m is value), "?")
        case type() | types.FunctionType() | types.BuiltinFunctionType():
            return f"{value.__module__}.{value.__qualname__}"
        case Mapping():
            items = (f"{in_words(k, model)}: {in_words(v, model)}" for k, v in value.items())
            return "{" + ", ".join(items) + "}"
        case frozenset() | set():
            return "{" + ", ".join(sorted(in_words(v, model) for v in value)) + "}"
        case tuple() | list():
            return "(" + ", ".join(in_words(v, model) for v in value) + ")"
        case _:
            text = repr(value)  # without one of its own it names an address
            return type(value).__qualname__ if f"{id(value):x}" in text else text

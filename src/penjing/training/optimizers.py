"""Optimizers by name, by class, or made by the user's own function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from penjing.errors import InputError, StrategyError

Factory = Callable[[Any], Optimizer]
"""Takes parameters or parameter groups, gives an optimizer."""

OPTIMIZERS: Mapping[str, Factory] = {
    "adam": partial(Adam, lr=1e-3),
    "adamw": partial(AdamW, lr=1e-3, weight_decay=1e-2),
    "sgd": partial(SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=5e-4),
}


def optimizer(
    choice: str | Factory, model: nn.Module, lr: float | None, weight_decay: float | None
) -> Optimizer:
    """The optimizer of the parameters that require a gradient.

    Args:
        choice: A name in `OPTIMIZERS`, "package.module:name", a class, or any function that takes
            parameters.
        model: Its parameters are not changed.
        lr: Learning rate of every parameter group; None keeps the optimizer's own.
        weight_decay: The same for weight decay. By name, vectors (biases, norms) never decay.

    Returns:
        An optimizer whose groups remember their base rate as "initial_lr".

    Raises:
        InputError: Nothing to train.
        StrategyError: The name is unknown, or the function gives no optimizer.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(
            f"{type(model).__name__} has no parameter that requires a gradient; "
            "call model.requires_grad_() or unfreeze what is to be trained"
        )
    named = isinstance(choice, str) and choice in OPTIMIZERS
    made = _factory(choice)(_by_dimension(parameters) if named else parameters)
    if not isinstance(made, Optimizer):
        raise StrategyError(
            f"optimizer={choice!r} gave a {type(made).__name__}; it must return a "
            "torch.optim.Optimizer, for instance lambda params: torch.optim.SGD(params, lr=0.1)"
        )
    for group in made.param_groups:
        group["lr"] = group["lr"] if lr is None else lr
        group["initial_lr"] = float(group["lr"])
        if weight_decay is not None and not group.get("flat"):
            group["weight_decay"] = weight_decay
    return made


def _by_dimension(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels, and vectors without weight decay."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, "flat": True},
    ]
    return [group for group in groups if group["params"]]


def _factory(choice: str | Factory) -> Factory:
    if not isinstance(choice, str):
        return choice
    if choice in OPTIMIZERS:
        return OPTIMIZERS[choice]
    module, _, name = choice.partition(":")
    if not name:
        raise StrategyError(
            f"unknown optimizer {choice!r}; the known ones are {', '.join(OPTIMIZERS)}, "
            'others go as "package.module:name" or as a function of the parameters'
        )
    try:
        factory: Factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise StrategyError(f"optimizer {choice!r} cannot be imported: {error}") from error
    return factory

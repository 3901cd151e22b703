"""Optimizers by name, by class, or made by the user's own function."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

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
_UNIT_SIZED = frozenset({"adam", "adamw"})
"""Optimizers whose updates do not grow with gradients."""


@runtime_checkable
class HasRates(Protocol):
    """A network some of whose matrices and kernels learn at rates of their own."""

    def relative_rates(self) -> Mapping[str, float]:
        """Rates by name of the parameter, in units of the run's; 1 for those that are missing."""
        ...


def optimizer(
    choice: str | Factory, model: nn.Module, lr: float | None, weight_decay: float | None
) -> Optimizer:
    """The optimizer of the parameters that require a gradient.

    Args:
        choice: A name in `OPTIMIZERS`, "package.module:name", a class, or any function that takes
            parameters.
        model: Its parameters are not changed.
        lr: Learning rate of every parameter group; None keeps the optimizer's own. With "adam" and
            "adamw", matrices and kernels have the rates that the model asks for, in units of it.
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
    made = _factory(choice)(_groups(model, _rates(choice, model)) if named else parameters)
    if not isinstance(made, Optimizer):
        raise StrategyError(
            f"optimizer={choice!r} gave a {type(made).__name__}; it must return a "
            "torch.optim.Optimizer, for instance lambda params: torch.optim.SGD(params, lr=0.1)"
        )
    for group in made.param_groups:
        group["lr"] = (group["lr"] if lr is None else lr) * group.get("rate", 1.0)
        group["initial_lr"] = float(group["lr"])
        if weight_decay is not None and not group.get("flat"):
            group["weight_decay"] = weight_decay
    return made


def _rates(choice: str | Factory, model: nn.Module) -> Mapping[str, float]:
    source: object = model
    if choice in _UNIT_SIZED and isinstance(source, HasRates):
        return source.relative_rates()
    return {}


def _groups(model: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Matrices and kernels by rate, those of the run's own first; vectors without weight decay."""
    matrices: dict[float, list[nn.Parameter]] = defaultdict(list)
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            where = matrices[rates.get(name, 1.0)] if parameter.dim() > 1 else vectors
            where.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices[rate], "rate": rate} for rate in sorted(matrices, key=lambda r: r != 1)
    ]
    flat = {"params": vectors, "weight_decay": 0.0, "flat": True}
    return [*groups, flat] if vectors else groups


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

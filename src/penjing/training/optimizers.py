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
from penjing.pruning.selection import matches

Rates = Mapping[str | type, float]
"""Learning rates by name of a module or parameter, by glob over names, or by type of module."""

Factory = Callable[[Any], Optimizer]
"""Takes parameters or parameter groups, gives an optimizer."""

OPTIMIZERS: Mapping[str, Factory] = {
    "adam": partial(Adam, lr=1e-3),
    "adamw": partial(AdamW, lr=1e-3, weight_decay=1e-2),
    "sgd": partial(SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=5e-4),
}
FLAT: Mapping[str, Any] = {"weight_decay": 0.0, "flat": True}
"""Of groups of vectors."""

_UNIT_SIZED = frozenset({"adam", "adamw"})
"""Optimizers whose updates do not grow with gradients."""


@runtime_checkable
class HasRates(Protocol):
    """A network some of whose matrices and kernels learn at rates of their own."""

    def relative_rates(self) -> Mapping[str, float]:
        """Rates by name of the parameter, in units of the run's; 1 for those that are missing."""
        ...


def optimizer(
    choice: str | Factory,
    model: nn.Module,
    lr: float | None,
    weight_decay: float | None,
    lr_by: Rates | None = None,
) -> Optimizer:
    """The optimizer of the parameters that require a gradient.

    Args:
        choice: A name in `OPTIMIZERS`, "package.module:name", a class, or any function that takes
            parameters.
        model: Its parameters are not changed.
        lr: Learning rate of every parameter group; None keeps the optimizer's own. With "adam" and
            "adamw", matrices and kernels have the rates that the model asks for, in units of it.
        weight_decay: The same for weight decay. By name, vectors (biases, norms) never decay.
        lr_by: In place of `lr`, for parts of the model; of several that fit, the last one counts.

    Returns:
        An optimizer whose groups remember their base rate as "initial_lr"; groups with the rate of
        the run come first.

    Raises:
        InputError: Nothing to train, or nothing of a part in `lr_by`.
        StrategyError: The name is unknown, a part matches nothing of the model, or the function
            gives no optimizer.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has no parameter that requires a gradient; "
            "call model.requires_grad_() or unfreeze what is to be trained"
        )
    named = isinstance(choice, str) and choice in OPTIMIZERS
    own = _own_rates(model, lr_by or {})
    groups = _groups(model, own, _rates(choice, model) if named else None)
    made = _factory(choice)(groups if named or own else groups[0]["params"])
    if not isinstance(made, Optimizer):
        raise StrategyError(
            f"optimizer={choice!r} gave a {type(made).__name__}; it must return a "
            "torch.optim.Optimizer, for instance lambda params: torch.optim.SGD(params, lr=0.1)"
        )
    for group in made.param_groups:
        base = group["lr"] if lr is None else lr
        group["lr"] = group.get("own_lr", base) * group.get("rate", 1.0)
        group["initial_lr"] = float(group["lr"])
        if weight_decay is not None and not group.get("flat"):
            group["weight_decay"] = weight_decay
    return made


def _rates(choice: str | Factory, model: nn.Module) -> Mapping[str, float]:
    source: object = model
    if choice in _UNIT_SIZED and isinstance(source, HasRates):
        return source.relative_rates()
    return {}


def _own_rates(model: nn.Module, lr_by: Rates) -> dict[str, float]:
    """Learning rates by name of the parameter, for those that have one of their own."""
    first = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    names = model.named_parameters(remove_duplicate=False)  # a tied one has several
    trained = [(name, first[id(p)]) for name, p in names if id(p) in first]
    rates: dict[str, float] = {}
    for key, rate in lr_by.items():
        meant = matches(model, key)
        inside = [one for n, one in trained if n in meant or n.rpartition(".")[0] in meant]
        if not inside:
            raise InputError(
                f"lr_by has a rate for {key!r}, where no parameter requires a gradient; leave it "
                "away, or unfreeze what is to be trained"
            )
        rates.update(dict.fromkeys(inside, rate))
    return rates


def _groups(
    model: nn.Module, own: Mapping[str, float], rates: Mapping[str, float] | None
) -> list[dict[str, Any]]:
    """Parameters that are stepped alike; first those with the run's own rate, vectors last of each.

    Without relative `rates` the optimizer is the user's own, which decays as it does.
    """
    alike: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            settings: dict[str, Any] = {"own_lr": own[name]} if name in own else {}
            if rates is not None:
                relative = {"rate": rates.get(name, 1.0)}
                settings |= relative if parameter.dim() > 1 else FLAT
            alike[tuple(settings.items())].append(parameter)
    groups = [{"params": parameters, **dict(settings)} for settings, parameters in alike.items()]
    return sorted(groups, key=lambda g: ("own_lr" in g, "flat" in g, g.get("rate", 1.0) != 1.0))


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

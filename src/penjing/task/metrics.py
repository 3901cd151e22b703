"""Metrics: torchmetrics objects by their three methods, or plain functions (outputs, labels)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.errors import InputError, PenjingError
from penjing.task.batches import describe


def higher_is_better(name: str, metric: Any, told: Mapping[str, bool]) -> bool:
    """Direction of a metric.

    Args:
        name: Its name in the task.
        metric: A torchmetrics object, or a function (higher is better unless it says otherwise).
        told: Directions the user gave, by name.

    Returns:
        True when a higher value is better.

    Raises:
        InputError: A metric object that does not know its direction, and the user did not tell.
    """
    if name in told:
        return told[name]
    direction = getattr(metric, "higher_is_better", None if streams(metric) else True)
    if direction is None:
        raise InputError(
            f"metric {name!r} ({type(metric).__name__}) does not say whether higher is better; "
            f"give Task(higher_is_better={{{name!r}: True}}) or False"
        )
    return bool(direction)


def streams(metric: Any) -> bool:
    """Whether the metric is fed batch by batch, as torchmetrics objects are."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


class Scores:
    """Metrics over one pass; the user's metric objects are copied, never touched."""

    def __init__(self, metrics: Mapping[str, Any], device: torch.device) -> None:
        self._metrics = {
            name: copy.deepcopy(metric) if streams(metric) else metric
            for name, metric in metrics.items()
        }
        for metric in self._metrics.values():
            if streams(metric):
                metric.reset()
                if hasattr(metric, "to"):
                    metric.to(device)
                _keep_to_itself(metric)
        self._whole = [name for name, metric in self._metrics.items() if not streams(metric)]
        self._kept: list[tuple[Any, Any]] = []

    def update(self, outputs: Any, labels: Any) -> None:
        """Take in one batch."""
        for name, metric in self._metrics.items():
            if streams(metric):
                with understood(f"metric {name!r}", outputs, labels):
                    metric.update(outputs, labels)
        if self._whole:
            self._kept.append(pytree.tree_map(_home, (outputs, labels)))

    def compute(self) -> dict[str, float]:
        """Values over everything taken in, in the order of the task.

        Raises:
            InputError: A metric gives more than one number.
        """
        outputs, labels = _joined(self._kept) if self._whole else (None, None)
        return {name: _number(name, self._value(name, outputs, labels)) for name in self._metrics}

    def _value(self, name: str, outputs: Any, labels: Any) -> Any:
        metric = self._metrics[name]
        if streams(metric):
            return metric.compute()
        with understood(f"metric {name!r}", outputs, labels):
            return metric(outputs, labels)


@contextmanager
def understood(what: str, outputs: Any, labels: Any) -> Iterator[None]:
    """What a function of outputs and labels was given, where it cannot take them.

    Raises:
        InputError: It raised; the error says what it saw.
    """
    try:
        yield
    except (PenjingError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{what} cannot take outputs {describe(outputs)} with labels {describe(labels)}: "
            f"{type(error).__name__}: {error}; where the network has several outputs, pick the "
            "one that is meant, there or in Task(forward=...)"
        ) from error


def _keep_to_itself(metric: Any) -> None:
    """Let no torchmetrics object talk to other processes: it is told what all of them found."""
    for each in metric.modules() if hasattr(metric, "modules") else ():
        if hasattr(each, "distributed_available_fn"):
            each.distributed_available_fn = _never


def _never() -> bool:
    return False


def _home(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _joined(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """All batches as one; tensors without a batch dimension are stacked."""

    def join(*leaves: Any) -> Any:
        if not isinstance(leaves[0], Tensor):
            return list(leaves)
        return torch.cat(leaves) if leaves[0].dim() else torch.stack(leaves)

    outputs, labels = pytree.tree_map(join, pairs[0], *pairs[1:])
    return outputs, labels


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise InputError(
            f"metric {name!r} gives {describe(value)}, one number is needed; ask for an average, "
            "for instance average='macro'"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metric {name!r} gives {describe(value)}, one number is needed; "
            "a collection goes in one by one"
        ) from error

"""The task of a network with early exits: every exit is trained, and all of them are judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from penjing.errors import InputError, StrategyError
from penjing.task import Task
from penjing.task.metrics import higher_is_better, streams


def exit_task(task: Task, exits: int, weights: Sequence[float] | None = None) -> Task:
    """The same data; loss and metrics over a tuple of outputs.

    The headline, by which the best epoch is chosen, is the mean of the first metric over all exits:
    the network's own end alone would not see what the early ones have learned.

    Args:
        task: Of the original network.
        exits: Outputs of the network, its own end included.
        weights: Share of each exit in the loss; None is all alike. Only their ratios count.

    Raises:
        StrategyError: Weights of another number, or that are not positive.
        InputError: A task that calls the model itself.
    """
    refuse_forward(task)
    shares = tuple(1.0 for _ in range(exits)) if weights is None else tuple(weights)
    if len(shares) != exits or not all(share > 0 for share in shares):
        raise StrategyError(f"weights are {shares}; give one above 0 for each of {exits} exits")
    metrics: dict[str, Any] = {}
    directions: dict[str, bool] = {}
    for name, metric in (task.metrics or {}).items():
        places = tuple(range(exits))
        judged = {name: places, **{f"{name} at exit {k}": (k,) for k in places[:-1]}}
        judged[f"{name} at the end"] = places[-1:]
        up = higher_is_better(name, metric, task.higher_is_better)
        kind = StreamingOverExits if streams(metric) else MetricOverExits
        metrics.update({said: kind(metric, which, exits) for said, which in judged.items()})
        directions.update(dict.fromkeys(judged, up))
    return replace(
        task,
        loss=None if task.loss is None else LossOverExits(task.loss, shares),
        metrics=metrics or None,
        higher_is_better=directions,
    )


def refuse_forward(task: Task) -> None:
    """Refuse a task that is written for a network of one output.

    Raises:
        InputError: It calls the model itself.
    """
    if task.forward is not None:
        raise InputError(
            "the task calls the model by a forward of its own, which expects one output; leave "
            "Task(forward=...) away and give inputs as the network takes them"
        )


@dataclass(frozen=True, slots=True)
class LossOverExits:
    """The weighted mean of a loss over exits.

    Args:
        loss: Of one output and labels.
        weights: One per exit.
    """

    loss: Callable[[Any, Any], Tensor]
    weights: tuple[float, ...]

    def __call__(self, outputs: Sequence[Tensor], labels: Any) -> Tensor:
        """The loss of a batch."""
        terms = zip(self.weights, _all(outputs, len(self.weights)), strict=True)
        weighted = [weight * self.loss(output, labels) for weight, output in terms]
        mean: Tensor = sum(weighted[1:], weighted[0]) / sum(self.weights)
        return mean


@dataclass(frozen=True, slots=True)
class MetricOverExits:
    """The mean of a metric over exits, for a function of outputs and labels.

    Args:
        metric: The function.
        exits: Which exits.
        of: How many the network has.
    """

    metric: Callable[[Any, Any], Any]
    exits: tuple[int, ...]
    of: int

    def __call__(self, outputs: Sequence[Tensor], labels: Any) -> float:
        """The metric over a split."""
        said = _all(outputs, self.of)
        return sum(float(self.metric(said[k], labels)) for k in self.exits) / len(self.exits)


class StreamingOverExits:
    """The mean of a metric over exits, for an object that is fed batch by batch.

    Args:
        metric: The object; copied.
        exits: Which exits.
        of: How many the network has.
    """

    def __init__(self, metric: Any, exits: tuple[int, ...], of: int) -> None:
        self.of = of
        self.parts: Mapping[int, Any] = {k: copy.deepcopy(metric) for k in exits}

    def update(self, outputs: Sequence[Tensor], labels: Any) -> None:
        """Take in one batch."""
        said = _all(outputs, self.of)
        for k, part in self.parts.items():
            part.update(said[k], labels)

    def compute(self) -> float:
        """The mean so far."""
        return sum(float(part.compute()) for part in self.parts.values()) / len(self.parts)

    def reset(self) -> None:
        """Forget everything."""
        for part in self.parts.values():
            part.reset()

    def to(self, device: Any) -> None:
        """Move to a device."""
        for part in self.parts.values():
            if hasattr(part, "to"):
                part.to(device)

    def modules(self) -> Iterator[nn.Module]:
        """The objects inside, as those of torchmetrics have them."""
        for part in self.parts.values():
            yield from part.modules() if hasattr(part, "modules") else ()


def _all(outputs: Any, exits: int) -> Sequence[Tensor]:
    if not isinstance(outputs, (tuple, list)) or len(outputs) != exits:
        raise InputError(
            f"the network gives {type(outputs).__name__}; this task is for {exits} exits, the "
            "tuple that a network with early exits gives in training. Everything else, "
            "calibrate_exits too, takes the task of the original network"
        )
    return outputs

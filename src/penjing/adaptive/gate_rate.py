"""The rate of gates: a loss term that holds the mean work of gated blocks at a target."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.adaptive.gated import check_gated, decide
from penjing.errors import InputError, StrategyError
from penjing.training import Callback, Run
from penjing.training.matching import Listener


class GateRate(Callback):
    """Adds the squared distance between the work that gates let through and a target.

    The work of a batch is the share of the gated blocks' MACs that its samples run, on average: the
    target says what the mean sample costs, and the task's loss which samples get more.

    Args:
        target: Share of the gated blocks' MACs, in (0, 1).
        weight: Of the term, above 0.

    Raises:
        StrategyError: A value outside its range.

    Source:
        Veit & Belongie 2018, arXiv:1711.11503 (there the rate of every block by itself is held at
        its target; here only their work together is, so that training finds the share of each).
    """

    def __init__(self, target: float, weight: float = 20.0) -> None:
        if not 0 < target < 1:
            raise StrategyError(f"target is {target}; it is a share of the work, between 0 and 1")
        if not weight > 0:
            raise StrategyError(f"weight is {weight}; it must be above 0")
        self.target, self.weight = target, weight
        self._listener: Listener | None = None

    def on_start(self, run: Run, /) -> None:
        """Listen to the gates.

        Raises:
            InputError: The network has none.
        """
        gates = range(len(check_gated(run.model).gates))
        self._listener = Listener(run.model, tuple(f"gates.{index}" for index in gates))

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The loss so far and the term.

        Raises:
            InputError: There is nothing else to learn from.
        """
        if loss is None:
            raise InputError(
                "gates have nothing to learn from; give Task(loss=...) and labels, or a teacher"
            )
        assert self._listener is not None  # on_start comes first
        network, logits = check_gated(run.model), self._listener.take()
        opened = torch.stack([decide(one.float(), noisy=False).mean() for one in logits])
        costs = opened.new_tensor([site.macs for site in network.sites])
        work = opened @ (costs / costs.sum())
        return loss + self.weight * (work - self.target).square()

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Leave the network without hooks."""
        if self._listener is not None:
            self._listener.close()
        self._listener = None

    def identity(self) -> str:
        """The target and the weight."""
        return f"GateRate({self.target}, {self.weight})"

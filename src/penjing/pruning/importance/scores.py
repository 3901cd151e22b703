"""Scores that were computed once, for all groups of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.plan import Group


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one network's groups.

    Args:
        name: Of the importance that made them, for messages.
        scores: Per group, shape `(units,)`, on the CPU.
        reasons: Groups judged in a simpler way, and why.
    """

    name: str
    scores: Mapping[str, Tensor]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Scores of `group`, shape `(group.units,)`.

        Args:
            model: Not read.
            group: A group of the network that was prepared.

        Returns:
            A copy of its scores.

        Raises:
            StrategyError: The group is not one of that network.
        """
        scores = self.scores.get(group.name)
        if scores is None or scores.shape != (group.units,):
            raise StrategyError(
                f"{self.name} was prepared for another network: group {group.name!r} with "
                f"{group.units} units is not among its groups; call prepare again"
            )
        return scores.clone()


def without_data(name: str) -> StrategyError:
    """The error of an importance that is called before it has seen data."""
    return StrategyError(
        f"{name} needs calibration data: pass calibration=, or call prepare(network, calibration)"
    )

"""Evidence: what is known of the units of every group, from which a plan takes the lowest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.plan import Group


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the units of every group.

    Args:
        scores: Importance of every unit, by group.
        errors: Error after dropping the k lowest units, by group; empty where it is not known.
        gone: Units that are gone already, by group: the lowest, whatever their score.
    """

    scores: Mapping[str, Tensor]
    errors: Mapping[str, Tensor]
    gone: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def lowest(self, name: str, count: int) -> list[int]:
        """The `count` units of group `name` that go first."""
        gone = list(self.gone.get(name, ()))
        rank = self.scores[name].detach().cpu().double().clone()
        rank[gone] = -1.0
        lowest: list[int] = torch.argsort(rank, stable=True)[: max(count, len(gone))].tolist()
        return lowest


def checked(group: Group, scores: Tensor) -> Tensor:
    """Scores of an importance, refused when they break its contract.

    Raises:
        StrategyError: Wrong shape, or a value that is negative or not finite.
    """
    if not isinstance(scores, Tensor):
        raise StrategyError(
            f"the importance gave a {type(scores).__name__} for group {group.name!r}; it gives a "
            f"tensor of {group.units} scores"
        )
    if scores.shape != (group.units,):
        raise StrategyError(
            f"the importance gave scores of shape {tuple(scores.shape)} for group {group.name!r} "
            f"of {group.units} units"
        )
    if not bool(torch.isfinite(scores).all()) or bool((scores < 0).any()):
        raise StrategyError(
            f"the importance gave a score that is negative or not finite in group {group.name!r}"
        )
    return scores

"""Attention transfer: look where the teacher looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import added, check_positive, features
from penjing.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTransfer:
    """`loss + weight * mean |Q_s/|Q_s| - Q_t/|Q_t||²`, Q the mean square over channels.

    Channels are averaged away, so that a pruned student compares with its parent as it is.

    Args:
        weight: Weight of the term, above 0.

    Raises:
        StrategyError: `weight` is not above 0.

    Source:
        Zagoruyko & Komodakis 2017, arXiv:1612.03928, equation 2 with p = 2; here the mean over
        positions of the squared distance, summed over nothing, so that `weight` does not depend on
        the size of the maps.

    Example:
        >>> maps = (torch.ones(2, 3, 4, 4),)
        >>> float(AttentionTransfer()(maps, maps))
        0.0
    """

    of_features: ClassVar[bool] = True

    weight: float = 100.0

    def __post_init__(self) -> None:
        check_positive(weight=self.weight)

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Matched inner tensors of the student, `BC...` or `BTC`.
            teacher: The teacher's, in the same order.
            loss: The loss so far; None for unlabelled data.

        Returns:
            A scalar.

        Raises:
            InputError: A pair has no positions, or other positions.
        """
        terms = [self._one(a, b) for a, b in features(student, teacher)]
        return added(torch.stack(terms).mean(), self.weight, loss)

    def _one(self, student: Tensor, teacher: Tensor) -> Tensor:
        mine, theirs = _attention(student), _attention(teacher)
        if mine.shape != theirs.shape:
            raise InputError(
                f"matched tensors of shape {tuple(student.shape)} and {tuple(teacher.shape)} have "
                "other positions; attention transfer compares positions, so match other layers"
            )
        return F.mse_loss(mine, theirs)


def _attention(x: Tensor) -> Tensor:
    if x.dim() < 3:
        raise InputError(
            f"a matched tensor of shape {tuple(x.shape)} has no positions to attend to; match "
            "layers with maps or sequences"
        )
    energy = x.square().mean(1).flatten(1) if x.dim() > 3 else x.square().mean(-1)
    return F.normalize(energy, dim=1)

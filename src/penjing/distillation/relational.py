"""Relational distillation: samples lie to each other as they do in the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import added, check_positive, features, vectors
from penjing.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Relational:
    """`loss + distance * L_D + angle * L_A`: distances and angles among the samples of a batch.

    Only relations are compared, so widths may differ. Maps and sequences count as their mean.

    Args:
        distance: Weight of the distances, above 0.
        angle: Weight of the angles, above 0.

    Raises:
        StrategyError: A value that is not above 0.

    Source:
        Park et al. 2019, arXiv:1904.05068, equations 5 to 8, Huber loss with threshold 1.

    Example:
        >>> vectors = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)
        >>> float(Relational()(vectors, vectors))
        0.0
    """

    of_features: ClassVar[bool] = True

    distance: float = 25.0
    angle: float = 50.0

    def __post_init__(self) -> None:
        check_positive(distance=self.distance, angle=self.angle)

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Matched inner tensors of the student, the batch first.
            teacher: The teacher's, in the same order.
            loss: The loss so far; None for unlabelled data.

        Returns:
            A scalar.

        Raises:
            InputError: A batch of fewer than three samples has no angles.
        """
        terms = [self._one(vectors(a), vectors(b)) for a, b in features(student, teacher)]
        return added(torch.stack(terms).mean(), 1.0, loss)

    def _one(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 3:
            raise InputError(
                f"relations among {len(student)} samples hold no angle; batches of 3 at least"
            )
        far = F.smooth_l1_loss(_distances(student), _distances(teacher))
        turned = F.smooth_l1_loss(_angles(student), _angles(teacher))
        return self.distance * far + self.angle * turned


def _distances(x: Tensor) -> Tensor:
    """Distances of all pairs over their mean, shape (samples, samples)."""
    gaps = x[None] - x[:, None]
    # the gradient of a norm at zero, which the diagonal is, does not exist
    far = gaps.square().sum(-1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    apart = far.sum() / (len(x) * (len(x) - 1))
    return far / apart.clamp_min(torch.finfo(x.dtype).eps)


def _angles(x: Tensor) -> Tensor:
    """Cosines of the angles at each sample between all pairs of others."""
    directions = F.normalize(x[None] - x[:, None], dim=-1, eps=1e-6)
    return directions @ directions.transpose(1, 2)

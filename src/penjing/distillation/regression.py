"""Feature regression: what the teacher knows inside must be in the student, or readable from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import added, best_reader, check_positive, features, rows
from penjing.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """`loss + weight * mean |T - S R|² / |T - mean T|²`, R the best linear reader of the batch.

    R is solved by ridge least squares on every batch, so that widths may differ and no layer is
    added, trained or thrown away. R is held fixed in the gradient, which is exact at its optimum.

    Args:
        weight: Weight of the term, above 0.
        ridge: Damping, relative to the mean diagonal of the student's Gram matrix, above 0.
        reader: False compares channel with channel, R being the identity: stricter, for students
            whose matched layers have the units of the teacher, such as the sums of residual blocks
            that were pruned inside.

    Raises:
        StrategyError: A value that is not above 0.

    Source:
        Romero et al. 2015, arXiv:1412.6550, section 2.2 (hint regression). Deviation: the regressor
        is the closed-form solution for the batch, not a layer that is trained along.

    Example:
        >>> maps = (torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)),)
        >>> round(float(Regression()(maps, maps)), 3)
        0.0
    """

    of_features: ClassVar[bool] = True

    weight: float = 1.0
    ridge: float = 1e-4
    reader: bool = True

    def __post_init__(self) -> None:
        check_positive(weight=self.weight, ridge=self.ridge)

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Matched inner tensors of the student, `BC...`, `BTC` or `BC`.
            teacher: The teacher's, with as many positions.
            loss: The loss so far; None for unlabelled data.

        Returns:
            A scalar.

        Raises:
            InputError: A pair has other positions, or fewer positions than the student has
                channels, where every target could be met; without a reader, another shape or a
                single row.
        """
        terms = [self._one(a, b) for a, b in features(student, teacher)]
        return added(torch.stack(terms).mean(), self.weight, loss)

    def _one(self, student: Tensor, teacher: Tensor) -> Tensor:
        missed = self._unread(student, teacher) if self.reader else self._unlike(student, teacher)
        t_ND = rows(teacher)
        variance = (t_ND - t_ND.mean(0)).square().mean()
        return missed / variance.clamp_min(torch.finfo(teacher.dtype).tiny)

    def _unlike(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape or len(rows(teacher)) == 1:
            raise InputError(
                f"matched tensors of shape {tuple(student.shape)} and {tuple(teacher.shape)} "
                "cannot be compared channel by channel, which takes equal shapes and at least 2 "
                "rows; take reader=True, larger batches, or match other layers"
            )
        return F.mse_loss(student, teacher)

    def _unread(self, student: Tensor, teacher: Tensor) -> Tensor:
        s_NC, t_ND = rows(student), rows(teacher)
        if s_NC.shape[0] != t_ND.shape[0] or s_NC.shape[0] <= s_NC.shape[1]:
            raise InputError(
                f"matched tensors of shape {tuple(student.shape)} and {tuple(teacher.shape)} give "
                f"{s_NC.shape[0]} and {t_ND.shape[0]} rows for {s_NC.shape[1]} channels; equal "
                "numbers above the channels are needed: match other layers, or larger batches"
            )
        s_NC, t_ND = s_NC - s_NC.mean(0), t_ND - t_ND.mean(0)
        return F.mse_loss(s_NC @ best_reader(s_NC, t_ND, self.ridge), t_ND)

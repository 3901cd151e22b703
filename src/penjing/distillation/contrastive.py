"""Contrastive distillation: each sample's student is nearest to its own teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import (
    added,
    best_reader,
    check_positive,
    features,
    rows,
    vectors,
)
from penjing.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive:
    """`loss + weight * cross entropy of similarities`, the other samples of the batch as negatives.

    Student vectors are read into the teacher's space by the best linear map of the batch, as in
    `Regression`, so that widths may differ.

    Args:
        weight: Weight of the term, above 0.
        temperature: Of the similarities, above 0.
        ridge: Damping of the map, relative, above 0.

    Raises:
        StrategyError: A value that is not above 0.

    Source:
        Tian et al. 2020, arXiv:1910.10699, the objective of section 3.1 with the negatives of
        the batch (van den Oord et al. 2018, arXiv:1807.03748, equation 4). Deviations: no memory
        bank; the projections are one closed-form linear map.

    Example:
        >>> samples = (torch.eye(6),)
        >>> float(Contrastive()(samples, samples)) < 0.01
        True
    """

    of_features: ClassVar[bool] = True

    weight: float = 1.0
    temperature: float = 0.1
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        check_positive(weight=self.weight, temperature=self.temperature, ridge=self.ridge)

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Matched inner tensors of the student, the batch first.
            teacher: The teacher's, in the same order.
            loss: The loss so far; None for unlabelled data.

        Returns:
            A scalar.

        Raises:
            InputError: A batch of one sample has no negatives.
        """
        terms = [self._one(a, b) for a, b in features(student, teacher)]
        return added(torch.stack(terms).mean(), self.weight, loss)

    def _one(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < 2:
            raise InputError("a batch of one sample has no negatives; batches of 2 at least")
        mine, theirs = vectors(student), vectors(teacher)
        reader = best_reader(rows(student), rows(teacher), self.ridge)
        alike = F.normalize(mine @ reader, dim=1) @ F.normalize(theirs, dim=1).T
        own = torch.arange(len(alike), device=alike.device)
        return F.cross_entropy(alike / self.temperature, own)

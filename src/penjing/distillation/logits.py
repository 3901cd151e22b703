"""Logit distillation: the student learns the softened outputs of its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import pairs
from penjing.errors import InputError, StrategyError

Kind = Literal["classes", "binary", "values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """`(1 - weight) * loss + weight * T² * KL(teacher || student)`, both softened by T.

    Args:
        temperature: T > 0; above 1 the teacher's small scores count more.
        weight: Share of the teacher in [0, 1]; without a loss the teacher's term stands alone.
        kind: What outputs are: scores of "classes", one "binary" logit each, or "values", which are
            compared by their mean squared error, without a temperature.
        class_dim: Dimension of the classes.

    Raises:
        StrategyError: A value outside its range.

    Source:
        Hinton et al. 2015, arXiv:1503.02531, section 2. Deviations: the mean is over every position
        that has scores, so that dense outputs weigh as much as one per sample; several outputs
        count equally; squared error for values, as is usual for regression.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0]])
        >>> Logits(weight=1.0)(scores, scores)
        tensor(0.)
    """

    of_features: ClassVar[bool] = False

    temperature: float = 4.0
    weight: float = 0.9
    kind: Kind = "classes"
    class_dim: int = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise StrategyError(f"temperature is {self.temperature}; it must be above 0, often 4")
        if not 0 <= self.weight <= 1:
            raise StrategyError(
                f"weight is {self.weight}; it is the teacher's share of the loss, in [0, 1]"
            )
        if self.kind not in get_args(Kind):
            raise StrategyError(f"kind is {self.kind!r}; it is one of {', '.join(get_args(Kind))}")

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Outputs of the student: a tensor, or a structure of tensors.
            teacher: Outputs of the teacher, of the same shapes; no gradient flows into them.
            loss: The task's own loss; None for unlabelled data.

        Returns:
            A scalar, float32 or wider, on the device of the outputs.

        Raises:
            InputError: The shapes differ, or the outputs hold no scores of classes.
        """
        term = torch.stack([self._one(a, b) for a, b in pairs(student, teacher)]).mean()
        return term if loss is None else (1 - self.weight) * loss + self.weight * term

    def _one(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "values":
            return F.mse_loss(student, teacher)
        if self.kind == "binary":  # one logit against nothing is a choice of two classes
            student, teacher = (torch.stack([x, torch.zeros_like(x)]) for x in (student, teacher))
        dim = 0 if self.kind == "binary" else self.class_dim
        if student.dim() <= dim or student.shape[dim] < 2:
            raise InputError(
                f"outputs of shape {tuple(student.shape)} hold no scores of classes in dimension "
                f'{dim}; for one logit each give Task(kind="binary"), for regression '
                'Task(kind="values"), for classes elsewhere Task(class_dim=...)'
            )
        log_p = F.log_softmax(teacher / self.temperature, dim)
        log_q = F.log_softmax(student / self.temperature, dim)
        divergence = (log_p.exp() * (log_p - log_q)).sum(dim)
        return divergence.mean() * self.temperature**2

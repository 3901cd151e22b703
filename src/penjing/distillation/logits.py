"""Logit distillation: the student learns the softened outputs of its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import pairs
from penjing.errors import InputError, StrategyError
from penjing.task.outputs import Kinds, Output, Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """`(1 - weight) * loss + weight * T² * KL(teacher || student)`, both softened by T.

    Args:
        temperature: T > 0; above 1 the teacher's small scores count more.
        weight: Share of the teacher in [0, 1]; without a loss the teacher's term stands alone.
        kind: What outputs are: scores of "classes", one "binary" logit each, or "values", which are
            compared by their mean squared error, without a temperature; of several outputs also one
            for each, by name or in turn.
        class_dim: Dimension of the classes; None finds it, as `penjing.task.outputs` says.

    Raises:
        StrategyError: A value outside its range, or an unknown kind.

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
    kind: Kinds = "classes"
    class_dim: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise StrategyError(f"temperature is {self.temperature}; it must be above 0, often 4")
        if not 0 <= self.weight <= 1:
            raise StrategyError(
                f"weight is {self.weight}; it is the teacher's share of the loss, in [0, 1]"
            )
        try:
            _ = self._outputs
        except InputError as error:
            raise StrategyError(str(error)) from error

    @property
    def _outputs(self) -> Outputs:
        return Outputs(self.kind, self.class_dim)

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
        together = pairs(student, teacher, self._outputs)
        term = torch.stack([self._one(out, a, b) for out, a, b in together]).mean()
        return term if loss is None else (1 - self.weight) * loss + self.weight * term

    def _one(self, out: Output, student: Tensor, teacher: Tensor) -> Tensor:
        if out.kind == "values":
            return F.mse_loss(student, teacher)
        log_p, log_q = (
            F.log_softmax(out.scores(x) / self.temperature, -1) for x in (teacher, student)
        )
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * self.temperature**2

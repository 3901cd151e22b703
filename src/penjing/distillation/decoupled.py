"""Decoupled distillation: the right class and the others weighed apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from penjing.distillation.protocol import added, check_positive, pairs
from penjing.errors import InputError
from penjing.task.outputs import Kinds, Output, Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoupled:
    """`loss + T² * (alpha * TCKD + beta * NCKD)`, at temperature T.

    TCKD compares the probability of the target against all others, NCKD the distribution among the
    others. The target of a sample is the teacher's own best class, so that no label is needed.

    Args:
        temperature: T > 0.
        alpha: Weight of the target's part, above 0.
        beta: Weight of the others' part, above 0; 8 was best on 100 classes.
        kind: What several outputs are, for each by name or in turn; values are compared by their
            mean squared error.
        class_dim: Dimension of the classes; None finds it, as `penjing.task.outputs` says.

    Raises:
        StrategyError: A value outside its range.

    Source:
        Zhao et al. 2022, arXiv:2203.08679, equation 7. Deviation: the target is the teacher's best
        class, where the paper takes the label.

    Example:
        >>> scores = torch.tensor([[2.0, -1.0, 0.5]])
        >>> float(Decoupled()(scores, scores))
        0.0
    """

    of_features: ClassVar[bool] = False

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 2.0
    kind: Kinds = "classes"
    class_dim: int | None = None

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, alpha=self.alpha, beta=self.beta)

    def __call__(self, student: Any, teacher: Any, loss: Tensor | None = None) -> Tensor:
        """The loss to train on.

        Args:
            student: Scores of the student: a tensor, or a structure of tensors.
            teacher: Scores of the teacher, of the same shapes.
            loss: The loss so far; None for unlabelled data.

        Returns:
            A scalar.

        Raises:
            InputError: The shapes differ, or there are fewer than three classes.
        """
        together = pairs(student, teacher, Outputs(self.kind, self.class_dim))
        term = torch.stack([self._one(out, a, b) for out, a, b in together]).mean()
        return added(term, 1.0, loss)

    def _one(self, out: Output, student: Tensor, teacher: Tensor) -> Tensor:
        if out.kind == "values":
            return F.mse_loss(student, teacher)
        student, teacher, dim = out.scores(student), out.scores(teacher), -1
        if student.shape[dim] < 3:
            raise InputError(
                f"outputs of shape {tuple(out.value.shape)} hold no three classes in dimension "
                f"{out.class_dim}; decoupled distillation compares the classes beside the target. "
                "Take Logits"
            )
        best = teacher.argmax(dim, keepdim=True)
        log_p, log_q = (F.log_softmax(x / self.temperature, dim) for x in (teacher, student))
        p_target, q_target = (x.gather(dim, best) for x in (log_p, log_q))
        others = torch.ones_like(teacher, dtype=torch.bool).scatter(dim, best, value=False)
        p_rest, q_rest = (
            x.masked_fill(~others, -torch.inf).logsumexp(dim, keepdim=True) for x in (log_p, log_q)
        )
        target = p_target.exp() * (p_target - q_target) + p_rest.exp() * (p_rest - q_rest)
        p_among = (log_p - p_rest).exp() * others
        among = (p_among * ((log_p - p_rest) - (log_q - q_rest))).sum(dim)
        return self.temperature**2 * (self.alpha * target.mean() + self.beta * among.mean())

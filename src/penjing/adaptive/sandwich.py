"""The sandwich rule: every step trains the widest, the narrowest and some widths between."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.adaptive.slimmable import FULL, check_slimmable
from penjing.distillation import Distillation, Logits
from penjing.errors import InputError, StrategyError
from penjing.training import Callback, Run


class Sandwich(Callback):
    """Trains all widths of a slimmable network at once, the full one being the teacher.

    The full width learns from the task; the narrowest and `between` others, drawn anew at each
    step, learn what the full width says in the same step.

    Args:
        between: Widths drawn per step beside the widest and the narrowest, 0 or more.
        loss: How the full width counts; None is the divergence of the outputs alone.

    Raises:
        StrategyError: `between` is negative, or a loss that compares inner tensors.

    Source:
        Yu & Huang 2019, arXiv:1903.05134 (sandwich rule, in-place distillation). There the losses
        are added up; here their mean is taken, so that a learning rate means what it does without.
    """

    def __init__(self, between: int = 2, loss: Distillation | None = None) -> None:
        if between < 0:
            raise StrategyError(f"between is {between}; it is a number of widths, 0 or more")
        if loss is not None and loss.of_features:
            raise StrategyError("widths teach by their outputs; take Logits or Decoupled")
        self.between = between
        self.loss = loss

    def on_start(self, run: Run, /) -> None:
        """Begin at the full width.

        Raises:
            InputError: The network has one width.
        """
        check_slimmable(run.model).set_width(FULL)

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The mean over the widths of this step.

        Raises:
            InputError: The full width has nothing to learn from.
        """
        if loss is None:
            raise InputError(
                "the full width has nothing to learn from; give Task(loss=...) and labels, or a "
                "teacher"
            )
        model, task = check_slimmable(run.model), run.part
        lesson = self.loss or Logits(
            temperature=1.0, weight=1.0, kind=task.kind, class_dim=task.class_dim
        )
        terms = [loss]
        for width in self._drawn(model.widths):
            with model.at(width):
                terms.append(lesson(task.predict(model, run.inputs), run.outputs, None))
        return torch.stack(terms).mean()

    def identity(self) -> str:
        """How many widths, and the loss."""
        return f"Sandwich({self.between}, {self.loss})"

    def _drawn(self, widths: tuple[float, ...]) -> list[float]:
        narrowest, *middle, _ = widths
        order = torch.randperm(len(middle))[: self.between].tolist()
        return [narrowest, *(middle[place] for place in order)]

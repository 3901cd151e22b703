"""GraSP: what keeps the gradient flowing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from penjing.graph.capture import Program
from penjing.pruning.gradients import mean_gradient
from penjing.pruning.saliency._labelled import Labelled
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Grasp(Labelled):
    """Weight times Hessian times gradient, w (Hg): how much the squared gradient norm would fall.

    Values are signed: an element whose removal makes the gradient larger is negative and goes
    first.

    Args:
        loss: `loss(outputs, labels)`, a mean over samples, twice differentiable.
        samples: Samples at most, the first ones of the calibration data.

    Raises:
        StrategyError: `samples` is below 1.

    Source:
        Wang et al. 2020, arXiv:2002.07376, eq. 8 with its sign turned, so that the lowest goes.
        There at initialisation, with outputs divided by a temperature of 200; give such a loss for
        that.
    """

    name: ClassVar[str] = "grasp"

    def elements(
        self, program: Program, weights: Mapping[str, Tensor], calibration: Calibration | None, /
    ) -> dict[str, Tensor]:
        """Part of every element in the flow of the gradient.

        Args:
            program: The captured network.
            weights: The parameters that are judged; the gradient is taken in these alone.
            calibration: Samples with labels.

        Returns:
            By name, each in the shape of its weight, signed.

        Raises:
            StrategyError: Data or labels are missing.
        """
        pieces = self.pieces(program, calibration)
        gradient = mean_gradient(program, weights, pieces, self.loss)
        curved = mean_gradient(program, weights, pieces, self.loss, along=gradient)
        return {name: curved[name] * weight for name, weight in weights.items()}

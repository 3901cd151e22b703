"""GraSP: what keeps the gradient flowing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from penjing.graph.capture import Program
from penjing.pruning.gradients import (
    LARGEST_CHUNK,
    Loss,
    class_loss,
    mean_gradient,
    whole_chunks,
)
from penjing.pruning.saliency.protocol import check_samples, given
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Grasp:
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

    loss: Loss = class_loss
    samples: int = 1000

    def __post_init__(self) -> None:
        check_samples("grasp", self.samples)

    @property
    def needs_data(self) -> bool:
        """Always, with labels."""
        return True

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
        data = given(calibration, "grasp")
        pieces = list(whole_chunks(program, data, LARGEST_CHUNK, self.samples, "grasp"))
        gradient = mean_gradient(program, weights, pieces, self.loss)
        curved = mean_gradient(program, weights, pieces, self.loss, along=gradient)
        return {name: curved[name] * weight for name, weight in weights.items()}

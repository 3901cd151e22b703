"""Movement: where a step of gradient descent takes each weight, to zero or away from it."""

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
class Movement(Labelled):
    """Minus gradient times weight, -g w, signed: high where the loss drives a weight from zero.

    It is also what the loss would rise by if the element went, to first order.

    Args:
        loss: `loss(outputs, labels)`, a mean over samples.
        samples: Samples at most, the first ones of the calibration data.

    Raises:
        StrategyError: `samples` is below 1.

    Source:
        Sanh et al. 2020, arXiv:2005.07683, eq. 3. Deviation: there summed over the steps of a
        training, as `penjing.sparse_training.Movement` does; here over the samples, on the network
        as it is.
    """

    name: ClassVar[str] = "movement"

    def elements(
        self, program: Program, weights: Mapping[str, Tensor], calibration: Calibration | None, /
    ) -> dict[str, Tensor]:
        """Score of every element.

        Args:
            program: The captured network.
            weights: The parameters that are judged.
            calibration: Samples with labels.

        Returns:
            By name, each in the shape of its weight.

        Raises:
            StrategyError: Data or labels are missing.
        """
        pieces = self.pieces(program, calibration)
        gradient = mean_gradient(program, weights, pieces, self.loss)
        return {name: -gradient[name] * weight for name, weight in weights.items()}

"""Movement: where a step of gradient descent takes each weight, to zero or away from it."""

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
class Movement:
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

    loss: Loss = class_loss
    samples: int = 1000

    def __post_init__(self) -> None:
        check_samples("movement", self.samples)

    @property
    def needs_data(self) -> bool:
        """Always, with labels."""
        return True

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
        data = given(calibration, "movement")
        pieces = list(whole_chunks(program, data, LARGEST_CHUNK, self.samples, "movement"))
        gradient = mean_gradient(program, weights, pieces, self.loss)
        return {name: -gradient[name] * weight for name, weight in weights.items()}

"""SNIP: how much the loss feels each connection."""

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
class Snip:
    """Absolute value of gradient times weight, |g w|, with the gradient of the mean loss.

    Args:
        loss: `loss(outputs, labels)`, a mean over samples.
        samples: Samples at most, the first ones of the calibration data.

    Raises:
        StrategyError: `samples` is below 1.

    Source:
        Lee et al. 2019, arXiv:1810.02340, eq. 4, without the division by the sum, which changes no
        order. There before training; here on the network as it is. At a minimum of the loss the
        mean gradient is close to zero, so on a trained network the order is noisy: `Fisher` is
        meant for those.
    """

    loss: Loss = class_loss
    samples: int = 1000

    def __post_init__(self) -> None:
        check_samples("snip", self.samples)

    @property
    def needs_data(self) -> bool:
        """Always, with labels."""
        return True

    def elements(
        self, program: Program, weights: Mapping[str, Tensor], calibration: Calibration | None, /
    ) -> dict[str, Tensor]:
        """Sensitivity of every element.

        Args:
            program: The captured network.
            weights: The parameters that are judged.
            calibration: Samples with labels.

        Returns:
            By name, each in the shape of its weight, not negative.

        Raises:
            StrategyError: Data or labels are missing.
        """
        data = given(calibration, "snip")
        pieces = list(whole_chunks(program, data, LARGEST_CHUNK, self.samples, "snip"))
        gradient = mean_gradient(program, weights, pieces, self.loss)
        return {name: (gradient[name] * weight).abs() for name, weight in weights.items()}

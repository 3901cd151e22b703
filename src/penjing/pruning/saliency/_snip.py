"""SNIP: how much the loss feels each connection."""

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
class Snip(Labelled):
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

    name: ClassVar[str] = "snip"

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
        pieces = self.pieces(program, calibration)
        gradient = mean_gradient(program, weights, pieces, self.loss)
        return {name: (gradient[name] * weight).abs() for name, weight in weights.items()}

"""What saliencies by the gradient of a loss with labels have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from penjing.graph.capture import Program
from penjing.pruning.gradients import LARGEST_CHUNK, Loss, class_loss, whole_chunks
from penjing.pruning.saliency.protocol import check_samples, given
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Settings of such a saliency; a subclass says its name and its scores.

    Args:
        loss: `loss(outputs, labels)`, a mean over samples.
        samples: Samples at most, the first ones of the calibration data.

    Raises:
        StrategyError: `samples` is below 1.
    """

    name: ClassVar[str]

    loss: Loss = class_loss
    samples: int = 1000

    def __post_init__(self) -> None:
        check_samples(self.name, self.samples)

    @property
    def needs_data(self) -> bool:
        """Always, with labels."""
        return True

    def pieces(self, program: Program, calibration: Calibration | None) -> list[Any]:
        """The samples, piece by piece.

        Raises:
            StrategyError: Data or labels are missing.
        """
        data = given(calibration, self.name)
        return list(whole_chunks(program, data, LARGEST_CHUNK, self.samples, self.name))

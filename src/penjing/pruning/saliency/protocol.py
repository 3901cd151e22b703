"""What a saliency is: a value for every element of every weight, from the whole network at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.task import Calibration


@runtime_checkable
class Saliency(Protocol):
    """Judge single elements. Units add theirs up, patterns average over blocks."""

    @property
    def needs_data(self) -> bool:
        """Whether `elements` reads calibration data."""
        ...

    def elements(
        self, program: Program, weights: Mapping[str, Tensor], calibration: Calibration | None, /
    ) -> dict[str, Tensor]:
        """One finite value per element; the lowest matters least. Values may be negative.

        Args:
            program: The captured network, in eval mode; not changed.
            weights: The parameters that are judged, by qualified name, detached.
            calibration: Samples, with labels where the saliency needs them.

        Returns:
            By name, each in the shape of its weight.
        """
        ...


def check_samples(name: str, samples: int) -> None:
    """Refuse a number of samples that is none.

    Args:
        name: Of the saliency, for the message.
        samples: Samples at most.

    Raises:
        StrategyError: It is below 1.
    """
    if samples < 1:
        raise StrategyError(f"{name}: samples is {samples}; it must be at least 1")


def given(calibration: Calibration | None, name: str) -> Calibration:
    """The calibration data, refused when there is none.

    Raises:
        StrategyError: There is none; the message names the saliency.
    """
    if calibration is None:
        raise StrategyError(f"{name} needs data; pass calibration=batches")
    return calibration

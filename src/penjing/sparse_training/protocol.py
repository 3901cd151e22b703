"""What a method of sparse training is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from penjing.sparse_training.masks import Masks


@dataclass(eq=False, slots=True)
class Moment:
    """Where a run is, as a method sees it.

    Args:
        masks: The masks and the network.
        progress: Share of the run that is done, in [0, 1].
        updated: Progress at the last time the masks changed; negative before the first.
        memory: Tensors that a method keeps from step to step, by names of its own.
        restarts: Set by a method when the optimizer must begin anew; taken back after that.
    """

    masks: Masks
    progress: float = 0.0
    updated: float = -1.0
    memory: dict[str, Tensor] = field(default_factory=dict)
    restarts: bool = False

    def due(self, every: float) -> bool:
        """Whether `every` of the run has passed since the masks changed; notes it when so."""
        if self.updated >= 0 and self.progress - self.updated < every - 1e-9:
            return False
        self.updated = self.progress
        return True


class Method(Protocol):
    """When masks change and how. Any object of this shape is one.

    It keeps no state of its own: what it needs from step to step is in `Moment.memory`.
    """

    @property
    def final_sparsity(self) -> float:
        """Share of zeros at the end."""
        ...

    @property
    def complete_at(self) -> float:
        """Progress from which on all zeros are there."""
        ...

    def on_gradients(self, moment: Moment, /) -> None:
        """Dense gradients are there; they are masked after this."""

    def on_weights(self, moment: Moment, /) -> None:
        """The optimizer has stepped; weights are masked after this."""

"""Zeros that training leaves alone: what was sparse before stays sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.training import Callback, Run


class KeepZeros(Callback):
    """Keeps every zero of the matrices and kernels that hold zeros and other values.

    Gradients of zeros are taken out before the optimizer sees them, and what it moves all the same,
    by momentum of an earlier life or by its own rule, goes back to zero. A weight of zeros alone is
    one that has not been trained yet, and is left free.
    """

    def __init__(self) -> None:
        self._masks: dict[str, Tensor] = {}

    def on_start(self, run: Run, /) -> None:
        """Remember where zeros are."""
        for name, weight in run.model.named_parameters():
            if is_sparse(weight):
                self._masks[name] = weight.detach() != 0

    def on_backward(self, run: Run, /) -> None:
        """No gradient for zeros."""
        for name, mask in self._masks.items():
            gradient = run.model.get_parameter(name).grad
            if gradient is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def on_step(self, run: Run, /) -> None:
        """Zeros again."""
        for name, mask in self._masks.items():
            run.model.get_parameter(name).mul_(mask)

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Forget them."""
        self._masks = {}


def is_sparse(weight: Tensor) -> bool:
    """Whether a matrix or kernel holds zeros and other values."""
    zeros = weight.numel() - int(weight.count_nonzero())
    return weight.dim() > 1 and 0 < zeros < weight.numel()

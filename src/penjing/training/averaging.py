"""The moving average of the weights, which is judged, kept and given back."""

from __future__ import annotations

from typing import Any

import torch

from penjing.errors import StrategyError
from penjing.training.callbacks import Callback
from penjing.training.run import Run, Tensors, snapshot, tensors_of, write_back


class Averaging(Callback):
    """Judge and keep the moving average of the weights, train the weights themselves.

    Masks survive: the average of zeros is zero. Running statistics are averaged as weights are.

    Args:
        decay: Share of the average that stays at each step, in [0, 1); early steps take
            (1 + step) / (10 + step) where that is less.

    Raises:
        StrategyError: `decay` outside its range.

    Source:
        Polyak & Juditsky 1992; exponential form and warm-up as in Tan & Le 2019, arXiv:1905.11946.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise StrategyError(f"decay is {decay}; it is a share in [0, 1), often 0.999")
        self.decay = decay
        self.average: Tensors = {}
        self._raw: Tensors = {}

    def on_start(self, run: Run, /) -> None:
        """Start from the weights as they are."""
        self.average = snapshot(run.model)

    @torch.no_grad()
    def on_step(self, run: Run, /) -> None:
        """Move the average towards the weights."""
        decay = min(self.decay, (1 + run.step) / (10 + run.step))
        for name, tensor in tensors_of(run.model).items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def on_judge(self, run: Run, /) -> None:
        """The average is judged, and kept where it is the best."""
        self._raw = snapshot(run.model)
        write_back(run.model, self.average)

    def on_epoch(self, run: Run, /) -> None:
        """Training goes on from the weights themselves."""
        write_back(run.model, self._raw)
        self._raw = {}

    def on_end(self, run: Run, /) -> None:
        """Without a best epoch to go back to, the average is what is given back."""
        if run.kept_epoch and not run.keeps_best:  # what is kept was judged, so it is an average
            write_back(run.model, run.kept)

    def identity(self) -> str:
        """The decay."""
        return f"Averaging({self.decay})"

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return dict(self.average)

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take the average back."""
        self.average = dict(state)

"""Diagonal Fisher information: the second-order cost of each element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.graph.capture import Program
from penjing.pruning.gradients import (
    Loss,
    Read,
    SampleGradients,
    as_read,
    check_read,
    refuse_fixed_batch,
    sample_chunks,
)
from penjing.pruning.saliency.protocol import check_samples, given
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher:
    """Half the mean squared gradient of an element times its square: E_x[g²] w² / 2.

    The Hessian is taken to be the diagonal of the Fisher matrix. With `loss` and labels that is the
    empirical one; without a loss, labels are drawn from the network's own prediction by one random
    projection of the outputs per sample, and none are needed.

    Args:
        samples: Samples at most, the first ones of the calibration data.
        loss: `loss(outputs, labels) -> scalar`, called with one sample as a batch.
        outputs: Without a loss: "logits", "values" or `Outputs`, as for `Taylor`.
        memory_mb: Bound on gradients and activations held at once, in MiB.
        seed: Of the projections.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        LeCun et al. 1989 (optimal brain damage), there with the diagonal of the Hessian; the Fisher
        matrix in its place as in Theis et al. 2018, arXiv:1801.05787, eq. 11.
    """

    samples: int = 1000
    loss: Loss | None = None
    outputs: Read = "logits"
    memory_mb: float = 512.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples("fisher", self.samples)
        check_read("fisher", self.outputs)
        if not self.memory_mb > 0:
            raise StrategyError(f"fisher: memory_mb is {self.memory_mb}; it must be above 0")

    @property
    def needs_data(self) -> bool:
        """Always."""
        return True

    def elements(
        self, program: Program, weights: Mapping[str, Tensor], calibration: Calibration | None, /
    ) -> dict[str, Tensor]:
        """Cost of every element.

        Args:
            program: The captured network.
            weights: The parameters that are judged.
            calibration: Samples, with labels when there is a loss.

        Returns:
            By name, each in the shape of its weight, not negative.

        Raises:
            StrategyError: Data or labels are missing, or the network takes no single samples.
        """
        data = given(calibration, "fisher")
        refuse_fixed_batch(program, "fisher")
        gradients = SampleGradients(self, program, weights, as_read(self.outputs, data))
        total = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
        seen, needs = 0, "fisher" if self.loss else ""
        for inputs, labels in sample_chunks(program, data, gradients.chunk(), self.samples, needs):
            for name, g_BW in gradients(inputs, labels).items():
                total[name] += g_BW.double().square().sum(dim=0)
            seen += program.samples(inputs)
        return {n: t / seen * weights[n].double().square() / 2 for n, t in total.items()}

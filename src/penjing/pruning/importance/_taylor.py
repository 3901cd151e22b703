"""Taylor importance by per-sample terms: first order (the Fisher form) and second order.

Suffixes: B = samples, P = positions of the dimension that is cut, U = units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.gradients import (
    Loss,
    Read,
    SampleGradients,
    as_read,
    check_read,
    refuse_fixed_batch,
    sample_chunks,
)
from penjing.pruning.importance.scores import Scores
from penjing.pruning.importance.sums import by_unit, parameters_of
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Taylor:
    """Mean square, over samples, of the first-order change that zeroing a unit would cause.

    For every sample the products of gradient and weight are summed over all that the unit cuts,
    then squared: E_x[(sum g w)^2]. With `loss` and labels, g is the gradient of the sample's loss.
    Without a loss no labels are needed: the change is that of the network's own prediction, to
    second order the KL divergence between the prediction before and after, by one random projection
    of the output per sample (the gradient of that divergence itself is zero, so it cannot be used).

    With `order=2` the score is the size of the expected change of the loss itself to second order,
    |E_x[-t + t²/2]| with t = sum g w: the curvature within the unit is that of the empirical
    Fisher matrix, its block whole and not only its diagonal. It needs the loss.

    Args:
        samples: Samples at most, the first ones of the calibration data; below 1000 scores are
            noisy.
        loss: `loss(outputs, labels) -> scalar`, called with one sample as a batch.
        outputs: Without a loss: "logits" (softmax over the classes, where there are any; see
            `penjing.task.outputs`), "values" (squared change), or an `Outputs` that says it.
        order: 1 or 2.
        memory_mb: Bound on gradients and activations held at once, in MiB.
        seed: Of the projections.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Molchanov et al. 2019, arXiv:1906.10771, eq. 8, summed over coupled slices before squaring;
        eq. 7 for the second order, there with the diagonal of the Hessian.
        The label-free form is ours: its expectation is the diagonal Fisher form of the same paper
        with labels drawn from the network.
    """

    samples: int = 1000
    loss: Loss | None = None
    outputs: Read = "logits"
    order: Literal[1, 2] = 1
    memory_mb: float = 512.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise StrategyError(f"taylor: samples is {self.samples}; it must be at least 1")
        check_read("taylor", self.outputs)
        if self.order not in (1, 2):
            raise StrategyError(f"taylor: order is {self.order}; give 1 or 2")
        if self.order == 2 and self.loss is None:
            raise StrategyError("taylor: order 2 is the change of a loss; give loss= and labels")
        if not self.memory_mb > 0:
            raise StrategyError(f"taylor: memory_mb is {self.memory_mb}; it must be above 0")

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: there is no gradient without data.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise StrategyError(
            "taylor needs calibration data: pass calibration=, or call prepare(network, "
            "calibration)"
        )

    def prepare(self, network: Network, calibration: Calibration) -> Scores:
        """Score the units of every group from one pass over the data.

        Args:
            network: The captured network, in eval mode; the model itself is not touched.
            calibration: Samples, with labels when there is a loss.

        Returns:
            An importance for the groups of `network`.

        Raises:
            StrategyError: Labels are missing, or the network takes no single samples.
        """
        program = network.program
        refuse_fixed_batch(program, "taylor")
        read = as_read(self.outputs, calibration)
        gradients = SampleGradients(self, program, parameters_of(network), read)
        sums = {g.name: torch.zeros(2, g.units, dtype=torch.float64) for g in network.groups}
        seen = 0
        needs = "taylor" if self.loss else ""
        pieces = sample_chunks(program, calibration, gradients.chunk(), self.samples, needs)
        for inputs, labels in pieces:
            terms = _first_order(gradients(inputs, labels), gradients.weights, network.groups)
            for name, terms_BU in terms.items():
                t_BU = terms_BU.double().cpu()
                sums[name] += torch.stack([t_BU.sum(dim=0), t_BU.square().sum(dim=0)])
            seen += program.samples(inputs)
        return Scores("taylor", {name: self._score(*(s / seen)) for name, s in sums.items()})

    def _score(self, mean_U: Tensor, square_U: Tensor) -> Tensor:
        """Score from the mean of the terms and the mean of their squares."""
        return (square_U if self.order == 1 else (square_U / 2 - mean_U).abs()).float()


def _first_order(
    gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], groups: Iterable[Group]
) -> dict[str, Tensor]:
    """Per group the sum of gradient times weight over all that each unit cuts, shape (B, U)."""
    sums: dict[tuple[str, int], Tensor] = {}
    terms: dict[str, Tensor] = {}
    for group in groups:
        for piece in group.slices:
            if piece.tensor not in weights:
                continue
            place = (piece.tensor, piece.dim)
            if place not in sums:
                product = (gradients[piece.tensor] * weights[piece.tensor]).movedim(
                    piece.dim + 1, 1
                )
                sums[place] = (
                    product.flatten(start_dim=2).sum(dim=2) if product.dim() > 2 else product
                )
            units_BU = by_unit(sums[place], piece, group.units)
            terms[group.name] = terms[group.name] + units_BU if group.name in terms else units_BU
    return terms

"""A saliency of single elements as an importance of units.

Suffixes: P = positions of the dimension that is cut, X = all else of the tensor, flattened.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.graph.network import Network
from penjing.plan import Group
from penjing.pruning.importance.scores import Scores, without_data
from penjing.pruning.importance.sums import (
    Reduction,
    by_unit,
    check_reduction,
    parameters_of,
    reduced,
)
from penjing.pruning.saliency import Saliency
from penjing.task import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """What a saliency says of all that a unit cuts.

    Values of a slice are added up, then the slices of a unit become one score. Where values are
    signed, all scores of the network are raised by the same amount, so that the lowest is 0.

    Args:
        saliency: `Fisher`, `Snip`, `Grasp`, `Movement`, `SynFlow` or one of your own.
        group_reduction: How the slices of a unit become one score: "sum", "mean", "max", "prod",
            "first".

    Raises:
        StrategyError: An unknown reduction.

    Source:
        Sums over coupled slices as in Fang et al. 2023, arXiv:2301.12900.
    """

    saliency: Saliency
    group_reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        check_reduction(self.group_reduction)

    @property
    def needs_data(self) -> bool:
        """As the saliency."""
        return self.saliency.needs_data

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Always refuses: a saliency looks at the whole network.

        Raises:
            StrategyError: Always; `prepare` gives the importance that can be called.
        """
        raise without_data(self._name)

    def prepare(self, network: Network, calibration: Calibration | None) -> Scores:
        """Judge every parameter that is cut, then add up by unit.

        Args:
            network: The captured network; the model behind it is not changed.
            calibration: Samples; None where the saliency needs none.

        Returns:
            An importance for the groups of `network`.
        """
        weights = parameters_of(network)
        values = self.saliency.elements(network.program, weights, calibration)
        raw = {g.name: self._of(g, values) for g in network.groups}
        lowest = min((float(s.min()) for s in raw.values()), default=0.0)
        shift = min(lowest, 0.0)
        return Scores(self._name, {name: (s - shift).float().cpu() for name, s in raw.items()})

    @property
    def _name(self) -> str:
        return type(self.saliency).__name__.lower()

    def _of(self, group: Group, values: dict[str, Tensor]) -> Tensor:
        found = []
        for piece in group.slices:
            if piece.tensor in values:
                v_PX = values[piece.tensor].double().movedim(piece.dim, 0)
                found.append(
                    by_unit(v_PX.flatten(1).sum(1) if v_PX.dim() > 1 else v_PX, piece, group.units)
                )
        if not found:
            return torch.zeros(group.units, dtype=torch.float64)
        return reduced(torch.stack(found), self.group_reduction)

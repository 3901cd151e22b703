"""Magnitude importance: cheap, a baseline without data.

Suffixes: P = positions of the dimension that is cut, X = all else of the tensor, flattened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning.importance.sums import Reduction, by_unit, check_reduction, cut_parameters
from penjing.pruning.importance.sums import reduced as over_slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude:
    """Size of all that a unit cuts: the sum of |w|^p, or the largest |w|.

    Running statistics and other buffers do not count. An element that two slices of one tensor
    share (a residual convolution cut in both dimensions) counts once for each. Scores are not
    normalised: compare within one group, or let the allocation normalise.

    Args:
        p: 1, 2, any other positive number, or infinity for the largest absolute value.
        group_reduction: How the slices of a unit become one score: "sum", "mean", "max", "prod",
            "first". None is "sum", and "max" for an infinite `p`.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Li et al. 2017, arXiv:1608.08710, there L1 and one layer; summed over coupled tensors as in
        Fang et al. 2023, arXiv:2301.12900.

    Example:
        >>> from penjing.plan import Slice
        >>> linear = nn.Linear(2, 2, bias=False)
        >>> _ = linear.weight.data.copy_(torch.tensor([[2.0, 2.0], [3.0, 3.0]]))
        >>> Magnitude(p=1)(linear, Group("fc", units=2, slices=(Slice("weight", dim=0),)))
        tensor([4., 6.])
    """

    p: float = 2.0
    group_reduction: Reduction | None = None

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise StrategyError(f"magnitude: p is {self.p}; it is above 0, infinity included")
        if self.group_reduction is not None:
            check_reduction(self.group_reduction)

    @torch.no_grad()
    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:
        """Score the units of a group.

        Args:
            model: Read, never changed.
            group: Coupled units; `group.slices` names the tensors.

        Returns:
            Shape `(group.units,)`, float32, on the device of the group's first parameter.

        Raises:
            KeyError: A slice names a tensor that `model` does not have.
            InputError: A parameter has NaN or infinite values.
        """
        largest = math.isinf(self.p)
        found: list[Tensor] = []
        for piece, weight in cut_parameters(model, group):
            w_PX = weight.float().abs().movedim(piece.dim, 0).reshape(weight.shape[piece.dim], -1)
            size_P = w_PX.amax(dim=1) if largest else w_PX.pow(self.p).sum(dim=1)
            found.append(by_unit(size_P, piece, group.units, by="max" if largest else "sum"))
        if not found:
            return torch.zeros(group.units)
        sizes = torch.stack([size.to(found[0].device) for size in found])
        return over_slices(sizes, self.group_reduction or ("max" if largest else "sum"))

"""Magnitude importance by squares: cheap, data-free, a baseline.

Suffixes: P = positions of the dimension that is cut, X = all else of the tensor, flattened.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penjing.plan import Group
from penjing.pruning.importance.sums import by_unit, cut_parameters


@torch.no_grad()
def l2(model: nn.Module, group: Group, /) -> Tensor:
    """Squared L2 norm of each unit, summed over every parameter that the unit cuts.

    Running statistics and other buffers do not count. An element that two slices of one tensor
    share (a residual convolution cut in both dimensions) counts once for each.

    Args:
        model: Read, never changed.
        group: Coupled units; `group.slices` names the tensors.

    Returns:
        Sum of squares per unit, shape `(group.units,)`, float32, on the device of the group's first
        parameter. Not normalised: compare within one group only.

    Raises:
        KeyError: A slice names a tensor that `model` does not have.
        InputError: A parameter has NaN or infinite values.

    Source:
        Li et al. 2017, arXiv:1608.08710, there L1 and one layer; summed over coupled tensors as in
        Fang et al. 2023, arXiv:2301.12900.

    Example:
        >>> from penjing.plan import Slice
        >>> linear = nn.Linear(2, 2, bias=False)
        >>> _ = linear.weight.data.copy_(torch.tensor([[2.0, 2.0], [3.0, 3.0]]))
        >>> l2(linear, Group("fc", units=2, slices=(Slice("weight", dim=0),)))
        tensor([ 8., 18.])
    """
    total: Tensor | None = None
    for piece, weight in cut_parameters(model, group):
        w_PX = (
            weight.float().movedim(piece.dim, 0).flatten(start_dim=1)
            if weight.dim() > 1
            else weight.float()[:, None]
        )
        units = by_unit(w_PX.square().sum(dim=1), piece, group.units)
        total = units if total is None else total + units.to(total.device)
    return torch.zeros(group.units) if total is None else total

"""FPGM: units that others can stand in for.

Suffixes: U = units, E = elements that a unit owns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penjing.plan import Group
from penjing.pruning.importance.sums import cut_parameters


@torch.no_grad()
def fpgm(model: nn.Module, group: Group, /) -> Tensor:
    """Sum of the Euclidean distances of a unit to all others; the most central goes first.

    A unit is the vector of all parameters that it cuts.

    Args:
        model: Read, never changed.
        group: Coupled units; `group.slices` names the tensors.

    Returns:
        Shape `(group.units,)`, float32.

    Raises:
        KeyError: A slice names a tensor that `model` does not have.
        InputError: A parameter has NaN or infinite values.

    Source:
        He et al. 2019, arXiv:1811.00250, eq. 4 and 7, there for the filters of one layer.

    Example:
        >>> from penjing.plan import Slice
        >>> linear = nn.Linear(1, 3, bias=False)
        >>> _ = linear.weight.data.copy_(torch.tensor([[0.0], [1.0], [5.0]]))
        >>> fpgm(linear, Group("fc", units=3, slices=(Slice("weight", dim=0),)))
        tensor([6., 5., 9.])
    """
    vectors = []
    for piece, weight in cut_parameters(model, group):
        w_PX = weight.double().movedim(piece.dim, 0).reshape(weight.shape[piece.dim], -1)
        index = torch.tensor([piece.positions(unit) for unit in range(group.units)])
        vectors.append(w_PX[index.to(w_PX.device)].flatten(1).cpu())
    if not vectors:
        return torch.zeros(group.units)
    v_UE = torch.cat(vectors, dim=1)
    # by differences, not by products: two equal units are at distance 0 exactly
    distance = torch.cdist(v_UE, v_UE, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.sum(dim=1).float()

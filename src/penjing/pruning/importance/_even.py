"""Evenly spaced units, without a look at the weights: how a narrower network begins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penjing.plan import Group


def even(model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG001 - the protocol's argument
    """Scores by which the units that stay lie evenly over the width, however many they are.

    The order is that of bit-reversed counting: its first k members divide the width nearly evenly
    for every k.

    Args:
        model: Not looked at.
        group: Whose units; only their number counts.

    Returns:
        One score per unit, shape `(group.units,)`, float32, a permutation of 1 to units.

    Source:
        Xu et al. 2024, arXiv:2311.18823 (uniform selection of elements of a larger network);
        van der Corput 1935 for the order.

    Example:
        >>> even(nn.Identity(), Group("fc", units=4, slices=()))
        tensor([4., 2., 3., 1.])
    """
    bits = max(group.units - 1, 1).bit_length()
    ranks = [int(f"{unit:0{bits}b}"[::-1], 2) for unit in range(group.units)]
    order = sorted(range(group.units), key=lambda unit: ranks[unit])
    scores = torch.zeros(group.units)
    scores[torch.tensor(order)] = torch.arange(group.units, 0, -1, dtype=torch.float32)
    return scores

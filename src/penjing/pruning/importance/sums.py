"""Sums over what a unit cuts: from elements of a tensor to positions of a dimension to units."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.plan import Group, Slice


def cut_parameters(model: nn.Module, group: Group) -> Iterator[tuple[Slice, Tensor]]:
    """Every parameter that the group cuts, with its slice; buffers and constants are left out.

    Args:
        model: Read, never changed.
        group: Coupled units.

    Yields:
        Slices in their order, and the parameter of each, detached.

    Raises:
        KeyError: No slice names a tensor that `model` has.
        InputError: A parameter has NaN or infinite values.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    if not any(piece.tensor in parameters or piece.tensor in buffers for piece in group.slices):
        raise KeyError(
            f"group {group.name!r} cuts {group.slices[0].tensor!r}, which the network does not "
            "have; was it found in another network?"
        )
    for piece in group.slices:
        if piece.tensor in parameters:
            weight = parameters[piece.tensor].detach()
            if not bool(torch.isfinite(weight).all()):
                raise InputError(
                    f"{piece.tensor!r} has NaN or infinite values; units of group {group.name!r} "
                    "cannot be ranked. Load weights from before training diverged"
                )
            yield piece, weight


def by_unit(positions: Tensor, piece: Slice, units: int) -> Tensor:
    """Sum what belongs to each unit.

    Args:
        positions: Values per position of the slice's dimension, in the last dimension.
        piece: Says which positions a unit owns; other units or none may own the rest.
        units: Units of the group.

    Returns:
        Values per unit, in the last dimension.

    Example:
        >>> by_unit(torch.tensor([1, 2, 3, 4]), Slice("fc.weight", 1, ((0, 1), (2, 3))), 2)
        tensor([3, 7])
    """
    if piece.index is None:
        return positions[..., :units]
    index = torch.from_numpy(np.asarray(piece.index, dtype=np.int64)).to(positions.device)
    return positions[..., index].sum(dim=-1)

"""Sums over what a unit cuts: from elements of a tensor to positions of a dimension to units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Program
from penjing.graph.network import Network
from penjing.plan import Group, Slice

Reduction = Literal["sum", "mean", "max", "prod", "first"]
"""How the values of a unit's slices become one score."""


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


def parameters_of(network: Network) -> dict[str, Tensor]:
    """Floating parameters that at least one group cuts, detached.

    Args:
        network: The captured network and its groups.
    """
    program = network.program
    names = {piece.tensor for group in network.groups for piece in group.slices}
    return {
        name: program.tensors[name].detach()
        for name in sorted(names & program.parameters)
        if program.tensors[name].is_floating_point()
    }


def squared_norms(program: Program, group: Group) -> Tensor:
    """Squared L2 norm of each unit over all its slices, for groups that cannot be judged better.

    Args:
        program: The captured network.
        group: One of its groups.

    Returns:
        `(units,)`, float64, on the CPU.
    """
    norms = torch.zeros(group.units, dtype=torch.float64)
    for piece in group.slices:
        w_PX = program.tensors[piece.tensor].detach().double().movedim(piece.dim, 0)
        norms += by_unit(w_PX.square().reshape(len(w_PX), -1).sum(1).cpu(), piece, group.units)
    return norms


def by_unit(
    positions: Tensor, piece: Slice, units: int, by: Literal["sum", "max"] = "sum"
) -> Tensor:
    """Bring together what belongs to each unit.

    Args:
        positions: Values per position of the slice's dimension, in the last dimension.
        piece: Says which positions a unit owns; other units or none may own the rest.
        units: Units of the group.
        by: Whether positions of one unit are added up, or the largest counts.

    Returns:
        Values per unit, in the last dimension.

    Example:
        >>> by_unit(torch.tensor([1, 2, 3, 4]), Slice("fc.weight", 1, ((0, 1), (2, 3))), 2)
        tensor([3, 7])
    """
    if piece.index is None:
        return positions[..., :units]
    index = torch.from_numpy(np.asarray(piece.index, dtype=np.int64)).to(positions.device)
    own = positions[..., index]
    return own.sum(dim=-1) if by == "sum" else own.amax(dim=-1)


def reduced(values: Tensor, how: Reduction) -> Tensor:
    """One score per unit from the values of its slices.

    Args:
        values: `(slices, units)`.
        how: "sum", "mean", "max", "prod" (multiplied in float64) or "first".

    Returns:
        `(units,)`, of the same dtype.

    Example:
        >>> reduced(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "prod")
        tensor([3., 8.])
    """
    if how == "first":
        return values[0].clone()
    if how == "prod":
        return values.double().prod(dim=0).to(values.dtype)
    if how == "max":
        return values.amax(dim=0)
    return values.sum(dim=0) if how == "sum" else values.mean(dim=0)


def check_reduction(how: str) -> None:
    """Refuse a reduction that does not exist.

    Raises:
        StrategyError: Lists the known ones.
    """
    if how not in get_args(Reduction):
        raise StrategyError(
            f"group_reduction is {how!r}; known are {', '.join(map(repr, get_args(Reduction)))}"
        )

"""How many units of a group must stay, because an op needs so many positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from penjing.graph.axes import Atoms, Demand, Dim


@dataclass(frozen=True, slots=True)
class Least:
    """The fewest units of a group that may stay.

    Args:
        units: How many.
        why: The op that needs them, with its source line; empty where one is enough for all.
    """

    units: int = 1
    why: str = ""


def least_units(atoms: Atoms, groups: Sequence[NDArray[np.int64]]) -> list[Least]:
    """The fewest units of every group that leave each op the positions it needs.

    A dimension with several factors, such as experts in groups, needs a product of counts: what is
    missing is then asked of the factor with the most units.

    Args:
        atoms: The algebra with its demands.
        groups: Atoms of the units of each group.

    Returns:
        One entry per group.
    """
    owner = np.full(len(atoms), -1)
    for number, units in enumerate(groups):
        owner[units] = number
    found = [Least() for _ in groups]
    several: list[tuple[Demand, float, list[int]]] = []
    for demand in atoms.demands:
        missing, owners = _missing(atoms.resolve(demand.dim), owner, demand.least)
        if len(owners) == 1:
            _raise(found, groups, owners[0], demand, missing)
        elif owners:
            several.append((demand, missing, owners))
    for demand, missing, owners in several:
        *rest, last = sorted(owners, key=lambda g: len(groups[g]))
        kept = prod(found[g].units / len(groups[g]) for g in rest)
        _raise(found, groups, last, demand, missing / kept)
    return found


def _raise(
    found: list[Least],
    groups: Sequence[NDArray[np.int64]],
    number: int,
    demand: Demand,
    share: float,
) -> None:
    """Let a group keep a share of its units at least."""
    units = min(ceil(share * len(groups[number]) - 1e-9), len(groups[number]))
    if units > found[number].units:
        reason = demand.reason
        found[number] = Least(units, f"{reason.why} {reason.where}".strip())


def _missing(resolved: Dim, owner: NDArray[np.int64], least: int) -> tuple[float, list[int]]:
    """The share that must stay of the most positions that the same groups own, and these groups.

    Positions that no group owns always stay: only what is missing beside them is asked for.
    """
    parts: dict[tuple[int, ...], int] = {}
    for row in resolved:
        owners = tuple(sorted({int(owner[a]) for a in row if a >= 0 and owner[a] >= 0}))
        parts[owners] = parts.get(owners, 0) + 1
    missing = least - parts.pop((), 0)
    owners = max(parts, key=lambda key: parts[key], default=())
    return missing / parts.get(owners, 1), list(owners) if missing > 0 else []

"""The same share of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate, Space, units_dropped


def uniform(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],  # noqa: ARG001 - the protocol's; which units go is the scores' business alone
    errors: Mapping[str, Tensor],  # noqa: ARG001 - the protocol's
    costs: Mapping[str, Cost],
    demand: Demand,
) -> dict[str, int]:
    """Drop the same share of every group.

    It is `pruning_ratio`, or the smallest share above it that meets every budget.

    Args:
        groups: What can be cut.
        scores: Not read.
        errors: Not read.
        costs: Exact costs by name, for the budgets.
        demand: Shares are rounded to whole units, then kept units up to a multiple of `round_to`.

    Returns:
        Units kept per group, in the order of `groups`.

    Raises:
        BudgetError: The demand does not fit the groups or the costs.
        InfeasibleError: Every group at its floor is still above a budget.

    Example:
        >>> group = Group("conv", units=10, slices=())
        >>> uniform([group], {}, {}, {}, Demand(pruning_ratio=0.8))
        {'conv': 2}
    """
    space = Space.of(groups, costs, demand, weighted=False)
    return space.in_order(smallest_share(space, demand.pruning_ratio or 0.0), groups)


def smallest_share(space: Space, start: float) -> Candidate:
    """The candidate of the smallest share of every group that meets the budgets."""
    units = [group.units for group in space.groups]
    steps = [
        (2 * np.arange(1, n + 1) - 1) / (2 * n) for n in units
    ]  # where rounding takes one more unit
    shares = np.unique(np.concatenate([np.array([start, 1.0]), *steps]))
    shares = shares[shares >= start]

    def candidate(number: int) -> Candidate:
        share = float(shares[number])
        return space.at_least([n - units_dropped(n, share) for n in units])

    return space.first_feasible(candidate, len(shares))

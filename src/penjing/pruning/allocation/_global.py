"""One threshold over the units of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand, checked_scores
from penjing.pruning.allocation.space import Candidate, Integers, Space


def global_(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    errors: Mapping[str, Tensor],  # noqa: ARG001 - the protocol's
    costs: Mapping[str, Cost],
    demand: Demand,
) -> dict[str, int]:
    """Drop the units whose score over the mean of its group lies below one threshold.

    The threshold is the smallest that meets the demand. `max_pruning_ratio` is the floor that keeps
    a group from collapsing.

    Args:
        groups: What can be cut.
        scores: Importance per group, shape `(units,)`, finite and non-negative.
        errors: Not read.
        costs: Exact costs by name; `pruning_ratio` needs "params".
        demand: `pruning_ratio` is the share of all units, weighted by the parameters of one unit.

    Returns:
        Units kept per group, in the order of `groups`.

    Raises:
        BudgetError: The demand does not fit the groups or the costs.
        InfeasibleError: Every group at its floor is still above a budget.
        StrategyError: Scores are missing, of a wrong shape, negative or not finite.

    Source:
        The global ranking of Molchanov et al. 2017, arXiv:1611.06440, normalised by the group's
        mean as in Fang et al. 2023, arXiv:2301.12900, with a floor per group.

    Example:
        >>> import torch
        >>> pair = [Group(name, units=2, slices=()) for name in ("a", "b")]
        >>> values = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 10.0])}
        >>> params = {"params": lambda kept: sum(kept.values())}
        >>> global_(pair, values, {}, params, Demand(pruning_ratio=0.25))
        {'a': 1, 'b': 2}
    """
    space = Space.of(groups, costs, demand, weighted=True)
    owners = _ascending(space, scores)
    units = np.array([group.units for group in space.groups], dtype=np.int64)

    def candidate(dropped: int) -> Candidate:
        gone = np.bincount(owners[:dropped], minlength=len(units))
        return space.at_least((units - gone).tolist())

    return space.in_order(space.first_feasible(candidate, len(owners) + 1), groups)


def _ascending(space: Space, scores: Mapping[str, Tensor]) -> Integers:
    """Group numbers of all units that may go, lowest normalised score first."""
    values, owners = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for number, (group, choice) in enumerate(zip(space.groups, space.options, strict=True)):
        score = np.sort(checked_scores(group, scores).numpy())
        free = group.units - int(choice[0]) if len(choice) > 1 else 0
        values.append((score / (score.mean() or 1.0))[:free])
        owners.append(np.full(free, number, dtype=np.int64))
    merged = np.concatenate(owners)
    return merged[np.lexsort((merged, np.concatenate(values)))]

"""The same loss everywhere: each group gives what it can for one bound on its own error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.losses import losses_of
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate, Space


def sensitivity(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    errors: Mapping[str, Tensor],
    costs: Mapping[str, Cost],
    demand: Demand,
) -> dict[str, int]:
    """Drop from every group as many units as one bound on the error of a group allows.

    The bound is the smallest that meets the demand. With `importance.Sensitivity` the errors are
    measured on the whole network, one group at a time.

    Args:
        groups: What can be cut.
        scores: Importance per group, read where `errors` has no entry.
        errors: Error after dropping the k lowest units, shape `(units + 1,)`.
        costs: Exact costs by name; `pruning_ratio` needs "params".
        demand: `pruning_ratio` is the share of all units, weighted by the parameters of one unit.

    Returns:
        Units kept per group, in the order of `groups`.

    Raises:
        BudgetError: The demand does not fit the groups or the costs.
        InfeasibleError: Every group at its floor is still above a budget.
        StrategyError: A score or an error is missing, of a wrong shape or not finite.

    Source:
        Thresholds by sensitivity of Han et al. 2015, arXiv:1506.02626, section 3, with one
        tolerance for all layers as in Li et al. 2017, arXiv:1608.08710.

    Example:
        >>> import torch
        >>> pair = [Group(name, units=2, slices=()) for name in ("a", "b")]
        >>> curves = {"a": torch.tensor([0.0, 0.1, 0.5]), "b": torch.tensor([0.0, 0.4, 0.9])}
        >>> units = {"units": lambda kept: sum(kept.values())}
        >>> sensitivity(pair, {}, curves, units, Demand(budgets={"units": 3}))
        {'a': 1, 'b': 2}
    """
    space = Space.of(groups, costs, demand, weighted=True)
    tables = losses_of(space, scores, errors)
    bounds = np.unique(np.concatenate([np.zeros(1), *(t[np.isfinite(t)] for t in tables)]))

    def candidate(number: int) -> Candidate:
        if number == len(bounds):
            return space.smallest
        return tuple(int((table <= bounds[number]).argmax()) for table in tables)

    return space.in_order(space.first_feasible(candidate, len(bounds) + 1), groups)

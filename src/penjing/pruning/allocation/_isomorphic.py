"""One threshold among units that are built alike, the same share of every such class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand, checked_scores
from penjing.pruning.allocation.space import Candidate, Floats, Integers, Space, units_dropped


def isomorphic(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    errors: Mapping[str, Tensor],  # noqa: ARG001 - the protocol's
    costs: Mapping[str, Cost],
    demand: Demand,
) -> dict[str, int]:
    """Drop the same share of every class of groups that are built alike, the lowest scores first.

    Heads compete with heads and neurons with neurons, across all layers, and never with one
    another: scores of structures that differ have different scales.

    Args:
        groups: What can be cut.
        scores: Importance per group, shape `(units,)`, finite and non-negative.
        errors: Not read.
        costs: Exact costs by name, for the budgets; `pruning_ratio` needs "params".
        demand: `pruning_ratio` is the least share of every class; budgets raise it.

    Returns:
        Units kept per group, in the order of `groups`.

    Raises:
        BudgetError: The demand does not fit the groups or the costs.
        InfeasibleError: Every group at its floor is still above a budget.

    Source:
        Fang et al. 2024, arXiv:2407.04616. There structures are alike when their graphs are; here
        when their units are of one kind, in one place, and cut as many dimensions of as many
        tensors.

    Example:
        >>> import torch
        >>> pair = [Group(name, units=2, slices=()) for name in ("a", "b")]
        >>> values = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 10.0])}
        >>> isomorphic(pair, values, {}, {}, Demand(pruning_ratio=0.25))
        {'a': 1, 'b': 2}
    """
    space = Space.of(groups, costs, demand, weighted=False)
    classes = _classes(space, scores)
    sizes = [len(owners) for owners in classes]
    units = np.array([group.units for group in space.groups], dtype=np.int64)
    shares = _shares(sizes, demand.pruning_ratio or 0.0)

    def candidate(number: int) -> Candidate:
        gone = np.zeros(len(units), dtype=np.int64)
        for owners in classes:
            count = units_dropped(len(owners), float(shares[number]))
            gone += np.bincount(owners[:count], minlength=len(units))
        return space.at_least((units - gone).tolist())

    return space.in_order(space.first_feasible(candidate, len(shares)), groups)


def alike(group: Group) -> Hashable:
    """What groups that are built alike have in common.

    Example:
        >>> alike(Group("a", 2, ())) == alike(Group("b", 9, ()))
        True
    """
    dims = Counter(part.dim for part in group.slices)
    return group.kind, group.scope, tuple(sorted(dims.items()))


def _classes(space: Space, scores: Mapping[str, Tensor]) -> list[Integers]:
    """Per class the group numbers of all its units, lowest score first."""
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(space.groups):
        members.setdefault(alike(group), []).append(number)
    found = []
    for numbers in members.values():
        values = [checked_scores(space.groups[n], scores).numpy() for n in numbers]
        owners = np.repeat(numbers, [len(v) for v in values])
        found.append(owners[np.lexsort((owners, np.concatenate(values)))])
    return found


def _shares(sizes: Sequence[int], least: float) -> Floats:
    """Shares from `least` up at which some class loses one more unit."""
    steps = [(2 * np.arange(1, n + 1) - 1) / (2 * n) for n in sizes]
    shares: Floats = np.unique(np.concatenate([np.array([least, 1.0]), *steps]))
    return shares[shares >= least]

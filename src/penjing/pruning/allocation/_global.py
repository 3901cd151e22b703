"""One threshold over the units of all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning.allocation.protocol import Cost, Demand, checked_scores
from penjing.pruning.allocation.space import Candidate, Floats, Integers, Space

Normalizer = Literal["mean", "max", "sum", "standarization", "gaussian", "lamp"]
"""How scores of different groups are made comparable; spelt as in Torch-Pruning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Global:
    """Drop the units whose normalised score lies below one threshold over all groups.

    The threshold is the smallest that meets the demand. `max_pruning_ratio` is the floor that keeps
    a group from collapsing.

    Args:
        normalizer: What the scores of a group are divided by or turned into before they are
            compared: their "mean", "max" or "sum"; "standarization" moves them to [0, 1],
            "gaussian" to mean 0 and deviation 1; "lamp" divides each by the sum of those not below
            it. None compares them as they are.

    Raises:
        StrategyError: An unknown normaliser.

    Source:
        The global ranking of Molchanov et al. 2017, arXiv:1611.06440, normalised by the group's
        mean as in Fang et al. 2023, arXiv:2301.12900, with a floor per group; Lee et al. 2021,
        arXiv:2010.07611, eq. 4, for "lamp", there of single weights.

    Example:
        >>> import torch
        >>> pair = [Group(name, units=2, slices=()) for name in ("a", "b")]
        >>> values = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 10.0])}
        >>> params = {"params": lambda kept: sum(kept.values())}
        >>> Global()(pair, values, {}, params, Demand(pruning_ratio=0.25))
        {'a': 1, 'b': 2}
    """

    normalizer: Normalizer | None = "mean"

    def __post_init__(self) -> None:
        if self.normalizer is not None and self.normalizer not in get_args(Normalizer):
            raise StrategyError(
                f"normalizer is {self.normalizer!r}; known are "
                f"{', '.join(map(repr, get_args(Normalizer)))} and None"
            )

    def __call__(
        self,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        errors: Mapping[str, Tensor],  # noqa: ARG002 - the protocol's
        costs: Mapping[str, Cost],
        demand: Demand,
    ) -> dict[str, int]:
        """Units kept per group, in the order of `groups`.

        Args:
            groups: What can be cut.
            scores: Importance per group, shape `(units,)`, finite and non-negative.
            errors: Not read.
            costs: Exact costs by name; `pruning_ratio` needs "params".
            demand: `pruning_ratio` is the share of all units, weighted by the parameters of one
                unit.

        Returns:
            Units kept by name.

        Raises:
            BudgetError: The demand does not fit the groups or the costs.
            InfeasibleError: Every group at its floor is still above a budget.
            StrategyError: Scores are missing, of a wrong shape, negative or not finite.
        """
        space = Space.of(groups, costs, demand, weighted=True)
        chosen = [
            normalized(np.sort(checked_scores(group, scores).numpy()), self.normalizer)
            for group in space.groups
        ]
        return space.in_order(below_one_threshold(space, chosen), groups)


def below_one_threshold(space: Space, values: Sequence[Floats]) -> Candidate:
    """The largest candidate within the budgets that drops the lowest values of all groups.

    Args:
        space: What may be kept.
        values: Per group the values of its units, ascending.

    Returns:
        The candidate.
    """
    owners = _ascending(space, values)
    units = np.array([group.units for group in space.groups], dtype=np.int64)

    def candidate(dropped: int) -> Candidate:
        gone = np.bincount(owners[:dropped], minlength=len(units))
        return space.at_least((units - gone).tolist())

    return space.first_feasible(candidate, len(owners) + 1)


def _ascending(space: Space, values: Sequence[Floats]) -> Integers:
    """Group numbers of all units that may go, lowest value first."""
    merged, owners = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for number, (group, choice) in enumerate(zip(space.groups, space.options, strict=True)):
        free = group.units - int(choice[0]) if len(choice) > 1 else 0
        merged.append(values[number][:free])
        owners.append(np.full(free, number, dtype=np.int64))
    of = np.concatenate(owners)
    return of[np.lexsort((of, np.concatenate(merged)))]


def normalized(ascending: Floats, normalizer: Normalizer | None) -> Floats:
    """Scores of one group made comparable with those of others; their order stays.

    Args:
        ascending: Scores, lowest first.
        normalizer: How; None leaves them.

    Example:
        >>> normalized(np.array([1.0, 1.0, 2.0]), "lamp").tolist()
        [0.25, 0.3333333333333333, 1.0]
    """
    return ascending if normalizer is None else _NORMALIZERS[normalizer](ascending)


def _over(value: float, scores: Floats) -> Floats:
    return scores / (value or 1.0)


_NORMALIZERS: Mapping[str, Callable[[Floats], Floats]] = {
    "mean": lambda s: _over(float(s.mean()), s),
    "max": lambda s: _over(float(s[-1]), s),
    "sum": lambda s: _over(float(s.sum()), s),
    "standarization": lambda s: _over(float(s[-1] - s[0]), s - s[0]),
    "gaussian": lambda s: _over(float(s.std()), s - s.mean()),
    "lamp": lambda s: s / np.maximum(s[::-1].cumsum()[::-1], np.finfo(np.float64).tiny),
}

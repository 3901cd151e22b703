"""What an allocation is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from penjing.errors import BudgetError, StrategyError
from penjing.plan import Group

Cost = Callable[[Mapping[str, int]], float]
"""Exact cost of a candidate, by units kept per group; must not fall when more are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is wanted: a share of units, upper bounds on costs, or both.

    Args:
        pruning_ratio: Share of units to drop, in [0, 1): of every group under `uniform`, of all
            units weighted by their parameters under any other allocation.
        budgets: Upper bounds by cost name, in the cost's own unit, absolute.
        round_to: Units that remain are rounded up to a multiple of this, never above what the group
            has.
        max_pruning_ratio: Largest share of one group that may be dropped, in [0, 1).
        steps: Multiples in place of `round_to` of single groups by name.
        ratios: Share to drop of single groups by name; such a group is not allocated any further.

    Raises:
        BudgetError: A number lies outside its range, or nothing is asked for.

    Example:
        >>> Demand(pruning_ratio=50)
        Traceback (most recent call last):
        penjing.errors.BudgetError: pruning_ratio is 50; it is a share ... so 50 percent is 0.5
    """

    pruning_ratio: float | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    round_to: int | None = None
    max_pruning_ratio: float = 0.9
    ratios: Mapping[str, float] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_ratio("max_pruning_ratio", self.max_pruning_ratio)
        if self.pruning_ratio is None and not self.budgets and not self.ratios:
            raise BudgetError(
                "nothing is asked for; give pruning_ratio=0.5 or constraints={'macs': '50%'}"
            )
        named = {f"pruning_ratio_dict[{name!r}]": ratio for name, ratio in self.ratios.items()}
        if self.pruning_ratio is not None:
            named["pruning_ratio"] = self.pruning_ratio
        for name, ratio in named.items():
            _check_ratio(name, ratio)
            if ratio > self.max_pruning_ratio:
                raise BudgetError(
                    f"{name} is {ratio}, above max_pruning_ratio={self.max_pruning_ratio}; "
                    f"raise max_pruning_ratio to {ratio} or ask for less"
                )
        for name, bound in self.budgets.items():
            if not (_is_number(bound) and math.isfinite(bound) and bound > 0):
                raise BudgetError(
                    f"the budget for {name!r} is {bound!r}; it is an upper bound, finite and above "
                    "0"
                )
        for step in (self.round_to, *self.steps.values()):
            if step is not None and (type(step) is not int or step < 1):
                raise BudgetError(
                    f"round_to is {step!r}; it is a whole number of units, at least 1 (None does "
                    "not round)"
                )

    def step(self, group: str) -> int:
        """What the units that stay of a group are a multiple of."""
        return self.steps.get(group, self.round_to or 1)


class Allocation(Protocol):
    """Decide how many units of each group are kept. Any callable of this shape is an allocation."""

    def __call__(
        self,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        errors: Mapping[str, Tensor],
        costs: Mapping[str, Cost],
        demand: Demand,
    ) -> dict[str, int]:
        """Return the units kept of every group, by name; the lowest-scored ones go.

        Args:
            groups: What can be cut; the result must not depend on their order.
            scores: Importance per group, shape `(units,)`, finite, non-negative.
            errors: Error after dropping the k lowest units, shape `(units + 1,)`, for the groups
                where it is known.
            costs: Exact costs by name; `costs["params"]` is always there. `costs["pruning_ratio"]`,
                where it is, is the share that is kept, in place of units by their parameters.
            demand: What is wanted.

        Raises:
            InfeasibleError: No permitted number of units meets the budgets.
        """
        ...


def error_curve(scores: Tensor) -> Tensor:
    """Error after dropping the k lowest units, for an importance that does not know it better.

    Args:
        scores: Importance per unit, shape `(units,)`, non-negative.

    Returns:
        Sum of the k lowest scores as a share of all, shape `(units + 1,)`, float64, on the CPU,
        from 0 to 1.

    Example:
        >>> error_curve(torch.tensor([3.0, 1.0]))
        tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    ascending = scores.detach().cpu().double().sort().values
    sums = torch.cat([ascending.new_zeros(1), ascending.cumsum(0)])
    return sums / sums[-1] if sums[-1] > 0 else sums


def checked_scores(group: Group, scores: Mapping[str, Tensor]) -> Tensor:
    """The scores of `group`, one finite non-negative number per unit.

    Raises:
        StrategyError: They are missing, of a wrong shape, negative or not finite.
    """
    if group.name not in scores:
        raise StrategyError(
            f"group {group.name!r} has no scores; the importance must score every group"
        )
    values = scores[group.name].detach().cpu().double()
    if values.shape != (group.units,):
        raise StrategyError(
            f"group {group.name!r} has {group.units} units and scores of shape "
            f"{tuple(values.shape)}; "
            f"an importance returns shape ({group.units},)"
        )
    if not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise StrategyError(
            f"group {group.name!r} has scores from {float(values.min())} to {float(values.max())}; "
            "they must be finite and not negative"
        )
    return values


def _check_ratio(name: str, ratio: float) -> None:
    if _is_number(ratio) and 0 <= ratio < 1:
        return
    if _is_number(ratio) and 1 < ratio < 100:
        fix = f"so {ratio:g} percent is {ratio / 100:g}"
    else:
        fix = "so half of the units is 0.5"
    raise BudgetError(f"{name} is {ratio!r}; it is a share of units in [0, 1), {fix}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""How much is asked of a cut, and of each of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penjing.errors import BudgetError, PlanError
from penjing.plan import Plan
from penjing.pruning.allocation.protocol import Demand
from penjing.pruning.budgets import absolute
from penjing.verbs.preparation import Preparation


@dataclass(frozen=True, slots=True)
class Goal:
    """How much is asked for, by at most one of a ratio, bounds and a plan.

    Args:
        pruning_ratio: Share of units.
        constraints: Bounds as the caller wrote them.
        plan: A plan that decides instead; carried out in one step.
        steps: Steps in which the goal is reached, by equal factors.
    """

    pruning_ratio: float | None = None
    constraints: Mapping[str, float | str] | None = None
    plan: Plan | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        given = [
            name
            for name in ("pruning_ratio", "constraints", "plan")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise BudgetError(f"give one of pruning_ratio, constraints and plan; got {given}")
        if type(self.steps) is not int or self.steps < 1:
            raise BudgetError(
                f"iterative_steps is {self.steps!r}; it is a whole number of steps, at least 1"
            )
        if not isinstance(self.constraints, (Mapping, type(None))):
            raise BudgetError(
                f"constraints is {self.constraints!r}; name what is bounded, "
                "such as {'macs': '50%'}"
            )
        if not isinstance(self.plan, (Plan, type(None))):
            raise PlanError(
                f"plan is a {type(self.plan).__name__}, not a Plan; "
                "Plan.from_json reads a stored one"
            )
        if self.plan is not None and self.steps > 1:
            raise BudgetError(
                f"iterative_steps is {self.steps} with a plan; a plan is carried out in one step"
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.pruning_ratio is None and self.constraints is None and self.plan is None

    def demand(self, preparation: Preparation, step: int) -> Demand:
        """What is wanted of the original network after `step`."""
        whole = preparation.demand(
            self.pruning_ratio, absolute(self.constraints or {}, preparation.original)
        )
        share = step / self.steps
        return whole if share == 1 else _part_of(whole, share, preparation.original)


def _part_of(whole: Demand, share: float, original: Mapping[str, float]) -> Demand:
    """A demand that is `share` of the way from nothing to `whole`."""

    def part(ratio: float) -> float:
        return 1.0 - math.pow(1.0 - ratio, share)

    return replace(
        whole,
        pruning_ratio=None if whole.pruning_ratio is None else part(whole.pruning_ratio),
        ratios={name: part(ratio) for name, ratio in whole.ratios.items()},
        budgets={
            name: max(bound, original[name] * math.pow(bound / original[name], share))
            for name, bound in whole.budgets.items()
        },
    )

"""How many zeros are wanted, and what makes no sense to want."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penjing.errors import BudgetError
from penjing.pruning.patterns import Pattern

BOUNDS = ("nonzero", "macs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityGoal:
    """How many zeros are wanted.

    Args:
        pattern: The shape of sparsity, which may say how many itself.
        sparsity: Share of the weights of all layers that become sparse.
        constraints: Bounds as the caller wrote them.
        single: Sparsity of single layers by key.
        max_sparsity: Largest share of one layer.

    Raises:
        BudgetError: Nothing is asked for, too much is, or it contradicts the pattern.
    """

    pattern: Pattern
    sparsity: float | None = None
    constraints: Mapping[str, float | str] = field(default_factory=dict)
    single: Mapping[Any, float] = field(default_factory=dict)
    max_sparsity: float = 0.99

    def __post_init__(self) -> None:
        own = self.pattern.sparsity
        for share in (self.sparsity, *self.single.values()):
            if share is not None and not 0 <= share < 1:
                raise BudgetError(
                    f"sparsity is {share}; it is a share of weights in [0, 1), so 90 percent is 0.9"
                )
            if own is not None and share is not None and abs(share - own) > 1e-6:
                raise BudgetError(
                    f"pattern {self.pattern.name!r} makes {own:g} of the weights zero, not "
                    f"{share}; leave the sparsity out or take another pattern"
                )
        if not 0 < self.max_sparsity <= 1:
            raise BudgetError(f"max_sparsity is {self.max_sparsity}; it lies above 0, at most 1")
        given = [self.sparsity is not None, bool(self.constraints)]
        if all(given) or (own is not None and self.constraints):
            raise BudgetError("give one of sparsity, constraints and an n:m pattern, not several")
        if own is None and not any(given) and not self.single:
            raise BudgetError(
                "give sparsity, constraints or sparsity_dict; got none. Nine weights in ten become "
                "zero by sparsity=0.9, or --sparsity 0.9"
            )
        unknown = sorted(set(self.constraints) - set(BOUNDS))
        if unknown or len(self.constraints) > 1:
            raise BudgetError(
                f"constraints are {sorted(self.constraints)}; sparsify takes one of "
                f"{', '.join(BOUNDS)}"
            )

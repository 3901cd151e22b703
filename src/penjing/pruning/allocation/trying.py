"""Trying candidates out: what the allocations that search share.

`Lost` measures a candidate on the network; without one the sum of the error curves stands in for
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from torch import Tensor

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning.allocation._dp import Solver
from penjing.pruning.allocation.losses import losses_of
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import Candidate, Space

Lost = Callable[[Mapping[str, int]], float]
"""What the outputs lose at a candidate, by units kept per group; lower is better."""

Proxy = Literal["predicted", "masked", "recalibrated", "repaired"]
"""How a candidate is judged: by error curves, by the network with its units set to zero, or cut and
its norms measured anew, or cut and re-solved."""

PROXIES = ("predicted", "masked", "recalibrated", "repaired")


@runtime_checkable
class Tries(Protocol):
    """An allocation that tries candidates out."""

    @property
    def proxy(self) -> Proxy:
        """How candidates are to be judged."""
        ...

    @property
    def evaluations(self) -> int:
        """Candidates that it tries at most."""
        ...

    def measuring(self, lost: Lost) -> Self:
        """The same allocation with a measure.

        Args:
            lost: What the outputs lose at a candidate.
        """
        ...


def check_settings(name: str, proxy: str, evaluations: int) -> None:
    """Refuse a proxy that does not exist and a search without a trial.

    Raises:
        StrategyError: Says which.
    """
    if proxy not in PROXIES:
        raise StrategyError(
            f"{name}: proxy is {proxy!r}; known are {', '.join(map(repr, PROXIES))}"
        )
    if evaluations < 1:
        raise StrategyError(f"{name}: evaluations is {evaluations}; it must be at least 1")


@dataclass(eq=False)
class Trials:
    """Candidates of one demand that were tried, and how many may still be.

    Args:
        solver: The space and what is predicted for its options.
        lost: Measures; None predicts.
        evaluations: Candidates at most.
        tried: Results by candidate.
    """

    solver: Solver
    lost: Lost | None
    evaluations: int
    tried: dict[Candidate, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        errors: Mapping[str, Tensor],
        costs: Mapping[str, Cost],
        demand: Demand,
        search: Any,
    ) -> Self:
        """Trials of one demand.

        Args:
            groups: What can be cut.
            scores: Importance per group.
            errors: Error curves, where they are known.
            costs: Exact costs by name.
            demand: What is wanted.
            search: The allocation, with `lost` and `evaluations`.
        """
        space = Space.of(groups, costs, demand, weighted=True)
        solver = Solver(space, losses_of(space, scores, errors))
        return cls(solver, search.lost, search.evaluations)

    @property
    def space(self) -> Space:
        """What may be kept."""
        return self.solver.space

    @property
    def left(self) -> int:
        """Candidates that may still be tried."""
        return self.evaluations - len(self.tried)

    def __call__(self, candidate: Candidate) -> float:
        """What is lost at a candidate; infinite when no more may be tried."""
        if candidate not in self.tried:
            if self.left < 1:
                return float("inf")
            self.tried[candidate] = (
                self.solver.total(candidate)
                if self.lost is None
                else self.lost(self.space.kept(candidate))
            )
        return self.tried[candidate]

    @property
    def best(self) -> Candidate:
        """The feasible candidate of least loss, of equals the one that costs more."""
        feasible = [c for c in self.tried if self.space.feasible(c)]
        return min(feasible, key=lambda c: (self.tried[c], -float(self.space.usage(c).sum()), c))

    def fitted(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """The candidate shrunk into the budgets, then raised by chance until no step fits."""
        steps = max(candidate, default=0) + 1
        base = candidate

        def shrunk(step: int) -> Candidate:
            return tuple(number * (steps - step) // steps for number in base)

        candidate = self.space.first_feasible(shrunk, steps + 1)
        for group in rng.permutation(len(candidate)):
            candidate = self.raised(candidate, int(group))
        return candidate

    def raised(self, candidate: Candidate, group: int) -> Candidate:
        """The candidate with the largest option of one group that fits."""
        low, high = candidate[group], len(self.space.options[group]) - 1
        while low < high:
            middle = (low + high + 1) // 2
            longer = (*candidate[:group], middle, *candidate[group + 1 :])
            low, high = (middle, high) if self.space.feasible(longer) else (low, middle - 1)
        return (*candidate[:group], low, *candidate[group + 1 :])

"""The solver: least total error within every budget.

Lagrangian over the tables (units kept -> error) of all groups, with one price per budget. Costs
interact - the MACs of a convolution are a product of two groups - so prices are found on the exact
cost of the joint candidate, and the table of what each choice costs is drawn again around every
solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from penjing.plan import Group
from penjing.pruning.allocation._uniform import smallest_share
from penjing.pruning.allocation.losses import losses_of
from penjing.pruning.allocation.protocol import Cost, Demand
from penjing.pruning.allocation.space import TOLERANCE, Candidate, Floats, Space

ROUNDS = 8  # redrawn cost tables; two or three reach a fixed point in practice
HALVINGS = 60  # of a price, in the logarithm
PRICES = (
    1e-12,
    1e12,
)  # total error per whole budget: below all that matters, above all that matters
EXCHANGES = 32  # swaps that improve the filled solution
REACH = 4  # options that one swap may rise
PROBES = 33  # exact costs drawn per group where a parabola does not fit
CHECKS = (0.25, 0.75)  # where a parabola is checked, once per group
PROGRESS = 1e-3  # of the error; a round that gains less is the last


def dp(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    errors: Mapping[str, Tensor],
    costs: Mapping[str, Cost],
    demand: Demand,
) -> dict[str, int]:
    """Keep the units that make the sum of the groups' errors smallest within every budget at once.

    Starting from all units, each round draws what every choice of every group costs around the
    present solution, finds the smallest prices whose joint candidate is within the budgets by its
    exact costs, fills the gap that is left and swaps units between groups while that lowers the
    error. The best candidate of all rounds is returned, never one with more error than the filled
    uniform one.

    Args:
        groups: What can be cut.
        scores: Importance per group, read where `errors` has no entry.
        errors: Error after dropping the k lowest units, shape `(units + 1,)`, non-decreasing.
        costs: Exact costs by name, any function that does not fall when more units are kept.
        demand: `pruning_ratio` is the share of all units, weighted by the parameters of one unit.

    Returns:
        Units kept per group, in the order of `groups`.

    Raises:
        BudgetError: The demand does not fit the groups or the costs.
        InfeasibleError: Every group at its floor is still above a budget.
        StrategyError: A score or an error is missing, of a wrong shape or not finite.

    Source:
        Everett 1963 (generalised Lagrange multipliers); per-layer error tables as in Frantar and
        Alistarh 2022 (SPDY), arXiv:2201.13096, there by dynamic programming on additive costs.

    Example:
        >>> import torch
        >>> pair = [Group(name, units=2, slices=()) for name in ("a", "b")]
        >>> curves = {"a": torch.tensor([0.0, 0.1, 0.5]), "b": torch.tensor([0.0, 0.4, 0.9])}
        >>> units = {"units": lambda kept: sum(kept.values())}
        >>> dp(pair, {}, curves, units, Demand(budgets={"units": 3}))
        {'a': 1, 'b': 2}
    """
    space = Space.of(groups, costs, demand, weighted=True)
    losses = losses_of(space, scores, errors)
    solver = Solver(space, losses)
    return space.in_order(solver.solve(), groups)


@dataclass(frozen=True, eq=False)
class Solver:
    """One demand and the errors of all options.

    Args:
        space: What may be kept, and its exact costs.
        losses: Error of every option, per group.
        degrees: Of the polynomial that a group's costs are, by number of the group; -1 for none.
    """

    space: Space
    losses: tuple[Floats, ...]
    degrees: dict[int, int] = field(default_factory=dict)

    def solve(self) -> Candidate:
        """The candidate of least total error that was found within the budgets."""
        if self.space.feasible(self.space.largest):
            return self.space.largest
        best, point = smallest_share(self.space, 0.0), self.space.largest
        for _ in range(ROUNDS):
            tables = self.tables(point)
            point = self.improved(self.priced(tables), tables)
            before = self.total(best)
            best = min(best, point, key=self._rank)
            if self.total(best) > before * (1 - PROGRESS):
                break
        return min(best, self.improved(best, self.tables(best)), key=self._rank)

    def _rank(self, candidate: Candidate) -> tuple[float, Candidate]:
        return self.total(candidate), candidate

    def total(self, candidate: Candidate) -> float:
        """Sum of the errors of all groups."""
        return float(sum(loss[number] for loss, number in zip(self.losses, candidate, strict=True)))

    def tables(self, point: Candidate) -> list[Floats]:
        """Per group the usage of every option, all else as in `point`: shape (limits, options)."""
        return [self._table(point, number) for number in range(len(point))]

    def _table(self, point: Candidate, number: int) -> Floats:
        kept = self.space.options[number].astype(np.float64)
        last = len(kept) - 1

        def exact(drawn: Sequence[int]) -> Floats:
            at = [(*point[:number], option, *point[number + 1 :]) for option in drawn]
            return np.stack([self.space.usage(candidate) for candidate in at], axis=1)

        degree = self.degrees.get(number, 0)
        if last > len(CHECKS) + 1 and degree >= 0:
            known = [point[number], *(o for o in (0, last, last // 2) if o != point[number])]
            fit = _polynomial(kept, known[: (degree or 2) + 1], exact)
            check = [] if degree else [int(share * last) for share in CHECKS]
            if not check or np.allclose(fit[:, check], exact(check), rtol=0, atol=TOLERANCE):
                self.degrees[number] = degree or _degree(fit)
                return fit
            self.degrees[number] = -1
        drawn = np.unique(np.linspace(0, last, min(last + 1, PROBES)).astype(int)).tolist()
        values = exact(drawn)
        return np.stack([np.interp(kept, kept[drawn], row) for row in values])

    def priced(self, tables: list[Floats]) -> Candidate:
        """The candidate of the smallest prices found that is within every budget."""
        prices = np.zeros(len(self.space.limits))
        for _ in range(4 * len(prices)):
            point = self.at(prices, tables)
            usage = self.space.usage(point)
            if (usage <= 1 + TOLERANCE).all():
                return point
            worst = int(usage.argmax())
            prices[worst] = self._price(prices, worst, tables)
        return self._walked(self.at(prices, tables))

    def at(self, prices: Floats, tables: list[Floats]) -> Candidate:
        """Per group the option of least error plus priced cost; of equals the largest."""
        chosen = []
        for loss, table in zip(self.losses, tables, strict=True):
            value = loss + prices @ table
            chosen.append(len(value) - 1 - int(value[::-1].argmin()))
        return tuple(chosen)

    def _price(self, prices: Floats, budget: int, tables: list[Floats]) -> float:
        """The smallest price of one budget that brings its exact cost within it."""

        def priced(value: float) -> Candidate:
            changed = prices.copy()
            changed[budget] = value
            return self.at(changed, tables)

        low, high = max(prices[budget], PRICES[0]), PRICES[1]
        for _ in range(HALVINGS):
            middle = float(np.sqrt(low * high))
            if self.space.usage(priced(middle))[budget] <= 1 + TOLERANCE:
                high = middle
            else:
                low = middle
            if priced(low) == priced(high):
                break
        return high

    def _walked(self, point: Candidate) -> Candidate:
        """Shrink all groups alike until the budgets are met; no single group moves a peak."""
        steps = max(point, default=0) + 1

        def shrunk(step: int) -> Candidate:
            return tuple(number * (steps - step) // steps for number in point)

        return self.space.first_feasible(shrunk, steps + 1)

    def improved(self, point: Candidate, tables: list[Floats]) -> Candidate:
        """Fill what is left of the budgets, then swap units while the error falls."""
        point = self.filled(point, tables)
        for _ in range(EXCHANGES):
            better = self._exchanged(point, tables)
            if better is None:
                break
            point = self.filled(better, tables)
        return point

    def filled(self, point: Candidate, tables: list[Floats]) -> Candidate:
        """Keep more units, best gain per cost first, until no step fits."""
        blocked: set[tuple[int, int]] = set()
        while True:
            steps = self._steps_up(point, tables, blocked)
            if not steps:
                return point
            _, group, option = max(steps)
            longer = (*point[:group], option, *point[group + 1 :])
            if self.space.feasible(longer):
                point = longer
            else:  # costs do not fall with more units: no larger option fits now or later
                blocked.update((group, above) for above in range(option, len(self.losses[group])))

    def _steps_up(
        self, point: Candidate, tables: list[Floats], blocked: set[tuple[int, int]]
    ) -> list[tuple[float, int, int]]:
        """Gain per cost of the best larger option of every group."""
        steps = []
        for group, now in enumerate(point):
            loss, table = self.losses[group], tables[group]
            end = next((o for o in range(now + 1, len(loss)) if (group, o) in blocked), len(loss))
            if end == now + 1:
                continue
            gain = loss[now] - loss[now + 1 : end]
            cost = (table[:, now + 1 : end] - table[:, now : now + 1]).max(axis=0)
            value = np.where(cost > TOLERANCE, gain / np.maximum(cost, TOLERANCE), np.inf)
            value[(gain <= 0) & (cost > TOLERANCE)] = -np.inf
            best = int(value.argmax())
            if value[best] > -np.inf:
                steps.append((float(value[best]), group, now + 1 + best))
        return steps

    def _exchanged(self, point: Candidate, tables: list[Floats]) -> Candidate | None:
        """The best swap, one group up and another down, that lowers the error and fits."""
        swaps = []
        usage = self.space.usage(point)
        for up, now in enumerate(point):
            for option in range(now + 1, min(now + 1 + REACH, len(self.losses[up]))):
                gain = self.losses[up][now] - self.losses[up][option]
                over = usage + tables[up][:, option] - tables[up][:, now] - 1
                swaps += self._payers(point, tables, up, option, gain, over)
        for _, candidate in sorted(swaps, reverse=True)[:EXCHANGES]:
            if self.space.feasible(candidate) and self.total(candidate) < self.total(point) - 1e-15:
                return candidate
        return None

    def _payers(
        self,
        point: Candidate,
        tables: list[Floats],
        up: int,
        option: int,
        gain: float,
        over: Floats,
    ) -> list[tuple[float, Candidate]]:
        """Groups that can free the cost `over` with less error than `gain`, and what is gained."""
        found = []
        raised = (*point[:up], option, *point[up + 1 :])
        for down, now in enumerate(point):
            if down == up or not now:
                continue
            freed = tables[down][:, now : now + 1] - tables[down][:, :now]
            enough = np.flatnonzero((freed >= over[:, None] - TOLERANCE).all(axis=0))
            if enough.size:
                lower = int(enough[-1])
                net = gain - (self.losses[down][lower] - self.losses[down][now])
                if net > 0:
                    found.append((float(net), (*raised[:down], lower, *raised[down + 1 :])))
        return found


def _polynomial(
    x: Floats, knots: Sequence[int], exact: Callable[[Sequence[int]], Floats]
) -> Floats:
    """Polynomials through the exact values at the knots, at every option: (limits, options)."""
    basis = [np.prod([(x - x[j]) / (x[i] - x[j]) for j in knots if j != i], axis=0) for i in knots]
    values: Floats = exact(knots) @ np.stack(basis)
    return values


def _degree(fit: Floats) -> int:
    """1 where every row is a straight line over evenly spaced options, else 2."""
    bend = np.abs(np.diff(fit[:, :-1], n=2, axis=1)).max(initial=0.0)
    return 1 if bend <= TOLERANCE else 2

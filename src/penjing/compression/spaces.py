"""What candidates are made of: widths alone, or widths and zeros in one allocation.

Each kind is a line of plans along one cost, from the smallest network that is permitted to the
largest that keeps the exact budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from penjing.compression.constraints import EXACT, Bound
from penjing.errors import InfeasibleError
from penjing.plan import Plan
from penjing.verbs.preparation import Preparation

LEAST = 1e-9  # of the original's cost: a bound that only the smallest network comes near


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """Plans along one cost.

    Args:
        preparation: What they are made from.
        cost: What a share is of; "effective_macs" counts no multiplication by a zero.
    """

    preparation: Preparation
    cost: Literal["macs", "effective_macs"] = "macs"

    def plan(self, bounds: Mapping[str, Bound], share: float) -> Plan:
        """The allocation's answer within the exact budgets and a share of the original's cost.

        Args:
            bounds: By constraint name; those that are measured play no part.
            share: In (0, 1].

        Raises:
            InfeasibleError: No permitted plan is within them.
        """
        original = self.preparation.original
        budgets = {n: b.limit(original[n]) for n, b in bounds.items() if n in EXACT}
        if share < 1 or self.cost != "macs":
            limit = share * original[self.cost]
            budgets[self.cost] = min(limit, budgets.get(self.cost, float("inf")))
        demand = self.preparation.demand(budgets=budgets or {"macs": original["macs"]})
        return self.preparation.plan(demand)

    def floor(self, bounds: Mapping[str, Bound]) -> float:
        """Smallest share of the original's cost that the choices permit."""
        original = self.preparation.original[self.cost]
        try:
            return self.share(self.plan(bounds, LEAST))
        except InfeasibleError as error:
            nearest = error.nearest.get(self.cost, original)
            return nearest / original + 1e-4  # rounding to a point of the line stays permitted

    def share(self, plan: Plan) -> float:
        """Share of the original's cost that a plan leaves."""
        preparation = self.preparation
        return (
            preparation.costs[self.cost](preparation.kept(plan)) / preparation.original[self.cost]
        )

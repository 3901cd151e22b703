"""Strategies: what was chosen by name, or by default, as the objects that do it."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from penjing.errors import StrategyError
from penjing.plan import WEIGHTS
from penjing.pruning.allocation import resolve as resolve_allocation
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.allocation.trying import Tries
from penjing.pruning.importance import OBS
from penjing.pruning.importance import resolve as resolve_importance
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.recovery.repair import How
from penjing.task import Calibration
from penjing.verbs.choices import Choices
from penjing.verbs.enough import needed_data
from penjing.verbs.repairs import repair_name, settled


@dataclass(frozen=True, eq=False)
class Strategies:
    """The strategies of one call; what was not chosen follows from whether there is data.

    Args:
        choices: As the caller gave them.
        calibration: Unlabelled samples; None when there are none.
    """

    choices: Choices
    calibration: Calibration | None

    @cached_property
    def importance(self) -> Importance | Prepares:
        """Which units go first."""
        chosen = self.choices.importance
        if chosen is None:
            chosen = self._default_importance
        found = resolve_importance(chosen)
        return _seeded(found, self.choices.seed) if isinstance(chosen, (str, type)) else found

    @property
    def importance_name(self) -> str:
        """Its name, for the report."""
        return _name(self.choices.importance, self._default_importance)

    @cached_property
    def allocation(self) -> Allocation:
        """How many units go where."""
        chosen = self.choices.allocation
        found = resolve_allocation(chosen if chosen is not None else self._default_allocation)
        return _seeded(found, self.choices.seed) if isinstance(chosen, (str, type)) else found

    @property
    def allocation_name(self) -> str:
        """Its name, for the report."""
        return _name(self.choices.allocation, self._default_allocation)

    @property
    def repair(self) -> How | None:
        """What is done for the units that stay."""
        return settled(self.choices.repair, self.calibration is not None, self.choices.seed)

    @property
    def repair_name(self) -> str:
        """Its name, for the report."""
        return repair_name(self.repair)

    @property
    def _default_importance(self) -> str:
        return "obs" if self.calibration else "l2"

    @property
    def _default_allocation(self) -> str:
        return "dp" if self.calibration else "uniform"

    @property
    def tries(self) -> Tries | None:
        """The allocation, where it measures candidates and does not only predict them."""
        chosen = self.allocation
        return chosen if isinstance(chosen, Tries) and chosen.proxy != "predicted" else None

    def check(self) -> None:
        """Refuse strategies without the data that they read, and those that do not go together.

        Raises:
            StrategyError: Names the strategy.
        """
        if self.choices.beside:
            self._check_errors(" and ".join(map(repr, sorted(self.choices.beside))))
        what = self._what_sees_data
        if what and self.calibration is None:
            judge = self.importance if what.startswith("importance") else None
            raise StrategyError(f"{what} needs data; {needed_data(judge)}")
        if what and self.calibration is not None:
            self.calibration.at_least(2, what)

    @property
    def _what_sees_data(self) -> str:
        """The first strategy that reads calibration data, in words; empty where none does."""
        if self.tries is not None:
            return f"allocation {self.allocation_name!r} measures candidates and"
        # an importance that prepares reads data unless it says that it does not
        if isinstance(self.importance, Prepares) and getattr(self.importance, "needs_data", True):
            return f"importance {self.importance_name!r}"
        return "" if self.repair is None else f"repair {self.repair_name!r}"

    def _check_errors(self, held: str) -> None:
        """Refuse zeros or bits beside widths where nothing makes them comparable."""
        if not isinstance(self.importance, OBS) or self.calibration is None:
            raise StrategyError(
                f"scope holds {held}, and importance is {self.importance_name!r} "
                f"{'with' if self.calibration else 'without'} data; zeros, bits and widths are "
                "weighed by their errors, so use importance='obs' and pass calibration=batches"
            )
        if WEIGHTS in self.choices.scope and self.choices.pattern.sparsity is not None:
            raise StrategyError(
                f"scope holds {WEIGHTS!r}, and pattern {self.choices.pattern.name!r} leaves no "
                "share of zeros to decide; use 'element', 'block:RxC' or 'kernel', or "
                "penjing.sparsify for this one"
            )
        if self.tries is not None:
            raise StrategyError(
                f"scope holds {held}, and allocation {self.allocation_name!r} tries out units "
                "alone; use allocation='dp'"
            )


def _seeded(strategy: Any, seed: int) -> Any:
    """A strategy of defaults with the seed of the call, where it takes one."""
    takes = is_dataclass(strategy) and any(f.name == "seed" for f in fields(strategy))
    return replace(strategy, seed=seed) if takes and not isinstance(strategy, type) else strategy


def _name(chosen: object, default: str) -> str:
    if chosen is None:
        return default
    if isinstance(chosen, str):
        return chosen
    return getattr(chosen, "__name__", type(chosen).__name__)

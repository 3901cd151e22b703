"""Choices: how to prune, apart from how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from penjing.errors import BudgetError, StrategyError
from penjing.plan import BITS, BLOCKS, LAYERS, WEIGHTS, Kind, Scope
from penjing.pruning.allocation import resolve as resolve_allocation
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.importance import resolve as resolve_importance
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.patterns import Pattern
from penjing.pruning.saliency import Saliency
from penjing.pruning.selection import Key
from penjing.quantization.mixed import BITS as WEIGHT_BITS
from penjing.quantization.mixed import checked_bits
from penjing.recovery.fold import Fold
from penjing.recovery.reconstruct import Reconstruct
from penjing.recovery.tune import Tune
from penjing.verbs.repairs import REPAIRS, Repair

PLACES = get_args(Scope)
KINDS = tuple(kind for kind in get_args(Kind) if kind not in (WEIGHTS, BITS))
WIDTHS = tuple(kind for kind in KINDS if kind != BLOCKS)
DEPTH = "depth"  # whole branches, alone or beside widths; "layers" for whole layers
SHORTER = (DEPTH, LAYERS)
BESIDE = (*SHORTER, WEIGHTS, BITS)  # scopes that are no widths
ALONE = {
    WEIGHTS: "zeros without a cut are made by penjing.sparsify",
    BITS: "bits without a cut are chosen by penjing.quantize(constraints={'weight_bytes': ...})",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How to prune, apart from how much.

    Args:
        importance: Short name, class, object or callable; None is "obs" with calibration data, else
            "l2".
        allocation: Short name, object or callable; None is "dp" with calibration data, else
            "uniform".
        repair: "auto" is least squares with calibration data, else off; "least_squares", its
            settings as a `Reconstruct`, "tune" (least squares, then gradient steps towards the
            original) or its settings as a `Tune`, "recalibrate" (norm statistics only),
            "variance" or "bias" (moments of every channel), "fold" (units that go are merged into
            those that stay) or a `Fold`, or None.
        round_to: Units that remain are rounded up to a multiple of this, or by kind of units.
        max_pruning_ratio: Largest share of one group that may go.
        ignored_layers: Modules, names, globs or types that are left exactly as they are, inputs
            included.
        pruning_ratio_dict: Share of units to drop of single layers, by module, name, glob or type.
        scope: Which groups: "inner" ones live inside one branch, "residual" ones on a stream; kinds
            of units among them, such as "heads", leave the other kinds alone. "depth" removes whole
            blocks, alone or as well; "weights" makes zeros and "bits" chooses the bits of weights
            beside what is cut.
        pattern: Shape of those zeros.
        weight_bits: Bits to choose from.
        seed: Of everything random.
    """

    importance: str | Importance | Prepares | Saliency | type | None = None
    allocation: str | Allocation | None = None
    repair: Repair = "auto"
    round_to: int | Mapping[str, int] | None = None
    max_pruning_ratio: float = 0.9
    ignored_layers: tuple[Key, ...] = ()
    pruning_ratio_dict: Mapping[Any, float] = field(default_factory=dict)
    scope: frozenset[str] = frozenset({"inner", "residual"})
    pattern: Pattern = field(default_factory=Pattern)
    weight_bits: tuple[int, ...] = WEIGHT_BITS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.importance is not None:  # an unknown name is told before the first slow step
            resolve_importance(self.importance)
        if self.allocation is not None:
            resolve_allocation(self.allocation)
        if not isinstance(self.seed, int):
            raise StrategyError(f"seed is {self.seed!r}; it is a whole number")
        self._check_scope()
        self._check_bits()
        if isinstance(self.round_to, Mapping) and set(self.round_to) - set(KINDS):
            raise BudgetError(
                f"round_to has the keys {sorted(self.round_to)}; by kind they are among "
                f"{', '.join(KINDS)}"
            )
        known = isinstance(self.repair, (Reconstruct, Tune, Fold)) or self.repair in REPAIRS
        if self.repair is not None and not known:
            raise StrategyError(
                f"repair is {self.repair!r}; known are {', '.join(map(repr, REPAIRS))}, None, a "
                "Reconstruct, a Tune or a Fold"
            )

    def _check_scope(self) -> None:
        if set(self.scope) - {*PLACES, *WIDTHS, *BESIDE} or not self.scope:
            raise StrategyError(
                f"scope is {sorted(self.scope)}; it holds places ({', '.join(PLACES)}), kinds of "
                f"units ({', '.join(WIDTHS)}), or both; {DEPTH!r} or {LAYERS!r}, alone or as well; "
                f"and {WEIGHTS!r} and {BITS!r} beside any of them"
            )
        if set(SHORTER) <= self.scope:
            raise StrategyError(
                f"scope holds {DEPTH!r}, single branches, and {LAYERS!r}, all branches of a layer "
                "together; give one of them"
            )
        if len(self.scope) == 1 and self.scope <= set(ALONE):
            raise StrategyError(f"scope is {[*self.scope]} alone; {ALONE[min(self.scope)]}")

    def _check_bits(self) -> None:
        if BITS in self.scope and set(SHORTER) & self.scope:
            raise StrategyError(
                f"scope is {sorted(self.scope)}; bits are kept by names of layers, which change "
                "where whole ones go: cut those first, and choose bits for what is left"
            )
        if 1 in checked_bits(self.weight_bits) and {BITS, WEIGHTS} <= self.scope:
            raise StrategyError(
                f"scope holds {WEIGHTS!r} and weight_bits is {self.weight_bits!r}; weights of 1 "
                "bit are -1 or 1 and cannot be zero, so give 2 bits at least"
            )
        if BITS not in self.scope and self.weight_bits != WEIGHT_BITS:
            raise BudgetError(
                f"weight_bits is {self.weight_bits!r}, to choose from where scope holds {BITS!r}, "
                f"and it does not; scope is {sorted(self.scope)}"
            )

    @property
    def beside(self) -> frozenset[str]:
        """What is decided beside units: zeros of weights, their bits, or both."""
        return self.scope & set(ALONE)

    @property
    def widths(self) -> frozenset[str]:
        """The part of the scope that is about widths; empty where only more than units may go."""
        return self.scope - set(BESIDE)

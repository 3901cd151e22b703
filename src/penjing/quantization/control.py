"""Accuracy control: keep higher what the outputs lose most through, until little enough is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from penjing.errors import InfeasibleError, StrategyError
from penjing.figures import SensitivityFigures
from penjing.graph.capture import Program
from penjing.quantization.network import QuantizedNetwork
from penjing.quantization.ptq import Settings, prepared, quantize_program
from penjing.quantization.sensitivity import Say, Unit, sensitivity, units, with_kept
from penjing.task import Calibration

KEPT = "kept by max_drop"
_BYTE = 8
_COARSE = 7  # weights of fewer bits are first given 8

Judge = Callable[[QuantizedNetwork], float]
"""How much worse a quantized network is than the original; at most 0 when nothing is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled:
    """A network that loses little enough.

    Args:
        network: The network.
        drop: What it loses.
        first: What all of it in integers would have lost.
        tried: Networks that were made and judged.
        table: What the outputs lose through each layer, and which were kept higher.
    """

    network: QuantizedNetwork
    drop: float
    first: float
    tried: int
    table: tuple[SensitivityFigures, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer kept higher: its weight in 8 bits, or all of it in floats."""

    unit: Unit
    bits: int | None = None

    @property
    def words(self) -> str:
        return "floats" if self.bits is None else f"{self.bits}-bit weights"


def control(  # noqa: PLR0913 - data of two kinds, a bound and two callbacks
    program: Program,
    calibration: Calibration,
    settings: Settings,
    *,
    max_drop: float,
    judge: Judge,
    samples: Calibration,
    say: Say,
) -> Controlled:
    """Quantize, and keep as few layers higher as the bound needs.

    Layers are blamed in the order of the error that each one alone brings to the outputs. Weights
    below 7 bits are given 8 first, all of them; after that layers stay in floats. How many it takes
    is found by doubling and bisecting, so about `2 log2` of all layers many networks are made, and
    the one returned was judged itself.

    Args:
        program: A captured network.
        calibration: Samples for ranges and roundings.
        settings: How the rest is quantized.
        max_drop: Bound on what the judge says.
        judge: Looks at other data than the calibration.
        samples: What the sensitivity is measured on; not the calibration either.
        say: Told what is being done.

    Returns:
        The network and the table.

    Raises:
        InfeasibleError: Even a single layer in integers loses more; carries the least drop found.
    """
    search = _Search(program, calibration, settings, judge, max_drop, say)
    whole, first = search.at(())
    table = sensitivity(prepared(program, settings), whole, samples, say)
    steps = _steps(units(whole), table, settings)
    count = search.fewest(steps)
    network, drop = search.at(steps[:count])
    kept = {step.unit.label: step.words for step in steps[:count]}
    return Controlled(
        network=network,
        drop=drop,
        first=first,
        tried=len(search.drops),
        table=with_kept(table, kept),
    )


def _steps(
    found: list[Unit], table: tuple[SensitivityFigures, ...], settings: Settings
) -> tuple[_Step, ...]:
    """What is kept higher, in turn; the least of all layers always stays in integers."""
    order = sorted(range(len(found)), key=lambda i: (-table[i].alone, i))
    blamed = [found[i] for i in order]
    coarse = settings.scheme.weight_bits < _COARSE
    wider = [_Step(u, _BYTE) for u in blamed if coarse and u.weight is not None]
    layers = [i for i, u in enumerate(blamed) if u.weight is not None]
    last = layers[-1] if layers else len(blamed) - 1
    return (*wider, *(_Step(u) for u in blamed[:last]))


class _Search:
    """Networks by how many steps were taken; only the last one is held."""

    def __init__(
        self,
        program: Program,
        calibration: Calibration,
        settings: Settings,
        judge: Judge,
        max_drop: float,
        say: Say,
    ) -> None:
        self.program, self.calibration, self.settings = program, calibration, settings
        self.judge, self.max_drop, self.say = judge, max_drop, say
        self.drops: dict[int, float] = {}
        self.held: tuple[int, QuantizedNetwork] | None = None

    def at(self, steps: tuple[_Step, ...]) -> tuple[QuantizedNetwork, float]:
        """The network with these steps taken, and what it loses."""
        count = len(steps)
        if self.held is None or self.held[0] != count:
            self.say(f"{count} layers kept higher" if count else "every layer in integers")
            settings = _with(self.settings, steps)
            self.held = (count, quantize_program(self.program, self.calibration, settings))
        if count not in self.drops:
            self.drops[count] = self.judge(self.held[1])
        return self.held[1], self.drops[count]

    def fewest(self, steps: tuple[_Step, ...]) -> int:
        """Steps to take: meets the bound, one less does not, or was not asked."""
        low, high = -1, 0
        while not self._meets(steps[:high]):
            if high == len(steps):
                raise self._infeasible(len(steps))
            low, high = high, min(2 * high or 1, len(steps))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._meets(steps[:middle]) else (middle, high)
        return high

    def _meets(self, steps: tuple[_Step, ...]) -> bool:
        try:
            return self.at(steps)[1] <= self.max_drop
        except StrategyError:  # nothing is left in integers
            return False

    def _infeasible(self, steps: int) -> InfeasibleError:
        nearest = min(self.drops.values())
        return InfeasibleError(
            f"max_drop={self.max_drop:g} cannot be met: with {steps} steps up, the most that leave "
            f"a layer in integers, {self.drops.get(steps, nearest):.4g} is lost; the least was "
            f"{nearest:.4g}. Allow that much, give more calibration samples, or leave the network "
            "in floats",
            {"max_drop": nearest},
        )


def _with(settings: Settings, steps: tuple[_Step, ...]) -> Settings:
    floats = {s.unit.node: KEPT for s in steps if s.bits is None}
    bits = {s.unit.weight: s.bits for s in steps if s.bits is not None and s.unit.weight}
    return replace(
        settings,
        keep_float={**settings.keep_float, **floats},
        weight_bits={**settings.weight_bits, **bits},
    )

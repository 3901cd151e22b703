"""Cycles of an integer program on a core, estimated from instructions that an emulator counted.

    cycles = factor x executed instructions

The factors are fitted on published times of MLPerf Tiny's networks, whose programs are not ours:
ours stand in for them. So an estimate has an interval, which is wide, and is no measurement. It is
for dense int8 programs whose weights lie in a microcontroller's own flash; the published programs
leave out no zeros, and a list of nonzeros may take more cycles per instruction. On a board
`main.c` counts the core's cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = (
    "fitted on MLPerf Tiny v1.0-v1.2, int8, closed division; the interval spans the worst "
    "predictions of networks left out of the fit (bench/cycles.py)"
)


@dataclass(frozen=True, slots=True)
class Factor:
    """Cycles per executed instruction.

    Args:
        typical: Geometric mean.
        low: What the worst overestimate of a network that was left out would have needed.
        high: What the worst underestimate would have needed.
    """

    typical: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CycleEstimate:
    """Estimated cycles of one call; never a measurement.

    Args:
        cycles: The estimate.
        low: Lower end of its interval.
        high: Upper end of its interval.
        source: What it rests on.
    """

    cycles: int
    low: int
    high: int
    source: str = SOURCE

    def __str__(self) -> str:
        return f"about {self.cycles:,}, between {self.low:,} and {self.high:,}; {self.source}"


FACTORS: Mapping[str, Factor] = {
    "cortex-m4": Factor(1.54, 1.14, 1.95),
    "cortex-m7": Factor(0.98, 0.52, 1.49),
}
"""By target, from bench/results/cycles.json; on a Cortex-M55 no submission was found."""


def estimate_cycles(target: str, instructions: int) -> CycleEstimate | None:
    """Cycles of one call of an int8 program, from its executed instructions.

    Args:
        target: Name of the target.
        instructions: Counted in the emulator.

    Returns:
        The estimate; None where nothing is published that a factor could be fitted on.

    Example:
        >>> found = estimate_cycles("cortex-m4", 1_000_000)
        >>> found.low, found.cycles, found.high
        (1140000, 1540000, 1950000)
        >>> estimate_cycles("cortex-m55", 1_000_000) is None
        True
    """
    factor = FACTORS.get(target)
    if factor is None:
        return None
    return CycleEstimate(
        cycles=round(factor.typical * instructions),
        low=round(factor.low * instructions),
        high=round(factor.high * instructions),
    )

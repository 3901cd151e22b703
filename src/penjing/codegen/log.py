"""What a program prints about itself, read back: from an emulator, or from a real board.

    penjing: network int8 cortex-m4
    penjing: layer conv1 instructions 123456
    penjing: instructions 2345678
    penjing: arena 34567
    penjing: equal yes, largest difference 0

Boards print `cycles` of the core's own counter, emulators `instructions`. Where a program can read
a timer only, it prints `ticks` of that, which are no cycles, and `ticks_per_second`. Other lines
are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from penjing.errors import InputError


@dataclass(frozen=True, slots=True)
class Log:
    """One run of a program.

    Args:
        unit: "instructions", "cycles" or "ticks" of a timer; empty when it could not count.
        count: Of one call.
        layers: The same per layer, by name; empty when it was built without.
        arena_bytes: RAM of one call.
        equal: Whether the outputs were those that were expected.
        largest_difference: Between output and expectation.
        network: How the program calls itself.
        ticks_per_second: Of the timer; None where no ticks are counted.
    """

    unit: str
    count: int
    layers: Mapping[str, int]
    arena_bytes: int
    equal: bool
    largest_difference: float
    network: str
    ticks_per_second: int | None = None


_COUNT = re.compile(r"penjing: (instructions|cycles|ticks) (\d+)")
_LAYER = re.compile(r"penjing: layer (\S+) (?:instructions|cycles|ticks) (\d+)")
_RATE = re.compile(r"penjing: ticks_per_second (\d+)")
_ARENA = re.compile(r"penjing: arena (\d+)")
_EQUAL = re.compile(r"penjing: equal (yes|no), largest difference (\S+)")
_NETWORK = re.compile(r"penjing: network (.+)")


def read_log(text: str) -> Log:
    """Read what `main.c` printed.

    Args:
        text: All of it; lines of others in between do no harm.

    Returns:
        The figures.

    Raises:
        InputError: The log breaks off, or is not of such a program.

    Example:
        >>> lines = ["penjing: cycles 7", "penjing: arena 64"]
        >>> lines += ["penjing: equal yes, largest difference 0"]
        >>> read_log(chr(10).join(lines)).count
        7
    """
    arena, equal = _ARENA.search(text), _EQUAL.search(text)
    if arena is None or equal is None:
        raise InputError(
            "the log has no line 'penjing: arena ...' or 'penjing: equal ...'; it must hold all "
            "that main.c of a compiled network prints"
        )
    count, network, rate = (p.search(text) for p in (_COUNT, _NETWORK, _RATE))
    return Log(
        unit=count[1] if count else "",
        count=int(count[2]) if count else 0,
        layers={name: int(n) for name, n in _LAYER.findall(text)},
        arena_bytes=int(arena[1]),
        equal=equal[1] == "yes",
        largest_difference=float(equal[2]),
        network=network[1].strip() if network else "",
        ticks_per_second=int(rate[1]) if rate else None,
    )

"""What a program prints about itself, read back: from an emulator, or from a real board.

    penjing: network int8 cortex-m4
    penjing: layer conv1 instructions 123456
    penjing: instructions 2345678
    penjing: arena 34567
    penjing: equal yes, largest difference 0

Boards print `cycles` of the core's own counter, emulators `instructions`. Other lines are skipped.
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
        unit: "instructions" or "cycles"; empty when the program could not count.
        count: Of one call.
        layers: The same per layer, by name; empty when it was built without.
        arena_bytes: RAM of one call.
        equal: Whether the outputs were those that were expected.
        largest_difference: Between output and expectation.
        network: How the program calls itself.
    """

    unit: str
    count: int
    layers: Mapping[str, int]
    arena_bytes: int
    equal: bool
    largest_difference: float
    network: str


_COUNT = re.compile(r"penjing: (instructions|cycles) (\d+)")
_LAYER = re.compile(r"penjing: layer (\S+) (?:instructions|cycles) (\d+)")
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
    count, network = _COUNT.search(text), _NETWORK.search(text)
    return Log(
        unit=count[1] if count else "",
        count=int(count[2]) if count else 0,
        layers={name: int(n) for name, n in _LAYER.findall(text)},
        arena_bytes=int(arena[1]),
        equal=equal[1] == "yes",
        largest_difference=float(equal[2]),
        network=network[1].strip() if network else "",
    )

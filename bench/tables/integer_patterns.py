"""What do patterns of zeros cost in int8 on microcontrollers?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tables.markdown import table
from tables.rows import Row, rows

SCHEMES = {"int8": 8, "int4": 4, "ternary": 2}


def integer_patterns_table() -> str:
    """Flash and instructions of one network by pattern, compiled to be fast and to be small."""
    found = rows("integer_patterns")
    small = {_key(r): r for r in found if r["optimize"] == "flash"}
    pairs = [(r, small[_key(r)]) for r in found if r["optimize"] == "latency" and _key(r) in small]
    pairs.sort(key=lambda pair: pair[0]["core"])
    return table(
        pairs,
        {
            "pattern": lambda p: str(p[0]["pattern"]),
            "zeros": lambda p: f"{1 - p[0]['nonzero'] / p[0]['weights']:.0%}",
            "bits": lambda p: str(SCHEMES[p[0]["scheme"]]),
            "core": lambda p: str(p[0]["core"]).removeprefix("cortex-").upper(),
            "fast: flash": _number(0, "flash_bytes"),
            "thousand instructions": _thousands(0),
            "kernels": lambda p: _names(p[0]["kernels"]),
            "small: flash": _number(1, "flash_bytes"),
            "its constants": _number(1, "constant_bytes"),
            "its thousand instructions": _thousands(1),
            "its weights": lambda p: _names(p[1]["encodings"]),
        },
    )


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[k] for k in ("pattern", "sparsity", "scheme", "core"))


def _number(which: int, key: str) -> Callable[[tuple[Row, Row]], str]:
    return lambda pair: f"{pair[which][key]:,}"


def _thousands(which: int) -> Callable[[tuple[Row, Row]], str]:
    return lambda pair: f"{pair[which]['instructions'] / 1e3:,.0f}"


def _names(names: list[str]) -> str:
    """Each name with the number of layers that have it."""
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in Counter(names).items())

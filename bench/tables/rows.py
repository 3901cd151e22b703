"""Rows of the committed results, and groups of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Rows = list[Row]

RESULTS = Path(__file__).parents[1] / "results"


def rows(name: str) -> Rows:
    """Rows of one results file; none when it is not there."""
    path = RESULTS / f"{name}.json"
    found: Rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return found


def grouped(found: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], Rows]:
    """Rows by the values of some fields, in order; a field that a row lacks is None."""
    out: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for row in found:
        out[tuple(row.get(k) for k in keys)].append(row)
    return dict(sorted(out.items(), key=lambda item: str(item[0])))


def alike(found: Iterable[Row], *keys: str) -> list[Rows]:
    """The groups alone: rows that differ in nothing but the seed, say."""
    return list(grouped(found, *keys).values())

"""What became of every layer, as text."""

from __future__ import annotations

from collections.abc import Iterable

_HEADINGS = ("layer", "kernel", "nonzeros", "bytes", "encoding")


def table(rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    """Lay out a table of layers.

    Args:
        rows: Layer, kernel, nonzeros, bytes and encoding of each.

    Returns:
        Lines of aligned columns, headings first.
    """
    lines = [_HEADINGS, *rows]
    wide = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}  {e}".rstrip()
        for a, b, c, d, e in lines
    )

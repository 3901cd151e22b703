"""What the pictures are drawn with: lines of SVG that read on light and on dark pages.

A float is a place that was computed, to a tenth of a pixel; an integer is one that was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

INK, GREY, FAINT, PAPER = "#22301f", "#555", "#ddd9cf", "#fbfaf7"


def svg(title: str, parts: Iterable[str], *, size: tuple[int, int], font: int = 12) -> str:
    """A whole picture."""
    width, height = size
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="{font}">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def text(x: float, y: float, words: str, *, fill: str = INK, anchor: str = "") -> str:
    """Words at a place; `anchor` is "middle" or "end", or the place is where they start."""
    held = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{_at(x)}" y="{_at(y)}"{held} fill="{fill}">{words}</text>'


def dot(x: float, y: float, fill: str, *, radius: int = 4, title: str = "") -> str:
    """A point; `title` is shown where a pointer rests on it."""
    start = f'<circle cx="{_at(x)}" cy="{_at(y)}" r="{radius}" fill="{fill}"'
    return f"{start}><title>{title}</title></circle>" if title else f"{start}/>"


def legend(x: int, y: int, fill: str, words: str) -> str:
    """A point and what its colour stands for."""
    return dot(x, y, fill) + text(x + 12, y + 4, words)


def level(y: float, across: tuple[int, int], *, dashed: bool = False) -> str:
    """A horizontal line from left to right: one of the grid, or one that is meant."""
    style = f'stroke="{INK}" stroke-dasharray="5 4"' if dashed else f'stroke="{FAINT}"'
    return f'<line x1="{across[0]}" x2="{across[1]}" y1="{_at(y)}" y2="{_at(y)}" {style}/>'


def grid(y: float, across: tuple[int, int], words: str, *, gap: int = 6) -> str:
    """A line of the grid with its value, `gap` pixels before it."""
    return level(y, across) + text(across[0] - gap, y + 4, words, fill=GREY, anchor="end")


def below(x: float, y: int, words: str) -> str:
    """Words below the axis."""
    return text(x, y, words, fill=GREY, anchor="middle")


def colour(number: int, of: int, light: int = 38) -> str:
    """The colour of one of several things, as far from the others as can be."""
    return f"hsl({number * 360 // of} 55% {light}%)"


def polyline(points: Sequence[tuple[float, float]], stroke: str) -> str:
    """A line through points."""
    path = " ".join(f"{_at(x)},{_at(y)}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="2"/>'


def _at(place: float) -> str:
    return f"{place:.1f}" if isinstance(place, float) else str(place)

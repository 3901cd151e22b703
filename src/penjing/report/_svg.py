"""Drawing in SVG: elements whose text is always escaped, and scales with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup


def picture(width: float, height: float, label: str, kind: str) -> ET.Element:
    """An empty drawing that a screen reader announces as one image.

    Args:
        width: Width of its own coordinates; the page scales it.
        height: Height of its own coordinates.
        label: What the image says, in words.
        kind: Class for the style sheet.

    Returns:
        The root element, to be filled by `draw`.
    """
    frame = {"viewBox": f"0 0 {number(width)} {number(height)}", "role": "img"}
    return ET.Element("svg", {**frame, "class": kind, "aria-label": label, "focusable": "false"})


def draw(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """Add an element.

    Args:
        parent: Element to add to.
        tag: Name of the SVG element.
        text: Its text.
        **attributes: Its attributes; `class_` stands for class, and `_` for a hyphen.

    Returns:
        The new element.
    """
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
        for name, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, named)
    element.text = text or None
    return element


def tooltip(element: ET.Element, text: str) -> None:
    """Say `text` while the pointer rests on the element."""
    draw(element, "title", text)


def markup(root: ET.Element) -> Markup:
    """The drawing as text that a template takes as it is."""
    return Markup(ET.tostring(root, encoding="unicode"))  # ElementTree has escaped it


def number(value: float) -> str:
    """A coordinate in as few characters as a screen can show.

    Example:
        >>> number(3.0), number(2 / 3)
        ('3', '0.67')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to coordinates.

    Args:
        low: Value at `start`.
        high: Value at `end`, above `low`.
        start: Coordinate of `low`.
        end: Coordinate of `high`.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(
        cls, values: list[float], start: float, end: float, *, margin: float = 0.06
    ) -> Scale:
        """A scale that shows all `values` with some room around them."""
        low, high = min(values), max(values)
        room = (high - low) * margin or abs(high) * margin or 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """About `n` round values inside the scale, ascending.

        Example:
            >>> Scale(0.0, 1.0, 0, 100).ticks()
            [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        rough = (self.high - self.low) / max(1, n)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.8)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]

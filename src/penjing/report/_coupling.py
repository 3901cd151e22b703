"""The picture of the coupling: groups are lines across the layers that they cut."""

from __future__ import annotations

import re
from importlib import resources
from xml.etree import ElementTree as ET

from markupsafe import Markup

from penjing.plan import Reach
from penjing.report._svg import draw, markup, picture, tooltip
from penjing.report.data import Coupling, Line

MOST = 60  # lines drawn; a table can be longer, a picture of more shows nothing
NAMES, ROW, HEAD = 300.0, 20.0, 64.0  # width of the names, height of a line, of the strip above
WIDEST = 860.0  # of the layers
LONGEST = 34  # characters of a name


def drawing(data: Coupling) -> Markup:
    """Layers from left to right, a line for each group with a dot at each layer that it cuts.

    Args:
        data: At least one layer.

    Returns:
        An SVG of the page's own colours.
    """
    shown = data.lines[:MOST]
    step = min(28.0, WIDEST / max(1, len(data.layers)))
    width, height = NAMES + step * len(data.layers) + 24, HEAD + ROW * len(shown) + 14
    label = f"{len(shown)} groups across {len(data.layers)} layers, input at the left"
    root = picture(width, height, label, "coupling")
    root.set("width", f"{width:.0f}")
    root.set("height", f"{height:.0f}")
    for number, layer in enumerate(data.layers):
        _layer(root, layer, NAMES + step * (number + 0.5), step, height)
    draw(root, "text", "reached of each weight", x=NAMES - 12, y=HEAD - 22, text_anchor="end")
    for number, line in enumerate(shown):
        _group(root, line, data, HEAD + ROW * (number + 0.5), step)
    return markup(root)


def _layer(root: ET.Element, layer: Reach, x: float, step: float, height: float) -> None:
    """A column: how much of the weight is reached, as a bar above a thin line."""
    share = layer.reached / layer.params if layer.params else 0.0
    spot = draw(root, "g", class_="layer")
    tooltip(spot, f"{layer.tensor}: {share:.0%} of {layer.params:,} parameters reached")
    top, room = 8.0, HEAD - 24
    wide = max(1.0, step - 3)
    draw(spot, "rect", x=x - wide / 2, y=top, width=wide, height=room, class_="track")
    full = room * share
    if full:
        left, above = x - wide / 2, top + room - full
        draw(spot, "rect", x=left, y=above, width=wide, height=full, class_="fill")
    draw(spot, "line", x1=x, x2=x, y1=HEAD - 10, y2=height - 8, class_="grid")


def _group(root: ET.Element, line: Line, data: Coupling, y: float, step: float) -> None:
    """A row: name, line from the first layer to the last, dots."""
    spot = draw(root, "g", class_=f"group {line.scope}")
    layers = sorted({*line.rows, *line.columns})
    listed = ", ".join(data.layers[i].tensor for i in layers[:8])
    more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
    tooltip(spot, f"{line.group}: {line.units} units, {line.scope}, in {listed}{more}")
    name = _shortened(line.group)
    draw(spot, "text", f"{name}  {line.units}", x=NAMES - 12, y=y + 4, text_anchor="end")
    if not layers:
        return
    first, last = (NAMES + step * (i + 0.5) for i in (layers[0], layers[-1]))
    draw(spot, "line", x1=first, x2=last, y1=y, y2=y, class_="wire")
    radius = min(5.0, max(1.6, step / 3))
    for i in layers:
        x = NAMES + step * (i + 0.5)
        tone = "in" if i not in line.rows else "both" if i in line.columns else "out"
        draw(spot, "circle", cx=x, cy=y, r=radius, class_=f"end {tone}")


def _shortened(name: str) -> str:
    """The end of a name that is too long, from where one of its words begins."""
    if len(name) <= LONGEST:
        return name
    tail = name[-LONGEST:]
    joint = re.search(r"[._]", tail[: LONGEST // 2])
    return f"…{tail[joint.end() if joint else 1 :]}"


def key(tone: str) -> Markup:
    """The sign of one kind of cut, for a legend."""
    root = picture(16, 16, "", "key coupling")
    spot = draw(root, "g", class_="group inner")
    draw(spot, "circle", cx=8, cy=8, r=5, class_=f"end {tone}")
    return markup(root)


def standalone(data: Coupling) -> str:
    """The picture as a file of its own, with its style inside.

    Args:
        data: At least one layer.

    Returns:
        SVG text.
    """
    root = ET.fromstring(str(drawing(data)))
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = (resources.files("penjing.report") / "template" / "report.css").read_text("utf-8")
    colours = style[style.index(":root") : style.index("body {")]
    pieces = [
        line for line in style.splitlines() if line.startswith((".coupling", "svg text", ".grid"))
    ]
    element = ET.Element("style")
    element.text = colours + "\n".join([*pieces, "svg { background: var(--sheet); }"])
    root.insert(0, element)
    return ET.tostring(root, encoding="unicode") + "\n"

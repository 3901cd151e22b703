"""The charts of the page, each one drawing: tree, scatter, line, histogram, bar and swing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from markupsafe import Markup

from penjing.figures import GroupFigures
from penjing.report._svg import Scale, draw, markup, number, picture, tooltip
from penjing.report.data import Histogram

Role = Literal["meets", "misses", "original", "chosen"]

RIGHT = 30.0  # room right of a plot: half a number stands there
MARK = 5.0  # radius of a mark in a scatter
LETTER = 8.8  # width of a letter at the size of the charts' text, rather too wide than too narrow


@dataclass(frozen=True, slots=True)
class Point:
    """One mark of a scatter."""

    x: float
    y: float
    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: its title, the form of its numbers, and a bound to draw."""

    title: str
    show: Callable[[float], str]
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class _Plot:
    """The rectangle that data is drawn in."""

    root: ET.Element
    x: Scale
    y: Scale
    width: float
    height: float


def scatter(
    points: Sequence[Point], x: Axis, y: Axis, *, label: str, upward: bool = True
) -> Markup:
    """Quality against cost, with the frontier of what cannot be had both better and cheaper.

    Args:
        points: At least one.
        x: Cost, lower is better.
        y: Quality.
        label: What the chart says, for those who do not see it.
        upward: Whether a higher `y` is better.

    Returns:
        A drawing of 640 by 400.
    """
    plot = _plot(640, 400, label, ([p.x for p in points], x), ([p.y for p in points], y))
    _bounds(plot, x, y)
    _frontier(plot, points, upward)
    for role in ("misses", "meets", "original", "chosen"):
        for point in points:
            if point.role == role:
                _mark(plot, point)
    _names(plot, points)
    return markup(plot.root)


def line(values: Sequence[float], y: Axis, *, label: str) -> Markup:
    """One value per epoch.

    Args:
        values: At least one, finite.
        y: What is shown.
        label: What the chart says, for those who do not see it.

    Returns:
        A drawing of 440 by 240.
    """
    steps = [float(i) for i in range(1, len(values) + 1)]
    plot = _plot(440, 240, label, (steps, Axis(title="epoch", show=_whole)), (list(values), y))
    places = [(plot.x(step), plot.y(value)) for step, value in zip(steps, values, strict=True)]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    draw(plot.root, "polyline", points=path, class_="line")
    for (px, py), step, value in zip(places, steps, values, strict=True):
        dot = draw(
            plot.root, "circle", cx=px, cy=py, r=3.5 if len(values) <= 40 else 1.5, class_="dot"
        )
        tooltip(dot, f"epoch {step:.0f}: {y.show(value)}")
    return markup(plot.root)


def _whole(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else ""


def _plot(
    width: float,
    height: float,
    label: str,
    x: tuple[list[float], Axis],
    y: tuple[list[float], Axis],
) -> _Plot:
    """An empty plot with grid, ticks and titles."""
    (xs, x_axis), (ys, y_axis) = x, y
    root = picture(width, height, label, "chart broad" if width > 500 else "chart")
    y_scale = Scale.around([*ys, *_shown(y_axis, ys)], height - 52, 34)
    left = 16 + LETTER * max(len(y_axis.show(tick)) for tick in y_scale.ticks())
    x_scale = Scale.around([*xs, *_shown(x_axis, xs)], left, width - RIGHT)
    for tick in y_scale.ticks():
        py = y_scale(tick)
        draw(root, "line", x1=left, x2=width - RIGHT, y1=py, y2=py, class_="grid")
        draw(
            root, "text", y_axis.show(tick), x=left - 10, y=py + 4, class_="tick", text_anchor="end"
        )
    for tick in x_scale.ticks(6):
        px = x_scale(tick)
        draw(
            root,
            "text",
            x_axis.show(tick),
            x=px,
            y=height - 32,
            class_="tick",
            text_anchor="middle",
        )
    draw(root, "line", x1=left, x2=width - RIGHT, y1=height - 52, y2=height - 52, class_="axis")
    draw(root, "text", y_axis.title, x=2, y=15, class_="title")
    draw(
        root, "text", x_axis.title, x=width - RIGHT, y=height - 6, class_="title", text_anchor="end"
    )
    return _Plot(root, x_scale, y_scale, width, height)


def _shown(axis: Axis, values: list[float]) -> list[float]:
    """The bound of an axis when it lies near enough to the data to be worth its room."""
    if axis.bound is None:
        return []
    low, high = min(values), max(values)
    reach = (high - low) or abs(high)
    return [axis.bound] if low - reach <= axis.bound <= high + reach else []


def _bounds(plot: _Plot, x: Axis, y: Axis) -> None:
    """The budget as dashed lines; where both are drawn, their names keep clear of each other."""
    right, floor = plot.width - RIGHT, plot.height - 52
    px, py = _drawn(plot.x, x), _drawn(plot.y, y)
    leftward = px is not None and px > (plot.x.start + right) / 2
    if px is not None:
        above = py - 6 if py is not None and floor - py < 26 else floor - 8
        at = draw(plot.root, "line", x1=px, x2=px, y1=34, y2=floor, class_="bound")
        tooltip(at, f"budget: {x.show(x.bound or 0.0)}")
        _budget(plot, px - 6 if leftward else px + 6, above, at_end=leftward)
    if py is not None:
        at = draw(plot.root, "line", x1=plot.x.start, x2=right, y1=py, y2=py, class_="bound")
        tooltip(at, f"budget: {y.show(y.bound or 0.0)}")
        at_end = px is not None and not leftward
        _budget(plot, right - 6 if at_end else plot.x.start + 6, py - 6, at_end=at_end)


def _drawn(scale: Scale, axis: Axis) -> float | None:
    """Where the bound of an axis lies, if it is within the plot."""
    if axis.bound is None or not scale.low < axis.bound < scale.high:
        return None
    return scale(axis.bound)


def _budget(plot: _Plot, x: float, y: float, *, at_end: bool) -> None:
    anchor = "end" if at_end else "start"
    draw(plot.root, "text", "budget", x=x, y=y, class_="hint", text_anchor=anchor)


def _frontier(plot: _Plot, points: Sequence[Point], upward: bool) -> None:
    """Connect the points that no other point beats in both directions."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y if upward else p.y)):
        if not best or (point.y > best[-1].y if upward else point.y < best[-1].y):
            best.append(point)
    if len(best) > 1:
        path = " ".join(f"{plot.x(p.x):.1f},{plot.y(p.y):.1f}" for p in best)
        draw(plot.root, "polyline", points=path, class_="frontier")


def _mark(plot: _Plot, point: Point) -> None:
    px, py = plot.x(point.x), plot.y(point.y)
    spot = draw(plot.root, "g", class_=f"mark {point.role}")
    tooltip(spot, point.text)
    sign(spot, point.role, px, py)


def sign(parent: ET.Element, role: Role, x: float, y: float) -> None:
    """Draw the sign that stands for a role: its form tells as much as its colour."""
    if role == "original":
        draw(parent, "rect", x=x - MARK, y=y - MARK, width=2 * MARK, height=2 * MARK)
        return
    if role == "chosen":
        draw(parent, "circle", cx=x, cy=y, r=2.1 * MARK, class_="ring")
    draw(parent, "circle", cx=x, cy=y, r=MARK)


def key(role: Role) -> Markup:
    """The sign of a role alone, for a legend; silent to screen readers."""
    root = ET.Element("svg", {"viewBox": "0 0 24 24", "class": "key", "aria-hidden": "true"})
    sign(draw(root, "g", class_=f"mark {role}"), role, 12, 12)
    return markup(root)


def _names(plot: _Plot, points: Sequence[Point]) -> None:
    """Write "chosen" and "original" where they cover the fewest marks."""
    spots = [(plot.x(p.x), plot.y(p.y)) for p in points]
    taken: list[tuple[float, float]] = []
    for point in points:
        if point.role not in {"chosen", "original"}:
            continue
        px, py = plot.x(point.x), plot.y(point.y)
        half = LETTER * len(point.role) / 2
        places = [
            (px, py - 17),
            (px, py + 25),
            (px + half + 16, py + 5),
            (px - half - 16, py + 5),
            (px + half + 6, py - 16),
            (px - half - 6, py - 16),
        ]
        inside = [
            (x, y)
            for x, y in places
            if plot.x.start + half <= x <= plot.width - half - 2 and 40 <= y <= plot.height - 58
        ]
        best = min(inside or places[:1], key=lambda at: _covered(at, half, spots, taken))
        taken.append(best)
        draw(
            plot.root, "text", point.role, x=best[0], y=best[1], class_="name", text_anchor="middle"
        )


def _covered(
    at: tuple[float, float],
    half: float,
    spots: list[tuple[float, float]],
    taken: list[tuple[float, float]],
) -> int:
    """How many marks and names a name of width `2 * half` would cover."""
    x, y = at
    marks = sum(abs(px - x) < half + MARK and -14 - MARK < py - y < 4 + MARK for px, py in spots)
    return marks + 10 * sum(abs(px - x) < 70 and abs(py - y) < 16 for px, py in taken)


def histogram(data: Histogram) -> Markup:
    """Weights per bin: the original as an outline, the result filled.

    Args:
        data: Counts before and after in common bins.

    Returns:
        A drawing of 240 by 104.
    """
    before, after = sum(data.before), sum(data.after)
    label = f"{data.tensor}: {before:,} values before, {after:,} after"
    root = picture(240, 104, label, "histogram")
    top = max(1, *data.before, *data.after)
    x = Scale(0, len(data.before), 4, 236)
    y = Scale(0, top, 82, 4)
    step = x(1) - x(0)
    for i, (was, now) in enumerate(zip(data.before, data.after, strict=True)):
        if now:
            spot = draw(
                root, "rect", x=x(i) + 0.4, y=y(now), width=max(0.4, step - 0.8), height=82 - y(now)
            )
            tooltip(
                spot,
                f"{data.edges[i]:.3g} to {data.edges[i + 1]:.3g}: {was:,} before, {now:,} after",
            )
    outline = "".join(f"V{y(was):.1f}H{x(i + 1):.1f}" for i, was in enumerate(data.before))
    draw(root, "path", d=f"M4,82{outline}V82", class_="outline")
    draw(root, "line", x1=4, x2=236, y1=82, y2=82, class_="axis")
    draw(root, "text", f"{data.edges[0]:.2g}", x=4, y=99, class_="tick")
    draw(root, "text", f"{data.edges[-1]:.2g}", x=236, y=99, class_="tick", text_anchor="end")
    if data.edges[0] < 0 < data.edges[-1]:
        zero = 4 + 232 * -data.edges[0] / (data.edges[-1] - data.edges[0])
        draw(root, "text", "0", x=zero, y=99, class_="tick", text_anchor="middle")
    return markup(root)


def bar(share: float, label: str) -> Markup:
    """A share of a whole as a bar of 120 by 12; what is above the whole runs past a notch.

    Args:
        share: At least 0; 1 is the whole.
        label: The same in words.

    Returns:
        The drawing.
    """
    root = picture(120, 12, label, "bar")
    whole = 120 / max(1.0, share)
    draw(root, "rect", x=0, y=2, width=whole, height=8, rx=1.5, class_="track")
    if share > 0:
        tone = "fill" if share <= 1 else "fill over"
        draw(root, "rect", x=0, y=2, width=max(1.5, whole * share), height=8, rx=1.5, class_=tone)
    if share > 1:
        draw(root, "line", x1=whole, x2=whole, y1=0, y2=12, class_="notch")
    return markup(root)


def swing(change: float, reach: float, label: str) -> Markup:
    """A gain to the right or a loss to the left of a middle line, 120 by 12.

    Args:
        change: Above zero is a gain.
        reach: Largest magnitude of any change in the same table, above zero.
        label: The same in words.

    Returns:
        The drawing.
    """
    root = picture(120, 12, label, "bar swing")
    length = 58 * min(1.0, abs(change) / reach)
    if length:
        start, tone = (60.0, "fill") if change > 0 else (60 - length, "fill over")
        draw(root, "rect", x=start, y=2, width=length, height=8, rx=1.5, class_=tone)
    draw(root, "line", x1=60, x2=60, y1=0, y2=12, class_="notch")
    return markup(root)


TREE_WIDTH, CROWN, POT = 380.0, 290.0, 64.0  # CROWN: most height that the branches may take


def tree(groups: Sequence[GroupFigures]) -> Markup:
    """The network as a potted tree: one branch per group, input at the root.

    A branch is as wide as its group has units: the outline before, the leaf after.

    Args:
        groups: At least one, in the order of the network.

    Returns:
        A drawing 380 wide; its height follows the number of groups.
    """
    pitch = min(26.0, CROWN / len(groups))
    height = pitch * len(groups) + POT + 44
    units, kept = sum(g.units for g in groups), sum(g.kept for g in groups)
    label = f"{len(groups)} groups drawn as a potted tree: {kept:,} of {units:,} units were kept"
    root = picture(TREE_WIDTH, height, label, "tree")
    ground = height - POT
    _pot(root, ground)
    crown = pitch * len(groups)
    _trunk(root, ground, crown)
    widest = max(g.units for g in groups)
    for i, group in enumerate(groups):
        y = ground - 30 - pitch * (i + 0.5)
        _branch(root, group, _lean((ground - y) / (crown + 30)), y, (250 / widest, pitch * 0.74))
    return markup(root)


def _lean(height: float) -> float:
    """Where the trunk stands at a share of its height."""
    return TREE_WIDTH / 2 + 30 * math.sin(height * 1.5 * math.pi) * (1 - 0.35 * height)


def _trunk(root: ET.Element, ground: float, crown: float) -> None:
    steps = [i / 24 for i in range(25)]
    girth = [11 * (1 - 0.82 * t) + 5 * (1 - t) ** 6 for t in steps]
    rise = crown + 22
    left = [
        f"{_lean(t) - g:.1f},{ground - t * rise:.1f}" for t, g in zip(steps, girth, strict=True)
    ]
    right = [
        f"{_lean(t) + g:.1f},{ground - t * rise:.1f}" for t, g in zip(steps, girth, strict=True)
    ]
    draw(root, "polygon", points=" ".join([*left, *reversed(right)]), class_="trunk")


def _branch(
    root: ET.Element, group: GroupFigures, middle: float, y: float, scale: tuple[float, float]
) -> None:
    per_unit, height = scale
    spot = draw(root, "g", class_="branch")
    tooltip(spot, f"{group.name}: {group.kept} of {group.units} units kept")
    for count, kind in ((group.units, "was"), (group.kept, "is")):
        width = max(2.0, count * per_unit)
        leaf = draw(spot, "rect", x=middle - width / 2, y=y - height / 2, class_=kind)
        leaf.set("width", number(width))
        leaf.set("height", number(height))
        leaf.set("rx", number(min(height, width) / 2))


def _pot(root: ET.Element, ground: float) -> None:
    """A shallow glazed pot on two feet."""
    middle = TREE_WIDTH / 2
    draw(root, "ellipse", cx=middle, cy=ground + 1, rx=92, ry=7, class_="moss")
    top, foot = ground + 14, ground + 50
    corners = ((-106, top), (-88, foot), (88, foot), (106, top))
    body = " ".join(f"{middle + x},{y:.1f}" for x, y in corners)
    draw(root, "polygon", points=body, class_="pot")
    draw(root, "rect", x=middle - 116, y=ground + 2, width=232, height=13, rx=3, class_="pot")
    for side in (-74, 50):
        draw(root, "rect", x=middle + side, y=ground + 50, width=24, height=7, rx=2, class_="pot")
    wave = "q10,-9 20,0 t20,0 " * 4
    draw(root, "path", d=f"M{middle - 80},{ground + 33} {wave}", class_="glaze")

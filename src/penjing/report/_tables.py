"""The tables of the page, as rows of cells; columns without any value are left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from markupsafe import Markup

from penjing.figures import (
    EpochFigures,
    ExitFigures,
    GateFigures,
    GroupFigures,
    LayerFigures,
    LayerLatency,
    RepairFigures,
    SensitivityFigures,
    SparsityFigures,
)
from penjing.plan import Lock
from penjing.report import _charts as charts
from penjing.report import _wording as wording
from penjing.report._budget import Budget, budgets
from penjing.report._comparison import Row, first_metric, rows
from penjing.report.data import CandidateFigures, ClassFigures, Histogram, ReportData
from penjing.task.recovery import Recovered

T = TypeVar("T")

LONG = 30  # rows above which a table is folded


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Args:
        text: What it says.
        sort: What a numeric column is sorted by; None is last.
        picture: Drawing before the text.
        tone: "better", "worse" or empty.
    """

    text: str = ""
    sort: float | None = None
    picture: Markup | None = None
    tone: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.text and self.picture is None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and whether it holds numbers or names from code."""

    title: str
    numeric: bool = False
    code: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table; the first cell of every row heads it.

    Args:
        caption: What the table shows.
        columns: Headings.
        rows: Cells, as many per row as there are columns.
        marked: Rows to set off.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()

    @property
    def folded(self) -> bool:
        """Whether it is too long to stand open."""
        return len(self.rows) > LONG


@dataclass(frozen=True, slots=True)
class _Field(Generic[T]):
    """A column, and the cell that it makes of an item."""

    column: Column
    cell: Callable[[T], Cell]


def _text(title: str, of: Callable[[T], str]) -> _Field[T]:
    """Words."""
    return _Field(Column(title), lambda item: Cell(of(item)))


def _code(title: str, of: Callable[[T], str]) -> _Field[T]:
    """A name from code."""
    return _Field(Column(title, code=True), lambda item: Cell(of(item)))


def _number(title: str, of: Callable[[T], float | None], say: Callable[[float], str]) -> _Field[T]:
    """A number as `say` words it, by which the column is sorted; empty when there is none."""
    return _Field(Column(title, numeric=True), lambda item: _valued(of(item), say))


def _count(title: str, of: Callable[[T], int | None]) -> _Field[T]:
    """A whole number in full."""
    return _number(title, of, "{:,}".format)


def _cell(title: str, of: Callable[[T], Cell]) -> _Field[T]:
    """A number that draws or colours its cell itself."""
    return _Field(Column(title, numeric=True), of)


def _valued(value: float | None, say: Callable[[float], str]) -> Cell:
    if value is None:
        return Cell()
    return Cell(say(value), value if math.isfinite(value) else None)


def _table(
    caption: str,
    items: Iterable[T],
    fields: Sequence[_Field[T]],
    marked: Callable[[T], object] = lambda _: False,
) -> Table:
    """A table of the columns that have a value for any item; the first one always stays."""
    listed = list(items)
    cells = [[field.cell(item) for field in fields] for item in listed]
    shown = [i for i in range(len(fields)) if i == 0 or any(not line[i].empty for line in cells)]
    return Table(
        caption,
        tuple(fields[i].column for i in shown),
        tuple(tuple(line[i] for i in shown) for line in cells),
        frozenset(i for i, item in enumerate(listed) if marked(item)),
    )


def figures(data: ReportData) -> Table:
    """Every figure before and after, with how it was had."""
    shown = rows(data)
    compared = any(row.words for row in shown)
    fields: list[_Field[Row]] = [
        _text("figure", lambda r: r.label),
        _cell("before" if compared else "value", lambda r: Cell(r.exact[0] or r.before)),
        _cell("after" if compared else "value", lambda r: Cell(r.exact[1] or r.after)),
        _Field(Column("change"), _changed),
        _text("how it was had", lambda r: r.how),
    ]
    caption = "Every figure, before and after" if compared else "Every figure"
    return _table(caption, shown, fields)


def _changed(row: Row) -> Cell:
    return Cell(row.words, tone=row.verdict if row.verdict in {"better", "worse"} else "")


def constraints(data: ReportData) -> Table:
    """Every budget and whether it is met."""
    tones = {True: "better", False: "worse", None: ""}
    fields: list[_Field[Budget]] = [
        _code("budget", lambda b: b.name),
        _text("at most", lambda b: b.limit),
        _text("result", lambda b: b.actual),
        _Field(Column("verdict"), lambda b: Cell(b.words, tone=tones[b.met])),
    ]
    return _table("Budgets and what was reached", budgets(data), fields)


def candidates(data: ReportData) -> Table:
    """Every network that was tried."""
    name = first_metric(data)
    fields: list[_Field[CandidateFigures]] = [
        _text("candidate", lambda c: c.name),
        _number("MACs", lambda c: c.macs, wording.count),
        _number("parameters", lambda c: c.params, wording.count),
        _number("file size", lambda c: c.size_bytes, wording.size),
        _number("latency", lambda c: c.latency_ms, lambda ms: f"{wording.digits(ms)} ms"),
        _number("speed-up", lambda c: c.speedup, wording.factor),
        _number(name, lambda c: c.metric, lambda value: wording.metric(name, value)),
        _number("lost", lambda c: c.drop, lambda drop: _points(name, drop)),
        _text("budget", _verdict),
        _number("time", lambda c: c.seconds or None, wording.duration),
        _text("note", lambda c: c.note),
    ]
    caption = "Every network that was tried (MACs: multiply-accumulates)"
    return _table(caption, data.candidates, fields, marked=lambda c: c.kept)


def _verdict(candidate: CandidateFigures) -> str:
    met = {True: "met", False: "not met", None: ""}[candidate.meets]
    return ", ".join(text for text in ("chosen" if candidate.kept else "", met) if text)


def _points(name: str, drop: float) -> str:
    text = f"{100 * drop:.2f} points" if wording.is_share(name) else f"{drop:.4g}"
    return text.replace("-", "−")


def classes(data: ReportData) -> Table:
    """Every class before and after."""
    changes = [_gain(c) for c in data.per_class]
    reach = max((abs(change) for change in changes if change is not None), default=0) or 1.0
    fields: list[_Field[ClassFigures]] = [
        _text("class", lambda c: c.name),
        _count("samples", lambda c: c.count),
        _number("before", lambda c: c.before, wording.percent),
        _number("after", lambda c: c.after, wording.percent),
        _cell("change", lambda c: _change(_gain(c), reach)),
        _number("agreement", lambda c: c.agreement, wording.percent),
    ]
    return _table("Share answered correctly, class by class", data.per_class, fields)


def _gain(figures: ClassFigures) -> float | None:
    if figures.before is None or figures.after is None:
        return None
    return figures.after - figures.before


def _change(change: float | None, reach: float) -> Cell:
    if change is None or math.isnan(change):
        return Cell()
    moved = round(100 * change, 2)
    text = f"{moved:+.2f} points".replace("-", "−") if moved else "unchanged"
    tone = "better" if moved > 0 else "worse" if moved < 0 else ""
    return Cell(text, change, charts.swing(change, reach, text), tone)


def groups(data: ReportData) -> Table:
    """Every group with the units it kept."""
    fields: list[_Field[GroupFigures]] = [
        _code("group", lambda g: g.name),
        _count("units", lambda g: g.units),
        _count("kept", lambda g: g.kept),
        _cell("share kept", lambda g: _share(g.kept / g.units if g.units else 0.0)),
        _number("estimated error", lambda g: g.error, wording.digits),
    ]
    return _table("Units kept in every group, in the order of the network", data.groups, fields)


def sparsity(data: ReportData) -> Table:
    """Every layer with its zeros, or why it has none."""
    fields: list[_Field[SparsityFigures]] = [
        _code("layer", lambda s: s.layer),
        _count("weights", lambda s: s.weights),
        _count("not zero", lambda s: s.nonzero),
        _cell("sparsity", lambda s: _share(1 - s.nonzero / s.weights if s.weights else 0.0)),
        _code("pattern", lambda s: s.pattern),
        _number("estimated error", lambda s: s.error, wording.digits),
        _text("dense because", lambda s: s.reason),
    ]
    return _table("Zeros of every layer, in the order of the network", data.sparsity, fields)


def _share(share: float) -> Cell:
    text = f"{100 * share:.0f} %"
    return Cell(text, share, charts.bar(share, text))


def layers(data: ReportData) -> Table:
    """Every compute layer before and after."""
    before, after = (_by_name(f.layers if f else ()) for f in (data.before, data.after))
    both = bool(before and after)
    pairs = [
        _Pair(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])
    ]
    fields: list[_Field[_Pair]] = [
        _code("layer", lambda p: p.name),
        _code("op", lambda p: p.first.op),
        _code("output", lambda p: " × ".join(map(str, (p.after or p.first).output_shape))),
        _count("parameters before" if both else "parameters", lambda p: p.first.params),
        _count("after", lambda p: p.last.params if p.last else None),
        _number("MACs before" if both else "MACs", lambda p: p.first.macs, wording.count),
        _number("after", lambda p: p.last.macs if p.last else None, wording.count),
        _cell("share left", _macs_left),
    ]
    caption = "Every layer that computes, in the order of the network (MACs: multiply-accumulates)"
    return _table(caption, pairs, fields)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer before and after; at least one of the two is there."""

    name: str
    before: LayerFigures | None
    after: LayerFigures | None

    @property
    def first(self) -> LayerFigures:
        first = self.before or self.after
        assert first is not None  # the name came from one of them
        return first

    @property
    def last(self) -> LayerFigures | None:
        """What became of the first one."""
        return self.after if self.before is not None else None


def _macs_left(pair: _Pair) -> Cell:
    if pair.last is None or not pair.first.macs:
        return Cell()
    return _share(pair.last.macs / pair.first.macs)


def _by_name(layers: Iterable[LayerFigures]) -> dict[str, LayerFigures]:
    """Layers by name; a layer that is used again gets its turn behind the name."""
    named: dict[str, LayerFigures] = {}
    seen: dict[str, int] = {}
    for layer in layers:
        turn = seen[layer.name] = seen.get(layer.name, 0) + 1
        named[layer.name if turn == 1 else f"{layer.name} (use {turn})"] = layer
    return named


def repair(data: ReportData) -> Table:
    """Every layer that repair looked at."""
    fields: list[_Field[RepairFigures]] = [
        _code("layer", lambda r: r.layer),
        _number("error before", lambda r: r.error_before, wording.digits),
        _number("error after", lambda r: r.error_after, wording.digits),
        _cell("error left", lambda r: _left(r.error_before, r.error_after)),
        _number("damping", lambda r: r.damping, "{:.1e}".format),
        _text("left alone because, or remark", lambda r: r.reason or r.note),
    ]
    return _table("Relative squared output error of every layer", data.repair, fields)


def sensitivity(data: ReportData) -> Table:
    """What the outputs lose through each layer in integers, and what was kept higher."""
    fields: list[_Field[SensitivityFigures]] = [
        _code("layer", lambda s: s.layer),
        _number("error, it alone in integers", lambda s: s.alone, wording.digits),
        _number("error, all others in integers", lambda s: s.without, wording.digits),
        _text("kept in", lambda s: s.kept),
    ]
    caption = "Relative squared error of the outputs, layer by layer"
    return _table(caption, data.sensitivity, fields, marked=lambda s: s.kept)


def exits(data: ReportData) -> Table:
    """Where samples leave, and what that costs."""
    fields: list[_Field[ExitFigures]] = [
        _code("exit", lambda row: row.name),
        _number("MACs before it", lambda row: row.macs_share, "{:.0%}".format),
        _number("quality if all left here", lambda row: row.quality, wording.digits),
        _number("threshold", lambda row: row.threshold, wording.digits),
        _number("samples that leave", lambda row: row.taken, "{:.1%}".format),
        _number("cost", lambda row: row.cost, wording.digits),
    ]
    return _table("Exits, in the order of the network", data.exits, fields)


def gates(data: ReportData) -> Table:
    """Which blocks the samples run, or how many channels of each layer."""
    blocks = data.kind == "gates"
    taken = "samples that run it" if blocks else "channels with a say"
    fields: list[_Field[GateFigures]] = [
        _code("block" if blocks else "layer", lambda row: row.name),
        _number("of all MACs", lambda row: row.macs_share, "{:.1%}".format),
        _number(taken, lambda row: row.taken, "{:.1%}".format),
    ]
    title = "Gated blocks" if blocks else "Layers with gated channels"
    return _table(f"{title}, in the order of the network", data.gates, fields)


def layer_latency(data: ReportData) -> Table:
    """Milliseconds of each layer in floats and in integers."""
    fields: list[_Field[LayerLatency]] = [
        _code("layer", lambda row: row.layer),
        _number("floats, ms", lambda row: row.floats_ms, wording.digits),
        _number("integers, ms", lambda row: row.integers_ms, wording.digits),
        _cell("times faster", lambda row: _faster(row.floats_ms, row.integers_ms)),
        _code("op in integers", lambda row: row.op),
    ]
    caption = "Latency layer by layer, in floats and in integers"
    return _table(caption, data.layer_latency, fields)


def _faster(floats: float, integers: float) -> Cell:
    if integers <= 0 or floats <= 0:
        return Cell()
    ratio = floats / integers
    return Cell(wording.digits(ratio), ratio, None, "worse" if ratio < 1 else "")


def _left(before: float | None, after: float | None) -> Cell:
    if before is None or after is None or not before or not math.isfinite(after / before):
        return Cell()
    share = after / before
    text = f"{100 * share:.0f} %"
    tone = "worse" if share > 1 else ""
    return Cell(text, share, charts.bar(share, f"{text} of the error is left"), tone)


def weights(data: ReportData) -> Table:
    """What the histograms show, in numbers."""
    fields: list[_Field[Histogram]] = [
        _code("tensor", lambda h: h.tensor),
        _count("values before", lambda h: sum(h.before)),
        _count("values after", lambda h: sum(h.after)),
        _cell("share left", _values_left),
        _cell("half of them within, before", lambda h: _within(h, h.before)),
        _cell("after", lambda h: _within(h, h.after)),
    ]
    return _table("Weights of every tensor shown, before and after", data.histograms, fields)


def _values_left(histogram: Histogram) -> Cell:
    before = sum(histogram.before)
    return _share(sum(histogram.after) / before) if before else Cell()


def _within(histogram: Histogram, counts: tuple[int, ...]) -> Cell:
    """The smallest magnitude that holds half of the values, to the width of a bin."""
    total, reached = sum(counts), 0
    if not total:
        return Cell()
    borders = [
        max(abs(low), abs(high))
        for low, high in zip(histogram.edges[:-1], histogram.edges[1:], strict=True)
    ]
    for border, count in sorted(zip(borders, counts, strict=True)):
        reached += count
        if 2 * reached >= total:
            return Cell(f"±{border:.2g}", border)
    return Cell()


def recovery(data: ReportData) -> Table:
    """Every step of a chain, and what it keeps."""
    fields: list[_Field[Recovered]] = [
        _text("step", lambda r: r.step),
        _text("judged on", lambda r: r.split),
        _text("figure", lambda r: r.figure),
        _cell("before", lambda r: _valued(r.before, lambda v: wording.metric(r.figure, v))),
        _cell("after", lambda r: _valued(r.after, lambda v: wording.metric(r.figure, v))),
        _number("over the original", lambda r: _known(r.ratio), "{:.3f}".format),
        _number("over the step before", lambda r: _known(r.change), "{:.3f}".format),
    ]
    return _table("Every step, before and after", data.recovery, fields)


def _known(ratio: float) -> float | None:
    return ratio if math.isfinite(ratio) else None


def epochs(data: ReportData) -> Table:
    """Every epoch of training."""
    names = dict.fromkeys(name for e in data.epochs for name in e.metrics)
    fields: list[_Field[EpochFigures]] = [
        _number("epoch", lambda e: e.epoch, str),
        _number("training loss", lambda e: e.loss, lambda loss: wording.digits(loss, 4)),
        *(_metric(name) for name in names),
        _number("learning rate", lambda e: e.lr, "{:.3g}".format),
        _number("time", lambda e: e.seconds, wording.duration),
    ]
    return _table("Every epoch", data.epochs, fields)


def _metric(name: str) -> _Field[EpochFigures]:
    return _number(name, lambda e: e.metrics.get(name), lambda value: wording.metric(name, value))


def locked(locks: Sequence[Lock]) -> Table:
    """What was left alone, and why."""
    fields: list[_Field[Lock]] = [
        _code("tensor", lambda k: k.tensor),
        _number("dimension", lambda k: k.dim, str),
        _count("positions", lambda k: k.positions),
        _count("parameters kept", lambda k: k.params or None),
        _count("MACs kept", lambda k: k.macs or None),
        _text("reason", lambda k: k.reason),
        _code("where", lambda k: k.where),
    ]
    return _table("What cannot be cut, and why", locks, fields)

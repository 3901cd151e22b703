"""The tables of the page, as rows of cells; columns without any value are left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from penjing.figures import LayerFigures
from penjing.plan import Lock
from penjing.report import _charts as charts
from penjing.report import _wording as wording
from penjing.report._budget import budgets
from penjing.report._comparison import Row, first_metric, rows
from penjing.report.data import CandidateFigures, Histogram, ReportData

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


def _table(
    caption: str,
    columns: Sequence[Column],
    lines: Iterable[Sequence[Cell]],
    marked: Iterable[int] = (),
) -> Table:
    """A table of the columns that have a value in any row; the first one always stays."""
    cells = [tuple(line) for line in lines]
    shown = [i for i in range(len(columns)) if i == 0 or any(not line[i].empty for line in cells)]
    kept = tuple(tuple(line[i] for i in shown) for line in cells)
    return Table(caption, tuple(columns[i] for i in shown), kept, frozenset(marked))


def _number(value: float | None, text: str) -> Cell:
    """A cell that sorts by its value; empty when there is none."""
    return Cell() if value is None else Cell(text, value if math.isfinite(value) else None)


def figures(data: ReportData) -> Table:
    """Every figure before and after, with how it was had."""
    shown = rows(data)
    compared = any(row.words for row in shown)
    columns = (
        Column("figure"),
        Column("before" if compared else "value", numeric=True),
        Column("after" if compared else "value", numeric=True),
        Column("change"),
        Column("how it was had"),
    )
    caption = "Every figure, before and after" if compared else "Every figure"
    return _table(caption, columns, map(_figure, shown))


def _figure(row: Row) -> list[Cell]:
    tone = row.verdict if row.verdict in {"better", "worse"} else ""
    return [
        Cell(row.label),
        Cell(row.exact[0] or row.before),
        Cell(row.exact[1] or row.after),
        Cell(row.words, tone=tone),
        Cell(row.how),
    ]


def constraints(data: ReportData) -> Table:
    """Every budget and whether it is met."""
    columns = (Column("budget", code=True), Column("at most"), Column("result"), Column("verdict"))
    tones = {True: "better", False: "worse", None: ""}
    lines = (
        [Cell(b.name), Cell(b.limit), Cell(b.actual), Cell(b.words, tone=tones[b.met])]
        for b in budgets(data)
    )
    return _table("Budgets and what was reached", columns, lines)


def candidates(data: ReportData) -> Table:
    """Every network that was tried."""
    name = first_metric(data)
    columns = (
        Column("candidate", code=True),
        Column("MACs", numeric=True),
        Column("parameters", numeric=True),
        Column("file size", numeric=True),
        Column("latency", numeric=True),
        Column(name, numeric=True),
        Column("lost", numeric=True),
        Column("budget"),
        Column("time", numeric=True),
        Column("note"),
    )
    lines = [
        [
            Cell(c.name),
            _number(c.macs, wording.count(c.macs or 0)),
            _number(c.params, wording.count(c.params or 0)),
            _number(c.size_bytes, wording.size(c.size_bytes or 0)),
            _number(c.latency_ms, f"{wording.digits(c.latency_ms or 0)} ms"),
            _number(c.metric, wording.metric(name, c.metric or 0)),
            _number(c.drop, _points(name, c.drop or 0)),
            Cell(_verdict(c)),
            _number(c.seconds or None, wording.duration(c.seconds)),
            Cell(c.note),
        ]
        for c in data.candidates
    ]
    chosen = (i for i, c in enumerate(data.candidates) if c.kept)
    return _table(
        "Every network that was tried (MACs: multiply-accumulates)", columns, lines, chosen
    )


def _verdict(candidate: CandidateFigures) -> str:
    met = {True: "met", False: "not met", None: ""}[candidate.meets]
    return ", ".join(text for text in ("chosen" if candidate.kept else "", met) if text)


def _points(name: str, drop: float) -> str:
    text = f"{100 * drop:.2f} points" if wording.is_share(name) else f"{drop:.4g}"
    return text.replace("-", "−")


def classes(data: ReportData) -> Table:
    """Every class before and after."""
    columns = (
        Column("class"),
        Column("samples", numeric=True),
        Column("before", numeric=True),
        Column("after", numeric=True),
        Column("change", numeric=True),
        Column("agreement", numeric=True),
    )
    changes = [
        c.after - c.before if c.before is not None and c.after is not None else None
        for c in data.per_class
    ]
    reach = max((abs(change) for change in changes if change is not None), default=0) or 1.0
    lines = [
        [
            Cell(c.name),
            _number(c.count, f"{c.count:,}"),
            _number(c.before, wording.percent(c.before or 0)),
            _number(c.after, wording.percent(c.after or 0)),
            _change(change, reach),
            _number(c.agreement, wording.percent(c.agreement or 0)),
        ]
        for c, change in zip(data.per_class, changes, strict=True)
    ]
    return _table("Share answered correctly, class by class", columns, lines)


def _change(change: float | None, reach: float) -> Cell:
    if change is None or math.isnan(change):
        return Cell()
    text = f"{100 * change:+.2f} points".replace("-", "−")
    tone = "better" if change > 0 else "worse" if change < 0 else ""
    return Cell(text, change, charts.swing(change, reach, text), tone)


def groups(data: ReportData) -> Table:
    """Every group with the units it kept."""
    columns = (
        Column("group", code=True),
        Column("units", numeric=True),
        Column("kept", numeric=True),
        Column("share kept", numeric=True),
        Column("estimated error", numeric=True),
    )
    lines = [
        [
            Cell(g.name),
            _number(g.units, f"{g.units:,}"),
            _number(g.kept, f"{g.kept:,}"),
            _share(g.kept / g.units if g.units else 0.0),
            _number(g.error, wording.digits(g.error or 0)),
        ]
        for g in data.groups
    ]
    return _table("Units kept in every group, in the order of the network", columns, lines)


def sparsity(data: ReportData) -> Table:
    """Every layer with its zeros, or why it has none."""
    columns = (
        Column("layer", code=True),
        Column("weights", numeric=True),
        Column("not zero", numeric=True),
        Column("sparsity", numeric=True),
        Column("pattern", code=True),
        Column("estimated error", numeric=True),
        Column("dense because"),
    )
    lines = [
        [
            Cell(s.layer),
            _number(s.weights, f"{s.weights:,}"),
            _number(s.nonzero, f"{s.nonzero:,}"),
            _share(1 - s.nonzero / s.weights if s.weights else 0.0),
            Cell(s.pattern),
            _number(s.error, wording.digits(s.error or 0)),
            Cell(s.reason),
        ]
        for s in data.sparsity
    ]
    return _table("Zeros of every layer, in the order of the network", columns, lines)


def _share(share: float) -> Cell:
    text = f"{100 * share:.0f} %"
    return Cell(text, share, charts.bar(share, text))


def layers(data: ReportData) -> Table:
    """Every compute layer before and after."""
    before, after = (_by_name(f.layers if f else ()) for f in (data.before, data.after))
    both = bool(before and after)
    columns = (
        Column("layer", code=True),
        Column("op", code=True),
        Column("output", code=True),
        Column("parameters before" if both else "parameters", numeric=True),
        Column("after", numeric=True),
        Column("MACs before" if both else "MACs", numeric=True),
        Column("after", numeric=True),
        Column("share left", numeric=True),
    )
    names = dict.fromkeys([*before, *after])
    lines = (_layer(name, before.get(name), after.get(name)) for name in names)
    return _table(
        "Every layer that computes, in the order of the network (MACs: multiply-accumulates)",
        columns,
        lines,
    )


def _by_name(layers: Iterable[LayerFigures]) -> dict[str, LayerFigures]:
    """Layers by name; a layer that is used again gets its turn behind the name."""
    named: dict[str, LayerFigures] = {}
    seen: dict[str, int] = {}
    for layer in layers:
        turn = seen[layer.name] = seen.get(layer.name, 0) + 1
        named[layer.name if turn == 1 else f"{layer.name} (use {turn})"] = layer
    return named


def _layer(name: str, before: LayerFigures | None, after: LayerFigures | None) -> list[Cell]:
    first, last = before or after, after if before is not None else None
    shown = after or before
    assert first is not None  # the name came from one of them
    assert shown is not None
    left = last.macs / first.macs if last is not None and first.macs else None
    return [
        Cell(name),
        Cell(first.op),
        Cell(" × ".join(map(str, shown.output_shape))),
        _number(first.params, f"{first.params:,}"),
        Cell() if last is None else _number(last.params, f"{last.params:,}"),
        _number(first.macs, wording.count(first.macs)),
        Cell() if last is None else _number(last.macs, wording.count(last.macs)),
        Cell() if left is None else _share(left),
    ]


def repair(data: ReportData) -> Table:
    """Every layer that repair looked at."""
    columns = (
        Column("layer", code=True),
        Column("error before", numeric=True),
        Column("error after", numeric=True),
        Column("error left", numeric=True),
        Column("damping", numeric=True),
        Column("left alone because"),
    )
    lines = [
        [
            Cell(r.layer),
            _number(r.error_before, wording.digits(r.error_before or 0)),
            _number(r.error_after, wording.digits(r.error_after or 0)),
            _left(r.error_before, r.error_after),
            _number(r.damping, f"{r.damping or 0:.1e}"),
            Cell(r.reason),
        ]
        for r in data.repair
    ]
    return _table("Relative squared output error of every layer", columns, lines)


def sensitivity(data: ReportData) -> Table:
    """What the outputs lose through each layer in integers, and what was kept higher."""
    columns = (
        Column("layer", code=True),
        Column("error, it alone in integers", numeric=True),
        Column("error, all others in integers", numeric=True),
        Column("kept in"),
    )
    lines = [
        [
            Cell(s.layer),
            _number(s.alone, wording.digits(s.alone)),
            _number(s.without, wording.digits(s.without)),
            Cell(s.kept),
        ]
        for s in data.sensitivity
    ]
    marked = (i for i, s in enumerate(data.sensitivity) if s.kept)
    return _table("Relative squared error of the outputs, layer by layer", columns, lines, marked)


def layer_latency(data: ReportData) -> Table:
    """Milliseconds of each layer in floats and in integers."""
    columns = (
        Column("layer", code=True),
        Column("floats, ms", numeric=True),
        Column("integers, ms", numeric=True),
        Column("times faster", numeric=True),
        Column("op in integers", code=True),
    )
    lines = [
        [
            Cell(row.layer),
            _number(row.floats_ms, wording.digits(row.floats_ms)),
            _number(row.integers_ms, wording.digits(row.integers_ms)),
            _faster(row.floats_ms, row.integers_ms),
            Cell(row.op),
        ]
        for row in data.layer_latency
    ]
    return _table("Latency layer by layer, in floats and in integers", columns, lines)


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
    columns = (
        Column("tensor", code=True),
        Column("values before", numeric=True),
        Column("values after", numeric=True),
        Column("share left", numeric=True),
        Column("half of them within, before", numeric=True),
        Column("after", numeric=True),
    )
    lines = [
        [
            Cell(h.tensor),
            _number(sum(h.before), f"{sum(h.before):,}"),
            _number(sum(h.after), f"{sum(h.after):,}"),
            _share(sum(h.after) / sum(h.before)) if sum(h.before) else Cell(),
            _within(h, h.before),
            _within(h, h.after),
        ]
        for h in data.histograms
    ]
    return _table("Weights of every tensor shown, before and after", columns, lines)


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


def epochs(data: ReportData) -> Table:
    """Every epoch of training."""
    names = list(dict.fromkeys(name for e in data.epochs for name in e.metrics))
    columns = (
        Column("epoch", numeric=True),
        Column("training loss", numeric=True),
        *(Column(name, numeric=True) for name in names),
        Column("learning rate", numeric=True),
        Column("time", numeric=True),
    )
    lines = [
        [
            _number(e.epoch, str(e.epoch)),
            _number(e.loss, wording.digits(e.loss, 4)),
            *(_metric(name, e.metrics.get(name)) for name in names),
            _number(e.lr, f"{e.lr:.3g}"),
            _number(e.seconds, wording.duration(e.seconds)),
        ]
        for e in data.epochs
    ]
    return _table("Every epoch", columns, lines)


def _metric(name: str, value: float | None) -> Cell:
    return Cell() if value is None else _number(value, wording.metric(name, value))


def locked(locks: Sequence[Lock]) -> Table:
    """What was left alone, and why."""
    columns = (
        Column("tensor", code=True),
        Column("dimension", numeric=True),
        Column("positions", numeric=True),
        Column("parameters kept", numeric=True),
        Column("MACs kept", numeric=True),
        Column("reason"),
        Column("where", code=True),
    )
    lines = [
        [
            Cell(k.tensor),
            _number(k.dim, str(k.dim)),
            _number(k.positions, f"{k.positions:,}"),
            _number(k.params or None, f"{k.params:,}"),
            _number(k.macs or None, f"{k.macs:,}"),
            Cell(k.reason),
            Cell(k.where),
        ]
        for k in locks
    ]
    return _table("What cannot be cut, and why", columns, lines)

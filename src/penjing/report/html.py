"""The report as one page that needs nothing but itself: no network, no fonts, no scripts."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from penjing.report import _charts as charts
from penjing.report._budget import budgets
from penjing.report._comparison import Row, rows
from penjing.report._sections import sections
from penjing.report._text import KINDS
from penjing.report.data import ReportData

CARDS = ("macs", "latency_ms", "size_bytes", "ram_bytes", "energy_mj", "params")  # in this order
JOINTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[._/-])")
"""Where words meet in a name: at capitals, and behind signs."""
UNBROKEN = re.compile(r"(?<=\d) (?=%)|(?<=[≤≥]) | (?=[≤≥])")
"""Spaces within a figure or a bound, at which no line ends."""
NOUNS = {
    "macs": "multiply-accumulates",
    "size_bytes": "file",
    "ram_bytes": "activation RAM",
    "energy_mj": "energy",
    "params": "parameters",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure: large, with where it came from and what that means."""

    label: str
    value: str
    before: str
    words: str
    tone: str
    bar: Markup | None
    note: str


def page(data: ReportData) -> str:
    """Draw the page.

    Args:
        data: What to show. All of its text is escaped.

    Returns:
        HTML without a reference to anything outside itself.
    """
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "together": together}
    style, script = _template("report.css"), _template("report.js")
    text = environment.get_template("report.html.j2").render(
        data=data,
        kind=KINDS[data.kind].capitalize(),
        cards=cards(data),
        sentence=sentence(data),
        warnings=warnings(data),
        tree=charts.tree(data.groups) if data.groups else None,
        sections=sections(data),
        style=Markup(style),  # a file of this package
        script=Markup(script),  # a file of this package
        style_hash=_digest(style),
        script_hash=_digest(script),
    )
    return text.encode("utf-8", "replace").decode()  # a lone surrogate in a name cannot be written


def breakable(name: str) -> Markup:
    """A name that may be broken where its words meet, and only there while that is enough.

    Args:
        name: Such as "MaskFormerForInstanceSegmentation" or "model.layers.0".

    Returns:
        The escaped text with marks that show only where a line ends.
    """
    return Markup("<wbr>").join(escape(word) for word in JOINTS.split(name))


def together(text: str) -> str:
    """A sentence whose figures stay on one line with their units.

    Example:
        >>> together("macs ≤ 40%, accuracy 99.50 %").count(" ")  # the other three do not break
        2
    """
    return UNBROKEN.sub("\u00a0", text)


def _template(name: str) -> str:
    return (resources.files("penjing.report") / "template" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Hash by which the page's own policy allows exactly this style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def cards(data: ReportData) -> list[Card]:
    """Headline figures: quality first, then costs."""
    known = {row.name: row for row in rows(data)}
    agreement = ["agreement"] if data.agreement is not None else []
    metrics = [*(data.metrics_after or data.metrics_before)][: 2 - len(agreement)]
    names = [*metrics, *agreement]
    names += [name for name in CARDS if name in known]
    return [_card(data, known[name]) for name in names[:8]]


def _card(data: ReportData, row: Row) -> Card:
    latency = data.after.latency if data.after is not None else None
    note = ""
    if row.name == "latency_ms" and latency is not None:
        threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
        note = f"{latency.runtime}, {threads}, median of {latency.n}"
    return Card(
        label=row.label,
        value=row.after or row.before,
        before=row.before if row.after else "",
        words=row.words,
        tone=row.verdict if row.verdict in {"better", "worse"} else "",
        bar=None
        if row.share is None
        else charts.bar(row.share, f"{row.share:.0%} of the original"),
        note=note,
    )


def sentence(data: ReportData) -> str:
    """What came of it in one sentence, losses as plainly as gains; empty without a comparison."""
    known = {row.name: row for row in rows(data) if row.words}
    parts = [_part(known[name], name) for name in CARDS if name in known][:4]
    metric = next((known[name] for name in data.metrics_after if name in known), None)
    if metric is not None:
        parts.append(f"{metric.label} {metric.after}, {metric.words}")
    elif data.agreement is not None:
        parts.append(f"{data.agreement:.1%} of the answers as before")
    return f"{'; '.join(parts)}." if parts else ""


def _part(row: Row, name: str) -> str:
    if name == "latency_ms":
        return {"same": "no faster, no slower"}.get(row.verdict, row.words)
    noun_last = row.words.endswith(("fewer", "less", "more"))
    return f"{row.words} {NOUNS[name]}" if noun_last else f"{NOUNS[name]} {row.words}"


def warnings(data: ReportData) -> list[tuple[str, str]]:
    """What must not be overlooked: a word or two, and the sentence behind it."""
    known = {row.name: row for row in rows(data)}
    found: list[tuple[str, str]] = []
    latency = known.get("latency_ms")
    if latency is not None and latency.verdict == "worse":
        text = f"Measured, the result is {latency.words} than the original."
        found.append(("Not faster.", text))
    missed = [b for b in budgets(data) if b.met is False]
    if missed:
        listed = ", ".join(f"{b.name} at most {b.limit} ({b.actual})" for b in missed)
        found.append(("Over budget.", f"{listed}."))
    if data.proof is not None and data.proof.moved == 0:
        text = "Masking the cut units did not move the outputs, so the comparison shows nothing."
        found.append(("No proof.", text))
    return found

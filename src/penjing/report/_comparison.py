"""Before against after: the headline rows that the table and the page both show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from penjing.figures import Figures
from penjing.report import _wording as wording
from penjing.report.data import ReportData

Verdict = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True, slots=True)
class Cost:
    """One figure of `Figures` that is better when it is lower."""

    field: str
    label: str
    less: str
    more: str
    show: Callable[[float], str]
    exact: Callable[[float], str]
    tolerance: float = wording.SAME


def _milliseconds(value: float) -> str:
    return f"{wording.digits(value)} ms"


def _millijoules(value: float) -> str:
    return f"{wording.digits(value)} mJ"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    return f"{value:,.0f} B"


COSTS = (
    Cost("macs", "multiply-accumulates", "fewer", "more", wording.count, _whole),
    Cost("latency_ms", "latency", "faster", "slower", _milliseconds, _milliseconds, wording.NOISE),
    Cost("size_bytes", "file size", "smaller", "larger", wording.size, _bytes),
    Cost("ram_bytes", "peak activation RAM", "less", "more", wording.size, _bytes),
    Cost("energy_mj", "energy per call", "less", "more", _millijoules, _millijoules, wording.NOISE),
    Cost("params", "parameters", "fewer", "more", wording.count, _whole),
    Cost("nonzero", "nonzero parameters", "fewer", "more", wording.count, _whole),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure before and after.

    Args:
        name: Field of the figures, or name of the metric.
        label: What a reader calls it.
        before: Formatted value of the original; empty when not had.
        after: Formatted value of the result; empty when not had.
        words: What changed, in words; empty when only one side is known.
        verdict: Whether the change is for the better.
        share: After / before, for a bar; None for metrics and when one side is missing.
        how: How the figure was had.
        exact: Values before and after in full.
        ratio: Before divided by after; None when it cannot be told.
    """

    name: str
    label: str
    before: str
    after: str
    words: str
    verdict: Verdict
    share: float | None = None
    how: str = ""
    exact: tuple[str, str] = ("", "")
    ratio: float | None = None


def rows(data: ReportData) -> list[Row]:
    """Every headline figure that the report has, costs first, then metrics and agreement."""
    return [*_cost_rows(data), *_metric_rows(data), *_agreement_rows(data)]


def _cost_rows(data: ReportData) -> Iterator[Row]:
    for cost in COSTS:
        before, after = _value(data.before, cost.field), _value(data.after, cost.field)
        if before is None and after is None:
            continue
        ratio = _ratio(data, cost, before, after)
        words = (
            ""
            if ratio is None
            else wording.ratio_words(ratio, cost.less, cost.more, tolerance=cost.tolerance)
        )
        yield Row(
            cost.field,
            cost.label,
            "" if before is None else cost.show(before),
            "" if after is None else cost.show(after),
            words,
            "unknown" if ratio is None else _verdict(ratio - 1, cost.tolerance),
            _share(ratio, before, after),
            _how(data, cost.field),
            (
                "" if before is None else cost.exact(before),
                "" if after is None else cost.exact(after),
            ),
            ratio,
        )


def _value(figures: Figures | None, field: str) -> float | None:
    if figures is None:
        return None
    value: float | None = getattr(figures, field)
    return value


def _ratio(data: ReportData, cost: Cost, before: float | None, after: float | None) -> float | None:
    """Before / after; for latency the paired measurement if there is one: it cancels drift."""
    latency = data.after.latency if data.after is not None else None
    if cost.field == "latency_ms" and before is not None and latency is not None and latency.ratio:
        return latency.ratio
    if (
        before is None
        or after is None
        or not after
        or before <= 0
        or not math.isfinite(before / after)
    ):
        return 1.0 if before is not None and before == after else None
    return before / after


def _verdict(gain: float, tolerance: float) -> Verdict:
    if abs(gain) < tolerance:
        return "same"
    return "better" if gain > 0 else "worse"


def _share(ratio: float | None, before: float | None, after: float | None) -> float | None:
    """After / before, in step with the ratio that is shown."""
    if before is None or after is None:
        return None
    return 1 / ratio if ratio else after / before if before else None


def _how(data: ReportData, field: str) -> str:
    texts = [
        figures.how.get(field, "") for figures in (data.after, data.before) if figures is not None
    ]
    return next((text for text in texts if text), "")


def _metric_rows(data: ReportData) -> Iterator[Row]:
    for name in dict.fromkeys([*data.metrics_before, *data.metrics_after]):
        before, after = data.metrics_before.get(name), data.metrics_after.get(name)
        both = before is not None and after is not None
        yield Row(
            name,
            name,
            "" if before is None else wording.metric(name, before),
            "" if after is None else wording.metric(name, after),
            wording.points_words(name, before, after)
            if before is not None and after is not None
            else "",
            metric_verdict(data, name, before, after) if both else "unknown",
        )


def metric_verdict(
    data: ReportData, name: str, before: float | None, after: float | None
) -> Verdict:
    """Whether a metric got better; unknown where its direction is."""
    if before is None or after is None or math.isnan(after - before):
        return "unknown"
    higher = higher_is_better(data, name)
    if after == before:
        return "same"
    if higher is None:
        return "unknown"
    return "better" if (after > before) == higher else "worse"


def higher_is_better(data: ReportData, name: str) -> bool | None:
    """Direction of a metric: as the report says, else up for shares of samples, else unknown."""
    return data.higher_is_better.get(name, True if wording.is_share(name) else None)


def _agreement_rows(data: ReportData) -> Iterator[Row]:
    if data.agreement is not None:
        share = wording.percent(data.agreement)
        yield Row("agreement", "agreement with the original", "", share, "", "unknown")


def first_metric(data: ReportData) -> str:
    """The metric that decisions were made by; agreement with the original if there is none."""
    return next(iter(data.metrics_after or data.metrics_before), "agreement")

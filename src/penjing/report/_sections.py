"""The sections of the page in their order; one that the report has no data for is not made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from penjing.figures import EpochFigures, Proof
from penjing.report import _charts as charts
from penjing.report import _coupling as couplings
from penjing.report import _recovery as recovered
from penjing.report import _tables as tables
from penjing.report import _wording as wording
from penjing.report._budget import bound_of, budgets, max_drop
from penjing.report._charts import Axis, Point, Role
from penjing.report._comparison import first_metric, higher_is_better, rows
from penjing.report._tables import Table
from penjing.report.data import CandidateFigures, ReportData

SHOWN = 12  # histograms drawn; the table lists all of them
CURVES = 3  # metrics drawn by epoch, likewise
WEAK = 1e-3  # masking that moves the output less than this proves little
CLOSE = 1e-6  # relative difference in float64 that rounding alone can explain, with a wide margin


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing with its caption and the signs it uses."""

    picture: Markup
    caption: str
    legend: tuple[tuple[Markup, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of term and value under a heading, which may be empty."""

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section.

    Args:
        id: Anchor.
        title: Heading.
        lead: Paragraphs.
        drawings: Charts, side by side where there is room.
        small: Whether the charts are small multiples.
        tables: Tables below the charts.
        facts: Pairs of term and value.
        code: A command to copy.
    """

    id: str
    title: str
    lead: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    small: bool = False
    tables: tuple[Table, ...] = ()
    facts: tuple[Facts, ...] = ()
    code: str = ""


def sections(data: ReportData) -> list[Section]:
    """Every section that has data."""
    makers: tuple[tuple[object, Callable[[ReportData], Section]], ...] = (
        (rows(data), _figures),
        (data.constraints, _budgets),
        (data.candidates, _candidates),
        (data.per_class, _classes),
        (data.groups, _groups),
        (data.sparsity, _sparsity),
        (_layers_known(data), _layers),
        (data.repair, _repair),
        (data.sensitivity, _sensitivity),
        (data.layer_latency, _layer_latency),
        (data.exits, _exits),
        (data.gates, _gates),
        (data.histograms, _weights),
        (data.epochs, _training),
        (data.recovery, _recovery),
        (data.coupling is not None and data.coupling.layers, _coupled),
        (data.locked, _locked),
        (data.proof, _proof),
        (_making_known(data), _making),
    )
    return [make(data) for known, make in makers if known]


def _figures(data: ReportData) -> Section:
    lead = "A kB is 1024 bytes."
    compared = any(row.words for row in rows(data))
    if compared:
        lead += " The word beside a ratio says which way it went, gain or loss."
    title = "Before and after" if compared else "Figures"
    return Section(id="figures", title=title, lead=(lead,), tables=(tables.figures(data),))


def _budgets(data: ReportData) -> Section:
    verdicts = [budget.met for budget in budgets(data)]
    if False in verdicts:
        lead = f"{verdicts.count(False)} of {len(verdicts)} budgets are not met."
    elif None in verdicts:
        met = f"{verdicts.count(True)} of {len(verdicts)} budgets are met"
        lead = f"{met}; the rest were not measured."
    else:
        lead = "Every budget is met." if len(verdicts) > 1 else "The budget is met."
    return Section(
        id="budget", title="The budget", lead=(lead,), tables=(tables.constraints(data),)
    )


def _candidates(data: ReportData) -> Section:
    costs: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("macs", "multiply-accumulates", wording.count),
        ("latency_ms", "latency", lambda value: f"{wording.digits(value)} ms"),
    )
    drawn = (_scatter(data, *cost) for cost in costs)
    chosen = [c.name for c in data.candidates if c.kept]
    lead = f"{_many(len(data.candidates), 'network')} tried."
    lead += f" Chosen: {', '.join(chosen)}." if chosen else " None was chosen."
    return Section(
        id="candidates",
        title="Accuracy against cost"
        if first_metric(data) == "accuracy"
        else "Quality against cost",
        lead=(lead,),
        drawings=tuple(drawing for drawing in drawn if drawing is not None),
        tables=(tables.candidates(data),),
    )


def _scatter(
    data: ReportData, field: str, title: str, show: Callable[[float], str]
) -> Drawing | None:
    """Quality against one cost; None when fewer than two points have both."""
    name = first_metric(data)
    original = _original(data, field, name)
    points = [
        Point(x, c.metric, _role(c), f"{c.name}: {show(x)}, {wording.metric(name, c.metric)}")
        for c in data.candidates
        if (x := getattr(c, field)) is not None and c.metric is not None and math.isfinite(c.metric)
    ]
    if original is not None:
        text = f"original: {show(original[0])}, {wording.metric(name, original[1])}"
        points.append(Point(*original, "original", text))
    if len(points) < 2:
        return None
    higher = higher_is_better(data, name) is not False
    label = "agreement with the original" if name == "agreement" else name
    y_title = label if higher else f"{label} (lower is better)"
    lost = max_drop(data)
    bound = None if lost is None or original is None else original[1] - (lost if higher else -lost)
    picture = charts.scatter(
        points,
        Axis(
            title=title,
            show=lambda value: wording.trimmed(show(value)),
            bound=bound_of(data, field),
        ),
        Axis(title=y_title, show=lambda value: _tick(name, value), bound=bound),
        label=f"{label} against {title} of {len(points)} networks; the table lists them",
        upward=higher,
    )
    return Drawing(picture, f"{label.capitalize()} against {title}.", _legend(points))


def _original(data: ReportData, field: str, name: str) -> tuple[float, float] | None:
    """Where the original network stands in a scatter, judged on the samples that judged the others.

    The metrics before and after may come from other samples than those that candidates were
    compared on; what a candidate lost tells where the original stood on the latter.
    """
    cost = None if data.before is None else getattr(data.before, field)
    sign = -1 if higher_is_better(data, name) is False else 1
    judged = [
        c.metric + sign * c.drop
        for c in data.candidates
        if c.metric is not None and c.drop is not None and math.isfinite(c.metric + c.drop)
    ]
    own = 1.0 if name == "agreement" else data.metrics_before.get(name)
    quality = judged[0] if judged else own
    return None if cost is None or quality is None else (float(cost), quality)


def _role(candidate: CandidateFigures) -> Role:
    if candidate.kept:
        return "chosen"
    return "misses" if candidate.meets is False else "meets"


def _tick(name: str, value: float) -> str:
    return f"{100 * value:.4g} %" if wording.is_share(name) else f"{value:.4g}"


def _legend(points: Sequence[Point]) -> tuple[tuple[Markup, str], ...]:
    seen = {point.role for point in points}
    names: dict[Role, str] = {
        "original": "the original",
        "chosen": "chosen",
        "meets": "meets the budget" if "misses" in seen else "tried",
        "misses": "misses the budget",
    }
    return tuple((charts.key(role), text) for role, text in names.items() if role in seen)


def _classes(data: ReportData) -> Section:
    lead = "How every class fared: an average can hide one that was given up."
    judged = [
        (c.after - c.before, c.name)
        for c in data.per_class
        if c.before is not None and c.after is not None
    ]
    if judged and min(judged)[0] < 0:
        change, name = min(judged)
        lead += f" The largest loss is that of {name}, {-100 * change:.2f} points."
    elif judged:
        lead += " No class lost."
    return Section(
        id="classes", title="Class by class", lead=(lead,), tables=(tables.classes(data),)
    )


def _groups(data: ReportData) -> Section:
    units, kept = sum(g.units for g in data.groups), sum(g.kept for g in data.groups)
    whole = sum(g.kept == g.units for g in data.groups)
    share = f"{kept:,} of {units:,} units were kept ({kept / max(1, units):.0%})"
    lead = f"{share} in {_many(len(data.groups), 'group')}"
    lead += f"; {whole} of them left whole." if whole else "."
    return Section(id="groups", title="What was cut", lead=(lead,), tables=(tables.groups(data),))


def _sparsity(data: ReportData) -> Section:
    sparse = [s for s in data.sparsity if not s.reason]
    weights, left = sum(s.weights for s in sparse), sum(s.nonzero for s in sparse)
    lead = f"{1 - left / max(1, weights):.1%} of {weights:,} weights are zero in "
    lead += f"{_many(len(sparse), 'layer')}"
    dense = len(data.sparsity) - len(sparse)
    lead += f"; {_many(dense, 'layer')} stayed dense." if dense else "."
    return Section(id="sparsity", title="Zeros", lead=(lead,), tables=(tables.sparsity(data),))


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _layers_known(data: ReportData) -> bool:
    return any(figures is not None and figures.layers for figures in (data.before, data.after))


def _layers(data: ReportData) -> Section:
    return Section(id="layers", title="Layer by layer", tables=(tables.layers(data),))


def _sensitivity(data: ReportData) -> Section:
    kept = sum(bool(s.kept) for s in data.sensitivity)
    lead = "Measured on samples that ranges and roundings have not seen. "
    lead += f"{_many(kept, 'layer')} kept higher." if kept else "No layer had to be kept higher."
    return Section(
        id="sensitivity",
        title="What integers cost, layer by layer",
        lead=(lead,),
        tables=(tables.sensitivity(data),),
    )


def _exits(data: ReportData) -> Section:
    early = sum(row.taken or 0.0 for row in data.exits[:-1])
    known = any(row.taken is not None for row in data.exits)
    lead = "The slowest samples go through everything."
    return Section(
        id="exits",
        title="Early exits",
        lead=(f"{early:.0%} of the validation samples leave early. {lead}",) if known else (),
        tables=(tables.exits(data),),
    )


def _gates(data: ReportData) -> Section:
    if data.kind == "channels":
        lead = "Each sample runs the channels that the gate in front of a layer finds most salient."
        return Section(
            id="gates", title="Gated channels", lead=(lead,), tables=(tables.gates(data),)
        )
    return Section(
        id="gates",
        title="Gated blocks",
        lead=("A block is skipped by the samples whose gate stays shut.",),
        tables=(tables.gates(data),),
    )


def _layer_latency(data: ReportData) -> Section:
    slower = sum(row.integers_ms > row.floats_ms for row in data.layer_latency)
    lead = "Medians of the runtime's profiler, within the whole network. "
    lead += f"{_many(slower, 'row')} slower in integers." if slower else "None is slower."
    return Section(
        id="layer-latency",
        title="What integers save, layer by layer",
        lead=(lead,),
        tables=(tables.layer_latency(data),),
    )


def _repair(data: ReportData) -> Section:
    done = [r for r in data.repair if not r.reason]
    better = sum(
        r.error_before is not None and r.error_after is not None and r.error_after < r.error_before
        for r in done
    )
    alone = len(data.repair) - len(done)
    lead = (
        f"{_many(len(done), 'layer')} solved anew, no labels, no training; on samples kept aside "
        f"the error of {better} of them fell."
    )
    lead += f" {_many(alone, 'layer')} left alone, each for its reason." if alone else ""
    return Section(id="repair", title="Repair", lead=(lead,), tables=(tables.repair(data),))


def _weights(data: ReportData) -> Section:
    shown = data.histograms[:SHOWN]
    lead = "Outline: the original. Filled: the result. In counts, so that what is gone is seen."
    if len(shown) < len(data.histograms):
        lead += f" The first {len(shown)} of {len(data.histograms)} are drawn; the table has all."
    drawings = tuple(Drawing(charts.histogram(h), h.tensor) for h in shown)
    return Section(
        id="weights",
        title="Weights",
        lead=(lead,),
        drawings=drawings,
        small=True,
        tables=(tables.weights(data),),
    )


def _training(data: ReportData) -> Section:
    seconds = sum(e.seconds for e in data.epochs)
    took = f"{_many(len(data.epochs), 'epoch')} in {wording.duration(seconds)}"
    lead = f"{took}; metrics on the validation split."
    names = list(dict.fromkeys(name for e in data.epochs for name in e.metrics))[:CURVES]
    drawings = [_curve("training loss", [e.loss for e in data.epochs])]
    drawings += [_curve(name, _series(data.epochs, name)) for name in names]
    return Section(
        id="training",
        title="Training",
        lead=(lead,),
        drawings=tuple(drawing for drawing in drawings if drawing is not None),
        tables=(tables.epochs(data),),
    )


def _series(epochs: Sequence[EpochFigures], name: str) -> list[float]:
    return [e.metrics.get(name, math.nan) for e in epochs]


def _curve(name: str, values: list[float]) -> Drawing | None:
    """One curve over the epochs; None when a value is missing or there is nothing to connect."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None

    def show(value: float) -> str:
        return _tick(name, value)

    label = f"{name} from {show(values[0])} in the first epoch to {show(values[-1])} in the last"
    return Drawing(
        charts.line(values, Axis(title=name, show=show), label=label),
        f"{name.capitalize()} by epoch.",
    )


def _recovery(data: ReportData) -> Section:
    names = recovered.figures(data.recovery)[:CURVES]
    keys = {s: recovered.key(place) for place, s in enumerate(recovered.splits(data.recovery))}

    def legend(figure: str) -> tuple[tuple[Markup, str], ...]:
        signs = tuple((keys[split], split) for split in recovered.splits(data.recovery, figure))
        return signs if len(keys) > 1 else ()

    lead = "What every step keeps of the original: at a ratio of 1 the figure is the original's."
    drawn = ((name, recovered.drawing(data.recovery, name)) for name in names)
    return Section(
        id="recovery",
        title="What is recovered",
        lead=(lead,),
        drawings=tuple(
            Drawing(made, f"{name.capitalize()} by step.", legend(name))
            for name, made in drawn
            if made is not None
        ),
        tables=(tables.recovery(data),),
    )


def _coupled(data: ReportData) -> Section:
    found = data.coupling
    assert found is not None  # the section is made only then
    verb = "reaches" if len(found.lines) == 1 else "reach"
    lead = f"{_many(len(found.lines), 'group')} {verb} {found.reachable:.1%} of {found.params:,} "
    lead += "parameters"
    if found.macs:
        lead += f" and {found.reachable_macs:.1%} of {found.macs:,} multiply-accumulates"
    lead += ". A line is a group: when a unit of it goes, it goes in every layer with a dot."
    if len(found.lines) > couplings.MOST:
        lead += f" The first {couplings.MOST} groups are drawn."
    names = (
        ("out", "cuts the first dimension of the weight"),
        ("in", "another dimension"),
        ("both", "both"),
    )
    return Section(
        id="coupling",
        title="What is coupled",
        lead=(lead,),
        drawings=(
            Drawing(
                couplings.drawing(found),
                "Layers from the input on the left; thick lines are residual streams. "
                "Above: how much of each weight is within reach.",
                tuple((couplings.key(tone), text) for tone, text in names),
            ),
        ),
    )


def _locked(data: ReportData) -> Section:
    each = ", each for its reason" if len(data.locked) > 1 else ""
    lead = f"{_many(len(data.locked), 'place')} could not be cut{each}."
    if any(lock.params for lock in data.locked):
        lead += " What a lock costs is what no group removes because of it."
    return Section(
        id="locked", title="What was left alone", lead=(lead,), tables=(tables.locked(data.locked),)
    )


def _proof(data: ReportData) -> Section:
    proof = data.proof
    assert proof is not None  # the section is made only then
    facts = (
        ("largest relative difference, random weights in float64", f"{proof.error:.2e}"),
        ("the same with the real weights on the example inputs", f"{proof.real_error:.2e}"),
        ("how far masking itself moved the outputs", f"{proof.moved:.2e}"),
        ("operations compared one by one", f"{proof.nodes:,}"),
        ("form of the result", "your own class" if proof.form == "module" else "a graph module"),
        *((("why not your own class", proof.reason),) if proof.reason else ()),
    )
    return Section(
        id="proof", title="The proof", lead=_proof_words(proof), facts=(Facts("", facts),)
    )


def _proof_words(proof: Proof) -> tuple[str, ...]:
    lead = "The cut network was compared with the original, cut units set to zero: both must agree."
    if not proof.error <= CLOSE:
        verdict = "They differ by more than rounding explains. Do not rely on this cut."
    elif proof.moved < WEAK:
        verdict = "They do, but masking hardly moved the outputs, so this agreement proves little."
    else:
        verdict = "They do, and masking moved the outputs far enough for that to mean something."
    return (lead, verdict)


def _making_known(data: ReportData) -> bool:
    return bool(data.choices or data.environment or data.command or data.seconds)


def _making(data: ReportData) -> Section:
    choices = [(name.replace("_", " "), value) for name, value in data.choices.items()]
    choices += [("time it took", wording.duration(data.seconds))] if data.seconds else []
    machine = [(name.replace("_", " "), value) for name, value in data.environment.items()]
    facts = (Facts("Settings", tuple(choices)), Facts("Environment", tuple(machine)))
    return Section(
        id="making",
        title="How it was made",
        facts=tuple(block for block in facts if block.pairs),
        code=data.command,
    )

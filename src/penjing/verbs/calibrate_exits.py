"""`calibrate_exits`: who leaves where, chosen on validation data and measured."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from penjing.adaptive.calibration import Answers, Calibration, Candidate
from penjing.adaptive.criteria import NEVER, Criterion
from penjing.adaptive.exit_files import stage_programs, write_conditional
from penjing.adaptive.exit_task import refuse_forward
from penjing.adaptive.exits import EarlyExitNetwork
from penjing.counts.macs import count_macs
from penjing.errors import BudgetError, InfeasibleError, InputError, StrategyError
from penjing.exporters import onnx_feeds, write_program
from penjing.figures import ExitFigures, LatencyFigures
from penjing.graph.capture import Example, capture
from penjing.latency.samples import feeds_of, sampled_figures, singles, spread, time_samples
from penjing.report import CandidateFigures, Report, ReportData, environment
from penjing.task import Task
from penjing.task.definition import Split
from penjing.verbs.arguments import arguments_checked

COUNTED = "mean over the validation samples, of the layers that they run"

Cost = Literal["latency", "macs"]

CALLS = 40  # of every stage, to know what it takes
SHOWN = 12  # candidates of the curve that the report lists


@dataclass(frozen=True, slots=True)
class CalibratedExits:
    """A network of which each sample takes as much as it needs.

    Args:
        model: With its policy; `model.infer(x)` gives answers and exits, `model.routed()` is called
            like the original.
        report: Quality, shares and the distribution of latencies.
    """

    model: EarlyExitNetwork
    report: Report


@arguments_checked
def calibrate_exits(  # noqa: PLR0913 - a public verb, its options are keywords
    model: nn.Module,
    task: Task,
    *,
    max_drop: float | None = None,
    latency_ms: float | None = None,
    criterion: Criterion = "confidence",
    cost: Cost = "latency",
    samples: int = 200,
) -> CalibratedExits:
    """Choose thresholds on validation data: the fastest within a drop, or the best in a budget.

    Args:
        model: A network made by `early_exits` and trained; left alone.
        task: Its `val` data choose (labels and a metric, or agreement with the network's own end
            without them); `test` data, where given, are looked at once for the report.
        max_drop: Most that the first metric may lose against the network's own end, in absolute
            points of the metric (0.01 is one point).
        latency_ms: Highest mean latency per sample. With both, the drop is kept to and the latency
            must follow.
        criterion: "confidence", "entropy" or "patience".
        cost: What is saved: "latency" on ONNX Runtime, one sample at a time, or "macs", which needs
            no file.
        samples: Samples whose latency is measured, one by one, for the report.

    Returns:
        A copy with thresholds, and the report.

    Raises:
        InputError: `model` has no exits, there are no validation data, or the task calls the model
            itself.
        BudgetError: Neither bound was given, or one that makes no sense.
        InfeasibleError: A latency that cannot be had; carries what can.
        StrategyError: An unknown criterion or cost, or a latency budget with `cost="macs"`.
        ExportError: ONNX cannot express the network; `cost="macs"` does without it.
    """
    started = time.perf_counter()
    if not isinstance(model, EarlyExitNetwork):
        raise InputError(
            f"{type(model).__name__} has no exits; pj.early_exits attaches them, and they are to "
            "be trained first"
        )
    refuse_forward(task)
    _check_bounds(max_drop, latency_ms, cost)
    made = copy.deepcopy(model).eval()
    answers = Answers.of(made, task)
    example = _example(task)
    costs = _latencies(made, example) if cost == "latency" else _macs(made, example)
    search = Calibration(answers, costs, criterion)
    chosen = _chosen(search, max_drop, latency_ms)
    made.policy = chosen.policy
    split: Split = "test" if task.test is not None else "val"
    timed = _timed(made, task, split, samples) if cost == "latency" else None
    macs = costs if cost == "macs" else _macs(made, example)
    data = _report(made, search, chosen, timed)
    whole = count_macs(capture(made.original(), example))
    mean = round(sum(n * share for n, share in zip(macs, chosen.shares, strict=True)))
    data = replace(
        data,
        before=sampled_figures(
            made.original(), whole, None if timed is None else timed[0], COUNTED
        ),
        after=sampled_figures(made, mean, None if timed is None else timed[1], COUNTED),
    )
    judged = _judged(made, task, split)
    bounds = {"max_drop": max_drop, "latency_ms": latency_ms}
    data = replace(
        data,
        **judged,
        constraints={name: f"{value:g}" for name, value in bounds.items() if value is not None},
        choices={**data.choices, "judged on": split},
        seconds=time.perf_counter() - started,
    )
    return CalibratedExits(made, Report(data))


def _check_bounds(max_drop: float | str | None, latency_ms: float | None, cost: str) -> None:
    if max_drop is None and latency_ms is None:
        raise BudgetError("give max_drop=0.01, say, or latency_ms, the highest mean latency")
    if max_drop is not None and (isinstance(max_drop, str) or not max_drop >= 0):
        raise BudgetError(f"max_drop is {max_drop}; it is in absolute points of the metric, from 0")
    if latency_ms is not None and not latency_ms > 0:
        raise BudgetError(f"latency_ms is {latency_ms}; it must be above 0")
    if cost not in {"latency", "macs"}:
        raise StrategyError(f"unknown cost {cost!r}; known are 'latency' and 'macs'")
    if latency_ms is not None and cost == "macs":
        raise StrategyError("a latency budget needs cost='latency'")


def _chosen(search: Calibration, max_drop: float | None, latency_ms: float | None) -> Candidate:
    if max_drop is None:
        assert latency_ms is not None  # checked before
        return search.within_cost(latency_ms)
    found = search.within_drop(max_drop)
    if latency_ms is not None and found.cost > latency_ms:
        raise InfeasibleError(
            f"within a drop of {max_drop:g} the mean latency is {found.cost:.3g} ms at least, "
            f"above {latency_ms:g} ms",
            {"latency_ms": found.cost},
        )
    return found


def _example(task: Task) -> Example:
    batch = next(task.batches("val"), None)
    if batch is None:
        raise InputError("val gave no batches; is the loader empty?")
    example: Example = batch.part(0, 2).inputs
    return example


def _macs(network: EarlyExitNetwork, example: Example) -> tuple[float, ...]:
    """MACs of a sample that leaves at each exit."""
    each = [count_macs(program) for program in stage_programs(network, example)]
    return tuple(float(total) for total in np.cumsum(each))


def _latencies(network: EarlyExitNetwork, example: Example) -> tuple[float, ...]:
    """Milliseconds of a sample that leaves at each exit: its stages, timed in turns.

    One after the other, a busy moment of the machine would fall on one stage alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths, feeds = [], []
        for index, program in enumerate(stage_programs(network, example)):
            paths.append(write_program(program, Path(folder) / f"{index}.onnx").path)
            feeds.append([onnx_feeds(program, 1, seed) for seed in range(CALLS)])
        rows = time_samples(paths, feeds)
    return tuple(float(total) for total in np.cumsum(np.median(rows, axis=0)))


def _timed(
    network: EarlyExitNetwork, task: Task, split: Split, samples: int
) -> tuple[LatencyFigures, LatencyFigures]:
    """The network without and with early exits, on the same samples one at a time."""
    inputs = list(islice(singles(task, split), samples))
    with tempfile.TemporaryDirectory() as folder:
        whole, exits = Path(folder) / "whole.onnx", Path(folder) / "exits.onnx"
        plain = capture(network.original(), inputs[0])
        written = write_program(plain, whole), write_conditional(network, inputs[0], exits)
        feeds = [[feeds_of(given, one.inputs) for given in inputs] for one in written]
        rows = time_samples([whole, exits], feeds)
    return spread(rows[:, 0]), spread(rows[:, 1])


def _judged(network: EarlyExitNetwork, task: Task, split: Split) -> dict[str, Any]:
    if not task.metrics and task.loss is None:
        return {}
    return {
        "metrics_before": task.evaluate(network.original(), split),
        "metrics_after": task.evaluate(network.routed(), split),
        "higher_is_better": task.directions,
    }


def _report(
    network: EarlyExitNetwork,
    search: Calibration,
    chosen: Candidate,
    timed: tuple[LatencyFigures, LatencyFigures] | None,
) -> ReportData:
    answers = search.answers
    ends = [place.name for place in network.attachments]
    shares = [*(place.share for place in network.attachments), 1.0]
    numbers = range(answers.exits)
    whole = torch.full((len(answers.logits[0]),), 0)
    alone = [answers.quality(whole + k) for k in numbers]
    limits = [*chosen.policy.thresholds, None]
    exits = tuple(
        ExitFigures(
            name=[*ends, "end"][k],
            macs_share=shares[k],
            quality=alone[k],
            threshold=None if limits[k] == NEVER else limits[k],
            taken=chosen.shares[k],
            cost=search.costs[k],
        )
        for k in numbers
    )
    notes = [
        f"on validation {answers.judged_by} is {chosen.quality:.4g}, {chosen.drop:.4g} worse than "
        "at the network's own end",
        "a sample that leaves nowhere takes longer than in the network without exits: heads and "
        "decisions come on top",
    ]
    if timed is not None:
        notes.insert(0, _distribution(*timed))
    return ReportData(
        kind="exits",
        title="early exits",
        exits=exits,
        candidates=_candidates(search, chosen, in_ms=timed is not None),
        choices={"criterion": search.criterion, "cost": "latency" if timed else "macs"},
        environment=environment(),
        notes=tuple(notes),
    )


def _distribution(plain: LatencyFigures, exits: LatencyFigures) -> str:
    assert plain.mean_ms is not None  # `spread` gives it
    assert exits.mean_ms is not None
    return (
        f"one sample at a time, over {exits.n} of them: mean {exits.mean_ms:.3g} ms and 95th "
        f"percentile {exits.p95_ms:.3g} ms, against {plain.mean_ms:.3g} and {plain.p95_ms:.3g} ms "
        "without exits"
    )


def _candidates(
    search: Calibration, chosen: Candidate, *, in_ms: bool
) -> tuple[CandidateFigures, ...]:
    """The curve of one threshold for all exits, thinned out, and what was chosen."""
    best: list[Candidate] = []
    for one in search.curve():
        if not best or one.drop < best[-1].drop:
            best.append(one)
    step = max(1, len(best) // SHOWN)
    rows = [*best[::step], chosen]
    return tuple(
        CandidateFigures(
            name=_named(one),
            latency_ms=one.cost if in_ms else None,
            macs=None if in_ms else round(one.cost),
            metric=one.quality,
            drop=one.drop,
            kept=one is chosen,
        )
        for one in rows
    )


def _named(one: Candidate) -> str:
    told = ", ".join("never" if t == NEVER else f"{t:.4g}" for t in one.policy.thresholds)
    return f"{one.policy.criterion} {told}"

"""The report of a finished search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from penjing import checkpoint, files
from penjing.compression.candidate import Candidate, row
from penjing.compression.folder import ONNX
from penjing.compression.job import Job
from penjing.compression.recovering import recovered
from penjing.graph.capture import Example
from penjing.plan import Plan
from penjing.report import ClassFigures, Report, ReportData, environment
from penjing.task import Comparison, Task, Tasks, compare

NOISE = 0.02  # of a paired latency ratio: below that, neither network is faster


def report_data(
    job: Job, chosen: Candidate, network: nn.Module, recovery: str | None
) -> ReportData:
    """Everything that is known about a search; the test data is looked at here, and only here.

    Args:
        job: A finished search.
        chosen: The candidate that is given back.
        network: Its network, on the CPU.
        recovery: Which training was permitted.

    Returns:
        Data for the report.
    """
    bench = job.bench
    split, data = _evidence(job)
    before, after = _metrics(job, chosen, network, split)
    there = network.to(bench.home)
    task = bench.yardstick.task
    comparison = compare(there, bench.reference, data, task=None if task is None else task.compared)
    network.cpu()
    assert chosen.data.after is not None  # every candidate is counted
    assert job.original.data.after is not None
    on_test = (before, after) if split == "test" and before else None
    return replace(
        chosen.data,
        kind="compress",
        title=_title(job, split),
        before=job.original.data.after.in_turn_with(chosen.data.after),
        metrics_before=before,
        metrics_after=after,
        higher_is_better=_directions(bench.yardstick.task),
        agreement=comparison.agreement,
        per_class=_classes(comparison),
        recovery=recovered(job, chosen, network, on_test),
        candidates=tuple(row(c, v, c.key == chosen.key) for c, v in job.judged.values()),
        choices=_choices(job, chosen, recovery, split),
        constraints={name: bound.text for name, bound in job.bounds.items()},
        environment=environment(),
        seconds=bench.clock.spent,
        notes=(*chosen.data.notes, *_notes(job, chosen, split), *_held(job, chosen, before, after)),
    )


def write(
    folder: Path, report: Report, network: nn.Module, example: Example, chosen: Candidate
) -> None:
    """Put the result into the work folder: the network, its ONNX file, the report."""
    checkpoint.save(
        network,
        folder / "model",
        example,
        metrics=dict(report.data.metrics_after),
        plan=_plan(chosen),
    )
    (folder / ONNX).unlink(missing_ok=True)
    if (chosen.folder / ONNX).is_file():
        files.write_bytes(folder / ONNX, (chosen.folder / ONNX).read_bytes())
    write_report(folder, report)


def write_report(folder: Path, report: Report) -> None:
    """Put the report into the work folder, as data and as a page."""
    report.save(folder / "report.json")
    report.save(folder / "report.html")


def refused(job: Job, reason: str) -> ReportData:
    """What a search that found nothing has measured; the test data is not looked at.

    Args:
        job: A finished search.
        reason: Why nothing was found.

    Returns:
        Data for the report, without a result.
    """
    return ReportData(
        kind="compress",
        title=f"{type(job.bench.reference).__name__}: no network {_within(job)}",
        before=job.original.data.after,
        metrics_before=job.original.data.metrics_after,
        higher_is_better=_directions(job.bench.yardstick.task),
        candidates=tuple(row(c, v, False) for c, v in job.judged.values()),
        locked=job.original.data.locked,
        coupling=job.original.data.coupling,
        constraints={name: bound.text for name, bound in job.bounds.items()},
        environment=environment(),
        seconds=job.bench.clock.spent,
        notes=(reason,),
    )


def _plan(chosen: Candidate) -> Plan:
    return Plan.from_json((chosen.folder / "plan.json").read_text(encoding="utf-8"))


def _evidence(job: Job) -> tuple[str, Any]:
    """What the final figures are measured on: its name, and the data."""
    task = job.bench.yardstick.task
    if task is not None and task.test is not None:
        return "test", task.data("test")
    if task is not None and task.val is not None:
        return "val", task.data("val")
    return "held-out calibration", job.bench.yardstick.held_out


def _metrics(
    job: Job, chosen: Candidate, network: nn.Module, split: str
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    bench, task = job.bench, job.bench.yardstick.task
    if task is None or not task.scores or split == "held-out calibration":
        return {}, {}
    if split == "val" and bench.yardstick.held_out is None:
        return job.original.data.metrics_after, chosen.data.metrics_after
    name: Any = split
    before = task.evaluate(bench.reference, name)
    there = network.to(bench.home)
    after = before if chosen.key == job.original.key else task.evaluate(there, name)
    network.cpu()
    return before, after


def _title(job: Job, split: str) -> str:
    return f"{type(job.bench.reference).__name__} {_within(job)} ({split} figures)"


def _within(job: Job) -> str:
    return "within " + ", ".join(f"{b.name} ≤ {b.text}" for b in job.bounds.values())


def _directions(task: Task | Tasks | None) -> dict[str, bool]:
    return {} if task is None else task.directions


def _classes(comparison: Comparison) -> tuple[ClassFigures, ...]:
    return tuple(
        ClassFigures(c.name, c.count, c.before, c.after, c.agreement) for c in comparison.classes
    )


def _choices(job: Job, chosen: Candidate, recovery: str | None, split: str) -> dict[str, str]:
    bench = job.bench
    samples = bench.preparation.calibration
    training = "not needed"
    if recovery is None:
        training = "off"
    elif chosen.trained:
        training = f"{len(chosen.data.epochs)} epochs, the original as teacher"
    judged = "val" if bench.yardstick.held_out is None else "held-out calibration"
    return {
        **chosen.data.choices,
        "calibration samples": str(samples.samples if samples else 0),
        "recovery": training,
        **(
            {"runtime": "penjing's C", "zeros": _zeros(job, chosen)}
            if bench.leaves_out_zeros
            else {}
        ),
        "candidates compared on": f"{judged} ({bench.yardstick.name})",
        "final figures on": split,
        "minutes": f"{bench.clock.limit / 60:g}",
    }


def _zeros(job: Job, chosen: Candidate) -> str:
    """Whether networks with zeros were tried, and whether one was chosen."""
    if not any(space.cost == "effective_macs" for space in job.spaces):
        return job.without_zeros or "not tried"
    names = [candidate.name for candidate, _ in job.judged.values() if " zeros" in candidate.name]
    return f"{len(names)} networks tried, {'one' if chosen.name in names else 'none'} chosen"


def _held(
    job: Job, chosen: Candidate, before: Mapping[str, float], after: Mapping[str, float]
) -> list[str]:
    """Says so when the drop on the test data is larger than the bound that held on validation."""
    name, bound = job.bench.yardstick.name, job.bounds.get("max_drop")
    if bound is None or name not in before or chosen.drop is None:
        return []
    drop = job.bench.yardstick.drop(before, after)
    if drop <= bound.value:
        return []
    return [
        f"max_drop held on the data that candidates were compared on ({chosen.drop:.4g} <= "
        f"{bound.value:.4g}) and not on the test data ({drop:.4g})"
    ]


def _notes(job: Job, chosen: Candidate, split: str) -> list[str]:
    notes = []
    name = job.bench.yardstick.name
    if job.bench.yardstick.held_out is not None:
        notes.append(
            "the task has no validation data: candidates were compared by their agreement with the "
            "original on held-out calibration samples"
        )
    elif split == "test":
        notes.append(
            f"candidates were compared by {name} on the validation data; the test data was looked "
            "at once, at the end"
        )
    else:
        notes.append(
            "there is no test data: the figures are of the validation data by which the network "
            "was chosen, so they flatter it a little"
        )
    task = job.bench.yardstick.task
    if isinstance(task, Tasks) and job.bench.yardstick.held_out is None:
        told = task.told(job.original.data.metrics_after, chosen.data.metrics_after)
        notes.append(f"{told}; max_drop is about the largest, each times its weight")
    if chosen.key == job.original.key:
        notes.append("the original already meets every budget; nothing was cut")
    elif chosen.speedup is not None and chosen.speedup < 1 - NOISE:
        notes.append(
            "it costs fewer multiply-accumulates and is not faster: "
            f"{chosen.speedup:.2f} times the speed of the original on this runtime"
        )
    if job.ended:
        notes.append(f"the search was cut short: {job.ended}")
    return notes

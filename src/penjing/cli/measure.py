"""`penjing measure`: what a network costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import show_json, show_report, show_text, working
from penjing.cli.bundles import Call, unbundled
from penjing.cli.options import MaybeNet, Threads
from penjing.codegen.cycles import estimate_cycles
from penjing.codegen.log import Log, read_log
from penjing.errors import InputError
from penjing.report import Report, ReportData, environment
from penjing.verbs.measure import measure as measure_network


@unbundled
def measure(
    net: MaybeNet = None,
    *,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Network to compare with, timed in turn with the first."),
    ] = None,
    threads: Threads = 1,
    from_log: Annotated[
        Path | None,
        typer.Option(
            "--from-log", help="What main.c of a compiled network printed on a board, instead."
        ),
    ] = None,
    clock_mhz: Annotated[
        float | None, typer.Option("--clock-mhz", min=0.001, help="Of the board, for milliseconds.")
    ] = None,
    call: Call,
) -> None:
    """Measure parameters, MACs, file size, memory and latency."""
    with call.answering():
        if from_log is not None:
            _show_log(read_log(from_log.read_text()), clock_mhz, as_json=call.as_json)
            return
        if net is None:
            raise InputError("give a network to measure, or --from-log with a board's log")
        source = call.open(net, want=("example_inputs",))
        example = source.need("example_inputs")
        other = None if against is None else call.open(against, want=()).model
        with working("exporting and timing"):
            figures = measure_network(source.model, example, threads=threads, against=other)
            before = None if other is None else measure_network(other, example, threads=threads)
            before = None if before is None else before.in_turn_with(figures)
        if call.as_json:
            show_json(asdict(figures))
            return
        title = source.name if against is None else f"{source.name} against {against}"
        data = ReportData("measure", title, before, figures, environment=environment())
        show_report(Report(data))


def _show_log(log: Log, clock_mhz: float | None, *, as_json: bool) -> None:
    figures = {k: v for k, v in asdict(log).items() if v not in ("", {}, None)}
    kind, _, target = log.network.partition(" ")
    estimate = estimate_cycles(target, log.count) if kind == "int8" else None
    if log.unit == "instructions" and estimate is not None:
        figures["estimated_cycles"] = estimate
    if clock_mhz is not None and log.unit != "cycles":
        raise InputError(
            f"the log counts {log.unit or 'nothing'}, and only cycles of a board make "
            "milliseconds by a clock; leave --clock-mhz out"
        )
    if clock_mhz is not None:
        figures["latency_ms"] = log.count / clock_mhz / 1000
    elif log.unit == "ticks" and log.ticks_per_second:
        figures["latency_ms"] = 1000 * log.count / log.ticks_per_second
    if as_json:
        show_json(figures)
        return
    layers = figures.pop("layers", {})
    lines = [f"{key}: {value}" for key, value in figures.items()]
    show_text("\n".join([*lines, *(f"  {name}: {count}" for name, count in layers.items())]))

"""`penjing measure`: what a network costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from penjing.cli.answers import answering, show_json, show_report, working
from penjing.cli.opening import open_source
from penjing.cli.options import AsJson, Debug, Net, Threads, Trust
from penjing.report import Report, ReportData, environment
from penjing.verbs.measure import measure as measure_network


def measure(
    net: Net,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Network to compare with, timed in turn with the first."),
    ] = None,
    threads: Threads = 1,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure parameters, MACs, file size, memory and latency."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust, want=("example_inputs",))
        example = source.need("example_inputs")
        other = None if against is None else open_source(against, trust=trust, want=()).model
        with working("exporting and timing"):
            figures = measure_network(source.model, example, threads=threads, against=other)
            before = None if other is None else measure_network(other, example, threads=threads)
        if as_json:
            show_json(asdict(figures))
            return
        title = source.name if against is None else f"{source.name} against {against}"
        data = ReportData("measure", title, before, figures, environment=environment())
        show_report(Report(data))

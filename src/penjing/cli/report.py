"""`penjing report`: show a saved report, or make the page of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import answering, content_of, show_json, show_report, show_text
from penjing.cli.options import AsJson, Debug
from penjing.report import Report


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A report.json, or a folder that holds one.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write: report.html, or report.json.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the table of a report; with --out, write its page."""
    with answering(as_json=as_json, debug=debug):
        path = run / "report.json" if run.is_dir() else run
        read = Report.read(path)
        written = read.save(out) if out is not None else None
        if as_json:
            show_json({"report": content_of(read), "out": str(written) if written else None})
            return
        show_report(read)
        if written is not None:
            show_text(f"report: {written}")

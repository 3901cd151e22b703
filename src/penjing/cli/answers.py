"""What commands answer: tables or JSON on the output, everything else on the error stream."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penjing.codegen.cycles import CycleEstimate
from penjing.errors import InfeasibleError, PenjingError
from penjing.report import Report
from penjing.report._comparison import rows
from penjing.report._recovery import lines

ARGUMENTS = "penjing.arguments"
DONE, INFEASIBLE, WRONG = 0, 1, 2
COLOURS = {"better": "green", "worse": "red", "same": "", "unknown": ""}


@contextmanager
def answering(*, as_json: bool, debug: bool) -> Iterator[None]:
    """Turn errors raised on purpose, and those of the disk, into one message and an exit code.

    Args:
        as_json: Answer as JSON.
        debug: Let errors through with their traceback.

    Raises:
        typer.Exit: With code 1 when a budget is infeasible, 2 when the input is wrong.
    """
    try:
        yield
    except (PenjingError, OSError) as error:
        if debug:
            raise
        refuse(error, as_json=as_json)


def refuse(error: Exception, *, as_json: bool) -> NoReturn:
    """Say what is wrong and end.

    Raises:
        typer.Exit: Always.
    """
    nearest = error.nearest if isinstance(error, InfeasibleError) else None
    if as_json:
        answer = {"error": str(error), "kind": type(error).__name__}
        show_json({**answer, **({"nearest": nearest} if nearest is not None else {})})
    console = Console(stderr=True, soft_wrap=True)
    word = "infeasible" if nearest is not None else "error"
    console.print(f"[bold red]{word}:[/] {escape(str(error))}", highlight=False)
    raise typer.Exit(WRONG if nearest is None else INFEASIBLE)


def show_json(content: Any) -> None:
    """Write one JSON document to the output; numbers that JSON lacks become text."""
    sys.stdout.write(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case CycleEstimate():
            return asdict(value)
        case _:
            return value


def content_of(report: Report) -> Any:
    """A report as JSON content."""
    return json.loads(report.to_json())


def show_text(text: str) -> None:
    """Write plain text to the output."""
    sys.stdout.write(text + "\n")


def show_report(report: Report) -> None:
    """Write the headline figures as a table to the output, then budgets, proof and notes."""
    console = Console(file=sys.stdout)
    shown = rows(report.data)
    if shown:
        table = Table(title=escape(report.title), title_justify="left", title_style="bold")
        for name in ("", "before", "after", "change"):
            table.add_column(name, justify="left" if name in {"", "change"} else "right")
        for row in shown:
            colour = COLOURS[row.verdict]
            words = f"[{colour}]{escape(row.words)}[/]" if colour else escape(row.words)
            table.add_row(escape(row.label), row.before or "-", row.after or "-", words)
        console.print(table)
    ends, steps = ("budget ", "note: ", "equal to "), set(lines(report.data.recovery))
    for line in str(report).splitlines():
        if line.startswith(ends) or line in steps:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Say on the error stream what is going on, where a terminal watches."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(text):
        yield


def as_typed(context: typer.Context) -> str:
    """The call as it was typed, for the report."""
    arguments = context.find_root().meta.get(ARGUMENTS, [])
    return shlex.join(["penjing", *arguments])

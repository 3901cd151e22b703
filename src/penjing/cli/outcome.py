"""What a command leaves behind: the network and its report in one folder, and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import typer
from torch import nn

from penjing import checkpoint, files
from penjing.cli.answers import (
    as_typed,
    content_of,
    show_json,
    show_report,
    show_text,
    working,
)
from penjing.graph.capture import Example
from penjing.plan import Plan
from penjing.report import Report
from penjing.training.processes import Processes


class Outcome(Protocol):
    """What a verb gives that makes a network of a network."""

    @property
    def model(self) -> nn.Module:
        """The network."""
        ...

    @property
    def report(self) -> Report:
        """What was done."""
        ...


def deliver(
    outcome: Outcome,
    out: Path,
    example: Example,
    context: typer.Context,
    *,
    as_json: bool,
    plan: Plan | None = None,
) -> None:
    """Save the network under `model/` with the report beside it, and show the report.

    Of several processes that trained together the first alone does so.

    Args:
        outcome: The network and the report.
        out: Folder.
        example: Example inputs, for the checkpoint.
        context: The call as it was typed, for the report.
        as_json: Answer as JSON.
        plan: What was cut, written as `plan.json`.

    Raises:
        OSError: The folder cannot be written.
    """
    if not Processes.here().first:
        return
    report = Report(replace(outcome.report.data, command=as_typed(context)))
    with working("saving"):
        checkpoint.save(outcome.model, out / "model", example, plan=plan)
        if plan is not None:
            files.write_text(out / "plan.json", plan.to_json())
        report.save(out / "report.json")
        report.save(out / "report.html")
    if as_json:
        show_json({"out": str(out), "report": content_of(report)})
        return
    show_report(report)
    show_text(f"{'network and report' if plan is None else 'network, plan and report'}: {out}")

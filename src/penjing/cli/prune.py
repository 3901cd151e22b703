"""`penjing prune`: cut once, prove, repair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from penjing import checkpoint, files
from penjing.cli.answers import (
    answering,
    as_typed,
    content_of,
    show_json,
    show_report,
    show_text,
    working,
)
from penjing.cli.opening import data_of, open_source
from penjing.cli.options import (
    Allocation,
    AsJson,
    Debug,
    Ignore,
    Importance,
    Macs,
    MaxPruningRatio,
    Net,
    Out,
    Params,
    RamKb,
    Repair,
    RepairOption,
    RoundTo,
    Seed,
    Trust,
    given,
)
from penjing.errors import PlanError
from penjing.plan import Plan
from penjing.report import Report
from penjing.verbs.prune import Pruned
from penjing.verbs.prune import prune as prune_network


def prune(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    pruning_ratio: Annotated[
        float | None, typer.Option("--pruning-ratio", help="Share of units to remove, in [0, 1).")
    ] = None,
    macs: Macs = None,
    params: Params = None,
    ram_kb: RamKb = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan.json made before, instead of a budget.")
    ] = None,
    out: Out = Path("runs/pruned"),
    importance: Importance = None,
    allocation: Allocation = None,
    repair: RepairOption = Repair.AUTO,
    round_to: RoundTo = None,
    max_pruning_ratio: MaxPruningRatio = 0.9,
    ignore: Ignore = None,
    seed: Seed = 0,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove whole units from a network, prove the cut, repair what is left."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust)
        example = source.need("example_inputs")
        with working("cutting and repairing"):
            pruned = prune_network(
                source.model,
                example,
                pruning_ratio=pruning_ratio,
                constraints=given({"macs": macs, "params": params, "ram_kb": ram_kb}) or None,
                plan=None if plan is None else _read(plan),
                calibration=data_of(source),
                importance=importance,
                allocation=allocation,
                repair=repair.choice,
                round_to=round_to,
                max_pruning_ratio=max_pruning_ratio,
                ignored_layers=tuple(ignore or ()),
                seed=seed,
            )
            report = _write(out, pruned, example, as_typed(context))
        if as_json:
            show_json({"out": str(out), "report": content_of(report)})
            return
        show_report(report)
        show_text(f"network, plan and report: {out}")


def _read(path: Path) -> Plan:
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from error


def _write(out: Path, pruned: Pruned, example: object, command: str) -> Report:
    report = Report(replace(pruned.report.data, command=command))
    checkpoint.save(pruned.model, out / "model", example, plan=pruned.plan)  # type: ignore[arg-type]
    files.write_text(out / "plan.json", pruned.plan.to_json())
    report.save(out / "report.json")
    report.save(out / "report.html")
    return report

"""`penjing prune`: cut once, prove, repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import answering, working
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
from penjing.cli.outcome import deliver
from penjing.errors import PlanError
from penjing.plan import Plan
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
        deliver(pruned, out, example, context, as_json=as_json, plan=pruned.plan)


def _read(path: Path) -> Plan:
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from error

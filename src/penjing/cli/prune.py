"""`penjing prune`: cut once, prove, repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import working
from penjing.cli.bundles import Call, Cutting, unbundled
from penjing.cli.opening import data_of, judged_by
from penjing.cli.options import (
    BitOperations,
    EffectiveMacs,
    Macs,
    Net,
    Nonzero,
    Out,
    Params,
    RamKb,
    Seed,
    SizeKb,
    given,
)
from penjing.cli.outcome import deliver
from penjing.errors import PlanError
from penjing.plan import Plan
from penjing.verbs.prune import prune as prune_network


@unbundled
def prune(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    pruning_ratio: Annotated[
        float | None, typer.Option("--pruning-ratio", help="Share of units to remove, in [0, 1).")
    ] = None,
    macs: Macs = None,
    params: Params = None,
    ram_kb: RamKb = None,
    effective_macs: EffectiveMacs = None,
    nonzero: Nonzero = None,
    size_kb: SizeKb = None,
    bit_operations: BitOperations = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A plan.json made before, instead of a budget.")
    ] = None,
    iterative_steps: Annotated[
        int,
        typer.Option("--iterative-steps", min=1, help="Steps to the goal, each judged anew."),
    ] = 1,
    out: Out = Path("runs/pruned"),
    cutting: Cutting,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Remove whole units from a network, prove the cut, repair what is left."""
    bounds = {
        "macs": macs,
        "params": params,
        "ram_kb": ram_kb,
        "effective_macs": effective_macs,
        "nonzero": nonzero,
        "size_kb": size_kb,
        "bit_operations": bit_operations,
    }
    with call.answering():
        source = call.open(net)
        example = source.need("example_inputs")
        with working("cutting and repairing"):
            pruned = prune_network(
                source.model,
                example,
                pruning_ratio=pruning_ratio,
                constraints=given(bounds) or None,
                plan=None if plan is None else _read(plan),
                calibration=data_of(source),
                iterative_steps=iterative_steps,
                task=judged_by(source),
                seed=seed,
                **cutting.arguments(),
            )
        deliver(pruned, out, example, context, as_json=call.as_json, plan=pruned.plan)


def _read(path: Path) -> Plan:
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (PlanError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {error}") from error

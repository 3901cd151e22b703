"""`penjing sparsify`: zeros in a pattern, the rest solved anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import working
from penjing.cli.bundles import Call, Sparing, unbundled
from penjing.cli.opening import data_of, judged_by
from penjing.cli.options import (
    Macs,
    Net,
    Nonzero,
    Out,
    Pattern,
    Repair,
    RepairOption,
    Seed,
    given,
)
from penjing.cli.outcome import deliver
from penjing.verbs.sparsify import sparsify as sparsify_network


@unbundled
def sparsify(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    sparsity: Annotated[
        float | None, typer.Option("--sparsity", help="Share of weights made zero, in [0, 1).")
    ] = None,
    nonzero: Nonzero = None,
    macs: Macs = None,
    pattern: Pattern = "element",
    out: Out = Path("runs/sparse"),
    importance: Annotated[
        str | None,
        typer.Option("--importance", help="obs, wanda, magnitude, random, ... or module:thing."),
    ] = None,
    allocation: Annotated[
        str | None,
        typer.Option("--allocation", help="dp, lamp, erk, global, uniform, ... or module:thing."),
    ] = None,
    repair: RepairOption = Repair.AUTO,
    sparing: Sparing,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Make weights zero in a pattern and solve the rest anew, without labels."""
    with call.answering():
        source = call.open(net)
        example = source.need("example_inputs")
        with working("making zeros and repairing"):
            sparse = sparsify_network(
                source.model,
                example,
                sparsity=sparsity,
                constraints=given({"nonzero": nonzero, "macs": macs}) or None,
                pattern=pattern,
                calibration=data_of(source),
                importance=importance,
                allocation=allocation,
                repair=repair.choice,
                task=judged_by(source),
                seed=seed,
                **sparing.arguments(),
            )
        deliver(sparse, out, example, context, as_json=call.as_json)

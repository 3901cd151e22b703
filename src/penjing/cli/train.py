"""`penjing train`: train a network while zeros grow in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.bundles import Call, Sparing, unbundled
from penjing.cli.options import (
    Net,
    Out,
    Pattern,
    Seed,
)
from penjing.cli.outcome import deliver
from penjing.cli.training import Training
from penjing.verbs.train import EPOCHS
from penjing.verbs.train import train as train_network


@unbundled
def train(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Final share of zeros, in [0, 1). Default: dense."),
    ] = None,
    pruning_ratio: Annotated[
        float | None,
        typer.Option("--pruning-ratio", help="Share of units instead, cut at the end, in [0, 1)."),
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", help="gradual, movement, str, rigl, set, ac/dc, lottery."),
    ] = "gradual",
    schedule: Annotated[
        str | None,
        typer.Option("--sparsity-schedule", help="cubic, linear, exponential, one_shot, ..."),
    ] = None,
    pattern: Pattern = "element",
    sparing: Sparing,
    out: Out = Path("runs/trained"),
    training: Training = Training(epochs=EPOCHS),  # noqa: B008 - read only
    seed: Seed = 0,
    call: Call,
) -> None:
    """Train NET on its task while zeros grow or units go; stopped and called again, it goes on."""
    with call.answering():
        source = call.open(net)
        example = source.need("example_inputs")
        trained = train_network(
            source.model,
            source.need("task"),
            sparsity=sparsity,
            pruning_ratio=pruning_ratio,
            sparsity_schedule=schedule,
            method=method,
            pattern=pattern,
            example_inputs=example,
            seed=seed,
            **sparing.arguments(),
            **training.arguments(out),
        )
        deliver(trained, out, example, context, as_json=call.as_json, plan=trained.plan)

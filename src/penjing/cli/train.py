"""`penjing train`: train a network while zeros grow in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import answering
from penjing.cli.opening import open_source
from penjing.cli.options import (
    AsJson,
    Debug,
    Ignore,
    Indivisible,
    IndivisibleOption,
    KeepDense,
    Net,
    Out,
    Pattern,
    Seed,
    Trust,
    roles,
)
from penjing.cli.outcome import deliver
from penjing.cli.training import Training, with_training
from penjing.verbs.train import EPOCHS
from penjing.verbs.train import train as train_network


@with_training
def train(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Final share of zeros, in [0, 1). Default: dense."),
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
    keep_dense: KeepDense = None,
    indivisible: IndivisibleOption = Indivisible.ERROR,
    ignore: Ignore = None,
    out: Out = Path("runs/trained"),
    training: Training = Training(epochs=EPOCHS),  # noqa: B008 - read only
    seed: Seed = 0,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train NET on its task while zeros grow; stopped and called again, it goes on."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust)
        example = source.need("example_inputs")
        trained = train_network(
            source.model,
            source.need("task"),
            sparsity=sparsity,
            sparsity_schedule=schedule,
            method=method,
            pattern=pattern,
            example_inputs=example,
            ignored_layers=tuple(ignore or ()),
            keep_dense=roles(keep_dense),
            indivisible=indivisible.value,
            seed=seed,
            **training.arguments(out),
        )
        deliver(trained, out, example, context, as_json=as_json)

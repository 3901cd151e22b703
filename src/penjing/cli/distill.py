"""`penjing distill`: any student learns from the network of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import answering
from penjing.cli.finetune import student_in
from penjing.cli.opening import open_source
from penjing.cli.options import (
    AsJson,
    Debug,
    Net,
    Out,
    Seed,
    Trust,
)
from penjing.cli.outcome import deliver
from penjing.cli.training import Training, with_training
from penjing.verbs.distill import distill as distill_network


@with_training
def distill(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    student: Annotated[
        Path, typer.Option("--student", help="Its folder, or a Python file with model().")
    ],
    out: Out = Path("runs/distilled"),
    loss: Annotated[
        list[str] | None,
        typer.Option("--loss", help="logits, decoupled, attention, ... may be repeated."),
    ] = None,
    training: Training = Training(),  # noqa: B008 - read only
    seed: Seed = 0,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a student with the network of NET as its teacher, on the task of NET."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust)
        learner = (
            student_in(student, source.model)
            if student.is_dir()
            else open_source(str(student), trust=trust).model
        )
        done = distill_network(
            learner,
            source.model,
            source.need("task"),
            loss=loss or "logits",
            seed=seed,
            **training.arguments(out),
        )
        deliver(done, out, source.need("example_inputs"), context, as_json=as_json)

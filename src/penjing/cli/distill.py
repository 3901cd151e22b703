"""`penjing distill`: any student learns from the network of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.bundles import Call, unbundled
from penjing.cli.finetune import student_in
from penjing.cli.options import (
    Net,
    Out,
    Seed,
)
from penjing.cli.outcome import deliver
from penjing.cli.training import Training
from penjing.verbs.distill import distill as distill_network


@unbundled
def distill(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    student: Annotated[
        Path, typer.Option("--student", help="Its folder, or a Python file with model().")
    ],
    out: Out = Path("runs/distilled"),
    loss: Annotated[
        list[str] | None,
        typer.Option("--loss", help="logits, decoupled, attention, ... may be repeated."),
    ] = None,
    training: Training,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Train a student with the network of NET as its teacher, on the task of NET."""
    with call.answering():
        source = call.open(net)
        learner = (
            student_in(student, source.model) if student.is_dir() else call.open(str(student)).model
        )
        done = distill_network(
            learner,
            source.model,
            source.need("task"),
            loss=loss or "logits",
            seed=seed,
            **training.arguments(out),
        )
        deliver(done, out, source.need("example_inputs"), context, as_json=call.as_json)

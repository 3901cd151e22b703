"""`penjing finetune`: train a network that was cut, with the original as its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from penjing import checkpoint
from penjing.cli.bundles import Call, unbundled
from penjing.cli.options import (
    Net,
    Out,
    Seed,
)
from penjing.cli.outcome import deliver
from penjing.cli.training import Training
from penjing.verbs.finetune import finetune as finetune_network


@unbundled
def finetune(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    student: Annotated[
        Path | None,
        typer.Option("--student", help="Folder of the cut network; NET is then its teacher."),
    ] = None,
    out: Out = Path("runs/tuned"),
    temperature: Annotated[float, typer.Option("--temperature", help="Of distillation.")] = 4.0,
    weight: Annotated[float, typer.Option("--weight", help="The teacher's share.")] = 0.9,
    training: Training,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Train a network with the task of NET; stopped and called again, it goes on."""
    with call.answering():
        source = call.open(net)
        teacher = None if student is None else source.model
        model = source.model if student is None else student_in(student, source.model)
        tuned = finetune_network(
            model,
            source.need("task"),
            teacher=teacher,
            temperature=temperature,
            weight=weight,
            seed=seed,
            **training.arguments(out),
        )
        deliver(tuned, out, source.need("example_inputs"), context, as_json=call.as_json)


def student_in(folder: Path, dense: nn.Module) -> nn.Module:
    """The cut network: of the class of `dense` when it was saved as one, else its graph form."""
    inner = folder / "model" if (folder / "model" / checkpoint.SPEC).is_file() else folder
    graph = checkpoint.read(inner).form == "graph"
    return checkpoint.load(inner, None if graph else dense)

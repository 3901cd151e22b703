"""`penjing demo`: the main job on real handwritten digits, in under a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from penjing.cli.answers import answering, as_typed
from penjing.cli.compress import finish
from penjing.cli.digits import SPLIT, Digits, trained
from penjing.cli.options import AsJson, Debug, Out, Seed
from penjing.compression import compress

ROUND_TO = 8  # channels: what vector units of today take at once


def demo(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    out: Out = Path("runs/demo"),
    macs: Annotated[str, typer.Option("--macs", help="Upper bound, of the original.")] = "40%",
    max_drop: Annotated[str, typer.Option("--max-drop", help="Upper bound, in points.")] = "2%",
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a small network on real handwritten digits, compress it, and write the report.

    The data comes with scikit-learn, which the extra `demo` installs: 1797 scans of 8x8 pixels,
    divided once and for all into 1097 to train, 300 to choose by, and 400 to test.
    """
    with answering(as_json=as_json, debug=debug), _one_thread():
        say = Console(file=sys.stderr, highlight=False)
        digits = Digits.read()
        task = digits.task(seed)
        say.print(f"1/3  training a residual network on {SPLIT[0]} scans of digits")
        net = trained(task, seed)
        say.print(f"2/3  compressing: macs <= {macs}, max_drop <= {max_drop}")
        result = compress(
            net,
            torch.zeros(1, 1, 8, 8),
            task=task,
            constraints={"macs": macs, "max_drop": max_drop},
            workdir=out,
            round_to=ROUND_TO,
            seed=seed,
        )
        say.print("3/3  writing the report")
        finish(result, out, as_typed(context), as_json=as_json)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small networks run faster on one thread, and come out the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

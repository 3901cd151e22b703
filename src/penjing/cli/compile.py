"""`penjing compile`: a network as a C program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import answering, show_json, show_text, working
from penjing.cli.opening import open_source
from penjing.cli.options import AsJson, Debug, Net, Threads, Trust
from penjing.codegen.int8 import IntegerProgram
from penjing.codegen.program import Program
from penjing.verbs.compile import compile as compile_network


class Aim(StrEnum):
    """What the choice of kernels is for."""

    LATENCY = "latency"
    FLASH = "flash"
    RAM = "ram"


def compile(  # noqa: PLR0913 - one parameter per option
    net: Net,
    out: Annotated[Path, typer.Option("--out", help="Folder of the program.", file_okay=False)],
    target: Annotated[
        str, typer.Option("--target", help="host, aarch64, cortex-m4, cortex-m7, cortex-m55.")
    ] = "host",
    optimize: Annotated[Aim, typer.Option("--optimize", help="What kernels are chosen for.")] = (
        Aim.LATENCY
    ),
    name: Annotated[str, typer.Option("--name", help="Prefix of files and functions.")] = "net",
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples per call; the example's.")
    ] = None,
    threads: Threads = 1,
    tune: Annotated[
        bool, typer.Option("--tune", help="Time the kernels of each layer on this machine.")
    ] = False,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compile a network to C; it is built, run and compared before it is put in place."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust, want=("example_inputs",))
        with working("compiling"):
            program = compile_network(
                source.model,
                source.need("example_inputs"),
                target=target,
                optimize=optimize.value,
                out=out,
                name=name,
                batch=batch,
                threads=threads,
                tune=tune,
            )
        figures = _figures(program, out)
        if as_json:
            show_json(figures)
        else:
            show_text("\n".join(f"{key}: {value}" for key, value in figures.items()))


def _figures(program: Program | IntegerProgram, out: Path) -> dict[str, object]:
    return {
        "folder": str(out),
        "target": program.target.name,
        "arena_bytes": program.arena_bytes,
        "ram_bytes": program.ram_bytes,
        "code_bytes": program.code_bytes,
        "constant_bytes": program.constant_bytes,
        "flash_bytes": program.flash_bytes,
        "difference": program.difference,
    }

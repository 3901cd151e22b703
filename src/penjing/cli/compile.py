"""`penjing compile`: a network as a C program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import show_json, show_text, working
from penjing.cli.bundles import Call, unbundled
from penjing.cli.options import Net
from penjing.codegen.int8 import IntegerProgram
from penjing.codegen.preprocessing import Normalize
from penjing.codegen.program import Program
from penjing.errors import InputError
from penjing.verbs.compile import compile as compile_network


class Aim(StrEnum):
    """What the choice of kernels is for."""

    LATENCY = "latency"
    FLASH = "flash"
    RAM = "ram"


class ImageLayout(StrEnum):
    """How the bytes of an image lie."""

    NHWC = "NHWC"
    NCHW = "NCHW"


@unbundled
def compile(  # noqa: PLR0913 - one parameter per option
    net: Net,
    *,
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
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="That a call of the program runs on.")
    ] = 1,
    tune: Annotated[
        bool, typer.Option("--tune", help="Time the kernels of each layer on this machine.")
    ] = False,
    mean: Annotated[
        str | None,
        typer.Option("--mean", help="Take image bytes; means per channel, as 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="With --mean: deviations per channel.")
    ] = None,
    scale: Annotated[float, typer.Option("--scale", help="With --mean: of a byte.")] = 1 / 255,
    layout: Annotated[
        ImageLayout, typer.Option("--layout", help="With --mean: how the image's bytes lie.")
    ] = ImageLayout.NHWC,
    ram_kb: Annotated[
        float | None, typer.Option("--ram-kb", help="Memory that your device has, kB.")
    ] = None,
    flash_kb: Annotated[
        float | None, typer.Option("--flash-kb", help="Flash that your device has, kB.")
    ] = None,
    call: Call,
) -> None:
    """Compile a network to C; it is built, run and compared before it is put in place."""
    with call.answering():
        preprocessing = _preprocessing(mean, std, scale, layout)
        given = {"ram_kb": ram_kb, "flash_kb": flash_kb}
        bounds = {name: bound for name, bound in given.items() if bound is not None}
        source = call.open(net, want=("example_inputs",))
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
                preprocessing=preprocessing,
                constraints=bounds or None,
            )
        figures = _figures(program, out)
        if call.as_json:
            show_json(figures)
        else:
            show_text("\n".join(f"{key}: {value}" for key, value in figures.items()))


def _preprocessing(
    mean: str | None, std: str | None, scale: float, layout: ImageLayout
) -> Normalize | None:
    """The normalisation that the options say."""
    if mean is None and std is None:
        if scale != 1 / 255 or layout != ImageLayout.NHWC:
            raise InputError("--scale and --layout are of images: give --mean and --std as well")
        return None
    if mean is None or std is None:
        raise InputError("--mean and --std go together: give both")
    means, stds = (_numbers(text) for text in (mean, std))
    return Normalize(mean=means, std=stds, scale=scale, layout=layout.value)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} is no list of numbers such as 0.5,0.5,0.5") from error


def _figures(program: Program | IntegerProgram, out: Path) -> dict[str, object]:
    figures: dict[str, object] = {
        "folder": str(out),
        "target": program.target.name,
        "arena_bytes": program.arena_bytes,
        "ram_bytes": program.ram_bytes,
        "code_bytes": program.code_bytes,
        "constant_bytes": program.constant_bytes,
        "flash_bytes": program.flash_bytes,
        "difference": program.difference,
    }
    if isinstance(program, IntegerProgram) and program.instructions is not None:
        figures["instructions"] = program.instructions
        if program.cycles is not None:
            figures["estimated_cycles"] = program.cycles
    return figures

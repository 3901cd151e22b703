"""`penjing quantize`: integers from unlabelled samples, written for ONNX Runtime."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from penjing import checkpoint
from penjing.cli.answers import (
    as_typed,
    content_of,
    show_json,
    show_report,
    show_text,
    working,
)
from penjing.cli.bundles import Call, Mixed, unbundled
from penjing.cli.opening import data_of
from penjing.cli.options import Ignore, MaxDrop, Net, Out, Seed
from penjing.cli.training import Training
from penjing.errors import StrategyError
from penjing.report import Report
from penjing.training.processes import Processes
from penjing.verbs.convert import convert
from penjing.verbs.export import export
from penjing.verbs.finetune import finetune
from penjing.verbs.prepare import prepare
from penjing.verbs.quantize import quantize as quantize_network


class Observer(StrEnum):
    """Which range of an activation the grid covers."""

    MSE = "mse"
    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


class Rounding(StrEnum):
    """How weights are rounded."""

    NEAREST = "nearest"
    GPTQ = "gptq"
    ADAROUND = "adaround"


@unbundled
def quantize(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    out: Out = Path("runs/quantized"),
    scheme: Annotated[
        str, typer.Option("--scheme", help="int8, int7 for x86 without VNNI, int4, ...")
    ] = "int8",
    observer: Annotated[
        Observer, typer.Option("--observer", help="Which range of an activation is covered.")
    ] = Observer.MSE,
    rounding: Annotated[
        Rounding, typer.Option("--rounding", help="How weights are rounded.")
    ] = Rounding.NEAREST,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Make ranges of neighbouring layers alike first.")
    ] = False,
    ignore: Ignore = None,
    mixed: Mixed,
    max_drop: MaxDrop = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time integers and floats, layer by layer.")
    ] = False,
    trained: Annotated[
        bool, typer.Option("--training", help="Train on the grids, with the options below.")
    ] = False,
    training: Training,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Turn a network into integers, and write it for ONNX Runtime."""
    with call.answering():
        source = call.open(net)
        example = source.need("example_inputs")
        settings: dict[str, Any] = {
            "calibration": data_of(source),
            "scheme": scheme,
            "observer": observer.value,
            "equalization": equalize,
            "ignored_layers": tuple(ignore or ()),
            "seed": seed,
        }
        if trained:
            _check_trained(rounding, max_drop, mixed, latency=latency)
            prepared = prepare(source.model, example, **settings)
            task, how = source.need("task"), training.arguments(out)
            done = convert(finetune(prepared.model, task, seed=seed, **how).model)
        else:
            _check_untrained(training)
            with working("quantizing") if max_drop is None else nullcontext():
                done = quantize_network(
                    source.model,
                    example,
                    rounding=rounding.value,
                    max_drop=max_drop,
                    task=source.task,
                    latency=latency,
                    **mixed.arguments(),
                    **settings,
                )
        if not Processes.here().first:
            return
        with working("writing"):
            out.mkdir(parents=True, exist_ok=True)
            written = export(done.model, example, out / "model.onnx")
            checkpoint.save(done.model, out / "model", example)
        report = Report(replace(done.report.data, command=as_typed(context)))
        report.save(out / "report.json")
        report.save(out / "report.html")
        if call.as_json:
            show_json({"out": str(out), "report": content_of(report)})
            return
        show_report(report)
        show_text(str(written))
        show_text(f"network and report: {out}")


def _check_untrained(training: Training) -> None:
    """Refuse options of training where nothing is trained.

    Raises:
        StrategyError: One is not as it is when left out.
    """
    plain = Training()
    names = [f.name for f in fields(plain) if getattr(training, f.name) != getattr(plain, f.name)]
    if names:
        given = ", ".join(f"--{name}".replace("compiled", "compile") for name in names)
        raise StrategyError(f"{given} without --training: add it, or leave them out")


def _check_trained(
    rounding: Rounding, max_drop: str | None, mixed: Mixed, *, latency: bool
) -> None:
    """Refuse what is not done to a network that is trained on its grids.

    Raises:
        StrategyError: An option that belongs to rounding after training.
    """
    asked = {
        "--rounding": rounding is not Rounding.NEAREST,
        "--max-drop": max_drop is not None,
        "--latency": latency,
        "--weight-bytes": mixed.weight_bytes is not None,
        "--bit-operations": mixed.bit_operations is not None,
        "--weight-bits": mixed.weight_bits is not None,
    }
    given = ", ".join(name for name, there in asked.items() if there)
    if given:
        raise StrategyError(
            f"{given} with --training: these belong to rounding after training; leave them out, "
            "and time the result with `penjing measure`"
        )

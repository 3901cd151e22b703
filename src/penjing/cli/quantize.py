"""`penjing quantize`: integers from unlabelled samples, written for ONNX Runtime."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import (
    answering,
    as_typed,
    content_of,
    show_json,
    show_report,
    show_text,
    working,
)
from penjing.cli.opening import data_of, open_source
from penjing.cli.options import AsJson, Debug, Ignore, MaxDrop, Net, Out, Seed, Trust
from penjing.report import Report
from penjing.verbs.export import export
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


def quantize(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    out: Out = Path("runs/quantized"),
    scheme: Annotated[
        str, typer.Option("--scheme", help="int8, or int7 for x86 without VNNI.")
    ] = "int8",
    observer: Annotated[
        Observer, typer.Option("--observer", help="Which range of an activation is covered.")
    ] = Observer.MSE,
    rounding: Annotated[
        Rounding, typer.Option("--rounding", help="How weights are rounded.")
    ] = Rounding.NEAREST,
    ignore: Ignore = None,
    max_drop: MaxDrop = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time integers and floats, layer by layer.")
    ] = False,
    seed: Seed = 0,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Turn a network into integers, and write it for ONNX Runtime."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust)
        example = source.need("example_inputs")
        with working("quantizing") if max_drop is None else nullcontext():
            done = quantize_network(
                source.model,
                example,
                calibration=data_of(source),
                scheme=scheme,
                observer=observer.value,
                rounding=rounding.value,
                ignored_layers=tuple(ignore or ()),
                max_drop=max_drop,
                task=source.task,
                latency=latency,
                seed=seed,
            )
            out.mkdir(parents=True, exist_ok=True)
            written = export(done.model, example, out / "model.onnx")
        report = Report(replace(done.report.data, command=as_typed(context)))
        report.save(out / "report.json")
        report.save(out / "report.html")
        if as_json:
            show_json({"out": str(out), "report": content_of(report)})
            return
        show_report(report)
        show_text(str(written))
        show_text(f"network and report: {out}")

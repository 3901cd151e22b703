"""`penjing compress`: the main job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from penjing.cli.answers import (
    as_typed,
    content_of,
    show_json,
    show_report,
    show_text,
    working,
)
from penjing.cli.bundles import Call, Cutting, unbundled
from penjing.cli.options import (
    FlashKb,
    LatencyMs,
    Macs,
    MaxDrop,
    Net,
    Out,
    Params,
    RamKb,
    Seed,
    Threads,
    given,
)
from penjing.compression import Compressed
from penjing.compression import compress as compress_network
from penjing.report import Report


class Recovery(StrEnum):
    """When candidates are trained."""

    AUTO = "auto"
    FINETUNE = "finetune"
    OFF = "off"


class Runtime(StrEnum):
    """What is timed."""

    ONNX = "onnxruntime"
    C = "c"


RECOVERIES: Mapping[Recovery, Literal["auto", "finetune"] | None] = {
    Recovery.AUTO: "auto",
    Recovery.FINETUNE: "finetune",
    Recovery.OFF: None,
}


RUNTIMES: Mapping[Runtime, Literal["onnxruntime", "c"]] = {
    Runtime.ONNX: "onnxruntime",
    Runtime.C: "c",
}


@unbundled
def compress(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    net: Net,
    *,
    macs: Macs = None,
    params: Params = None,
    ram_kb: RamKb = None,
    flash_kb: FlashKb = None,
    latency_ms: LatencyMs = None,
    max_drop: MaxDrop = None,
    device: Annotated[str | None, typer.Option("--device", help="Not in this version.")] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time limit, summed over resumed calls.")
    ] = 5.0,
    out: Out = Path("runs/compressed"),
    recovery: Annotated[
        Recovery,
        typer.Option("--recovery", help="auto trains where the drop needs it, finetune always."),
    ] = Recovery.AUTO,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of one fine-tuning.")] = 3,
    runtime: Annotated[
        Runtime, typer.Option("--runtime", help="What is timed; c leaves zeros out.")
    ] = Runtime.ONNX,
    threads: Threads = 1,
    cutting: Cutting,
    seed: Seed = 0,
    call: Call,
) -> None:
    """Find the network that fits the budgets; stopped and called again, it goes on.

    NET has model(), example_inputs() and task() or calibration().

    Network, ONNX file and report come into the folder of --out.
    """
    bounds = {"macs": macs, "params": params, "ram_kb": ram_kb, "flash_kb": flash_kb}
    with call.answering():
        source = call.open(net)
        result = compress_network(
            source.model,
            source.need("example_inputs"),
            task=source.task,
            calibration=source.calibration,
            device=device,
            constraints=given({**bounds, "latency_ms": latency_ms, "max_drop": max_drop}),
            minutes=minutes,
            workdir=out,
            recovery=RECOVERIES[recovery],
            epochs=epochs,
            runtime=RUNTIMES[runtime],
            threads=threads,
            seed=seed,
            **cutting.arguments(),
        )
        finish(result, out, as_typed(context), as_json=call.as_json)


def finish(result: Compressed, out: Path, command: str, *, as_json: bool) -> None:
    """Put the report with its command into the folder, and answer.

    Args:
        result: What was found.
        out: The folder.
        command: What reproduces it.
        as_json: Answer as JSON.
    """
    report = Report(replace(result.report.data, command=command))
    onnx = str(out / "model.onnx") if (out / "model.onnx").is_file() else None
    with working("writing the report"):
        report.save(out / "report.json")
        page = report.save(out / "report.html")
    if as_json:
        paths = {"report": str(page), "network": str(out / "model"), "onnx": onnx}
        show_json({"out": str(out), "files": paths, "report": content_of(report)})
        return
    show_report(report)
    show_text(f"network: {out / 'model'}")
    why = "ONNX cannot express this network"
    if "runtime" in result.report.data.choices:
        why = "the C program was timed; `penjing export` writes it"
    show_text(f"onnx: {onnx or f'not written: {why}'}")
    show_text(f"report: {page}")

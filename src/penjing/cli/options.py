"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from penjing.pruning.weights.targets import ROLES

Net = Annotated[
    str,
    typer.Argument(
        metavar="NET",
        help="net.py, package.module[:function], a .pt2 file, or a folder written by penjing.",
        show_default=False,
    ),
]
MaybeNet = Annotated[
    str | None,
    typer.Argument(metavar="NET", help="As for the other commands.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable JSON on the output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Read a .pt2, which can run code that it holds.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Of the timed runtime.")]
Macs = Annotated[
    str | None, typer.Option("--macs", help="Upper bound: a number, or '50%' of the original.")
]
Params = Annotated[str | None, typer.Option("--params", help="Upper bound on the parameters.")]
RamKb = Annotated[
    str | None, typer.Option("--ram-kb", help="Upper bound on live activations, kB of 1024 bytes.")
]
Nonzero = Annotated[
    str | None,
    typer.Option("--nonzero", help="Upper bound on parameters that are not zero, or '20%'."),
]
EffectiveMacs = Annotated[
    str | None, typer.Option("--effective-macs", help="Upper bound on MACs with nonzero weights.")
]
SizeKb = Annotated[
    str | None, typer.Option("--size-kb", help="Upper bound on the saved weights, kB.")
]
BitOperations = Annotated[
    str | None,
    typer.Option("--bit-operations", help="Upper bound on MACs times bits of weight and input."),
]
WeightBytes = Annotated[
    str | None,
    typer.Option("--weight-bytes", help="Mixed precision: bound on packed weights, or '12%'."),
]
WeightBits = Annotated[
    list[int] | None, typer.Option("--weight-bits", help="Bits to choose from; may be repeated.")
]
FlashKb = Annotated[
    str | None, typer.Option("--flash-kb", help="Upper bound on the exported file, kB.")
]
LatencyMs = Annotated[
    str | None, typer.Option("--latency-ms", help="Upper bound on ONNX Runtime on this machine.")
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        "--max-drop", help="How much worse the first metric may get: 0.01 or '1%' is one point."
    ),
]
Importance = Annotated[
    str | None,
    typer.Option("--importance", help="obs, taylor, l1, l2, random, ... or module:thing."),
]
Allocation = Annotated[
    str | None,
    typer.Option("--allocation", help="dp, global, isomorphic, uniform, ... or module:thing."),
]
RoundTo = Annotated[
    int | None, typer.Option("--round-to", min=1, help="Units that remain, a multiple of this.")
]
MaxPruningRatio = Annotated[
    float, typer.Option("--max-pruning-ratio", help="Largest share of one group that may go.")
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="Layer to leave alone, name or glob; may be repeated."),
]
Scope = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        help="What goes: inner, residual, kinds such as heads, depth, layers, weights, bits; "
        "may be repeated. Default: inner and residual.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the result.", file_okay=False)]
Pattern = Annotated[
    str, typer.Option("--pattern", help="element, n:m such as 2:4, block:1x8, kernel.")
]
KeepDense = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-dense", help="first, last, depthwise, or none; may be repeated. Default: all."
    ),
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training data.")]
Optimizer = Annotated[str, typer.Option("--optimizer", help="adamw, adam, sgd, module:thing.")]
Lr = Annotated[
    float | None, typer.Option("--lr", help="Base learning rate; the optimizer's own by default.")
]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Time limit.")]
Tracker = Annotated[
    list[str] | None,
    typer.Option("--tracker", help="tensorboard, wandb or mlflow; may be repeated."),
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Run the training steps through torch.compile.")
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed", help="Share every step among the processes that torchrun started."
    ),
]


class Indivisible(StrEnum):
    """What happens where a pattern does not divide a layer."""

    ERROR = "error"
    PAD = "pad"
    SKIP = "skip"


IndivisibleOption = Annotated[
    Indivisible, typer.Option("--indivisible", help="Where the pattern does not divide a layer.")
]

Choice = Literal["auto", "least_squares", "recalibrate", "tune", "fold", "variance", "bias"]


class Repair(StrEnum):
    """How a cut network is put right."""

    AUTO = "auto"
    LEAST_SQUARES = "least_squares"
    TUNE = "tune"
    FOLD = "fold"
    VARIANCE = "variance"
    BIAS = "bias"
    RECALIBRATE = "recalibrate"
    OFF = "off"

    @property
    def choice(self) -> Choice | None:
        """As the verbs take it."""
        return REPAIRS[self]


REPAIRS: Mapping[Repair, Choice | None] = {
    Repair.AUTO: "auto",
    Repair.LEAST_SQUARES: "least_squares",
    Repair.TUNE: "tune",
    Repair.FOLD: "fold",
    Repair.VARIANCE: "variance",
    Repair.BIAS: "bias",
    Repair.RECALIBRATE: "recalibrate",
    Repair.OFF: None,
}

RepairOption = Annotated[
    Repair, typer.Option("--repair", help="auto is least_squares where there is data.")
]


def roles(keep_dense: list[str] | None) -> tuple[str, ...]:
    """Kinds of layers that stay dense, as the verbs take them."""
    return tuple(role for role in keep_dense or ROLES if role != "none")


def given(bounds: Mapping[str, str | None]) -> dict[str, float | str]:
    """The bounds that were given."""
    return {name: text for name, text in bounds.items() if text is not None}

"""The command `penjing`: its commands, its version, and those that come later."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import penjing
from penjing.cli.answers import ARGUMENTS, refuse
from penjing.cli.compile import compile
from penjing.cli.compress import compress
from penjing.cli.demo import demo
from penjing.cli.distill import distill
from penjing.cli.export import export
from penjing.cli.finetune import finetune
from penjing.cli.groups import groups
from penjing.cli.measure import measure
from penjing.cli.prune import prune
from penjing.cli.quantize import quantize
from penjing.cli.report import report
from penjing.cli.sparsify import sparsify
from penjing.cli.train import train
from penjing.errors import UnavailableError
from penjing.verbs.later import LATER as LATER_VERBS

LATER = {
    **LATER_VERBS,
    "devices": "device profiles",
    "runs": "the list of past runs",
}
"""Commands of the design that this version does not have."""


class Commands(TyperGroup):
    """Remembers the words of the call for the report, and knows what comes later."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments as they were typed."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; one of a later version says so."""
        if args and args[0] in LATER:
            error = UnavailableError(
                f"`penjing {args[0]}` is not in this version: {LATER[args[0]]}"
            )
            refuse(error, as_json="--json" in args)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="penjing",
    cls=Commands,
    help="Prune, repair, verify and measure trained PyTorch networks until they fit.",
    epilog=f"Later versions: {', '.join(sorted(LATER))}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"penjing {penjing.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version, and exit.")
    ] = False,
) -> None:
    """Prune, repair, verify and measure trained PyTorch networks until they fit."""


for _command, _example in (
    (demo, "penjing demo --out runs/demo"),
    (compress, "penjing compress net.py --macs 50% --max-drop 1% --minutes 5 --out runs/first"),
    (groups, "penjing groups net.py"),
    (prune, "penjing prune net.py --macs 50% --out runs/half"),
    (sparsify, "penjing sparsify net.py --sparsity 0.9 --out runs/sparse"),
    (quantize, "penjing quantize net.py --out runs/int8"),
    (finetune, "penjing finetune net.py --student runs/half/model --epochs 3 --out runs/tuned"),
    (train, "penjing train net.py --sparsity 0.9 --epochs 30 --out runs/sparse"),
    (distill, "penjing distill net.py --student small.py --loss logits --loss attention"),
    (measure, "penjing measure net.py --threads 1"),
    (export, "penjing export net.py --out net.onnx"),
    (compile, "penjing compile net.py --target host --out program"),
    (report, "penjing report runs/first --out report.html"),
):
    app.command(epilog=f"Example:  {_example}")(_command)


def main() -> None:
    """Run the command line."""
    app()

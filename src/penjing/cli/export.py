"""`penjing export`: a network as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import show_json, show_text, working
from penjing.cli.bundles import Call, unbundled
from penjing.cli.options import Net
from penjing.verbs.export import export as export_network


@unbundled
def export(
    net: Net,
    *,
    out: Annotated[
        Path, typer.Option("--out", help="File to write; its suffix is the format: .onnx, .c.")
    ],
    call: Call,
) -> None:
    """Export a network; the file is loaded again and compared before it is put in place."""
    with call.answering():
        source = call.open(net, want=("example_inputs",))
        with working("exporting"):
            done = export_network(source.model, source.need("example_inputs"), out)
        if call.as_json:
            show_json(
                {
                    "path": str(done.path),
                    "size_bytes": done.size_bytes,
                    "difference": done.difference,
                    "tolerance": done.tolerance,
                    "runtime": done.runtime,
                }
            )
        else:
            show_text(str(done))

"""`penjing groups`: what can be cut, and what cannot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.answers import show_json, show_text, working
from penjing.cli.bundles import Call, unbundled
from penjing.cli.options import Net
from penjing.errors import InputError
from penjing.files import write_text
from penjing.plan import Groups
from penjing.report import Coupling, Report, ReportData, environment
from penjing.verbs.find_groups import find_groups

Picture = Annotated[
    Path | None,
    typer.Option("--out", help="Draw the coupling: .svg, .html for a page, .json for its data."),
]


@unbundled
def groups(
    net: Net,
    *,
    out: Picture = None,
    call: Call,
) -> None:
    """List the coupled units of a network, what is within reach, and what the locks cost."""
    with call.answering():
        source = call.open(net, want=("example_inputs",))
        with working("finding groups"):
            found = find_groups(source.model, source.need("example_inputs"))
        if out is not None:
            write_picture(found, type(source.model).__name__, out)
        if call.as_json:
            show_json(asdict(found))
        else:
            show_text(str(found))


def write_picture(found: Groups, title: str, path: Path) -> Path:
    """Draw which groups cut which layers.

    Args:
        found: As `find_groups` returns them.
        title: Heading of the page.
        path: Ends in .svg for the picture alone, in .html for a page with the locks and their cost,
            in .json for the data of that page.

    Returns:
        The path written.

    Raises:
        InputError: Another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in {".svg", ".html", ".json"}:
        raise InputError(f"groups are drawn as .svg, .html or .json, got {path.name!r}; rename it")
    data = Coupling.of(found)
    if suffix == ".svg":
        from penjing.report._coupling import standalone  # draws, which the other verbs do not

        return write_text(path, standalone(data))
    page = ReportData(
        kind="groups", title=title, coupling=data, locked=found.locked, environment=environment()
    )
    return Report(page).save(path)

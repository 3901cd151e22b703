"""`penjing groups`: what can be cut, and what cannot."""

from __future__ import annotations

from dataclasses import asdict

from penjing.cli.answers import answering, show_json, show_text, working
from penjing.cli.opening import open_source
from penjing.cli.options import AsJson, Debug, Net, Trust
from penjing.verbs.find_groups import find_groups


def groups(net: Net, trust: Trust = False, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the coupled units of a network, and what is locked, with the reason."""
    with answering(as_json=as_json, debug=debug):
        source = open_source(net, trust=trust, want=("example_inputs",))
        with working("finding groups"):
            found = find_groups(source.model, source.need("example_inputs"))
        if as_json:
            show_json(asdict(found))
        else:
            show_text(str(found))

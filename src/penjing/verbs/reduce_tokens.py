"""`reduce_tokens`: a transformer of which every layer passes on fewer tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import get_args

from torch import nn

from penjing.adaptive.tokens import Method, shorten
from penjing.counts.figures import program_figures
from penjing.errors import InputError, StrategyError
from penjing.graph.call import is_tensor
from penjing.graph.capture import Example, Program, capture, check_runs
from penjing.graph.form import graph_form
from penjing.graph.parts import outputs_of
from penjing.record import Record, attach
from penjing.report import Report, ReportData, environment
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite

TIMING = "the choice of tokens costs time that MACs do not count: pj.measure times it"


@dataclass(frozen=True, slots=True)
class FewerTokens:
    """A transformer with fewer tokens.

    Args:
        model: In graph form, called like the original; trains.
        report: MACs before and after, and the tokens behind each layer.
    """

    model: nn.Module
    report: Report


@arguments_checked
def reduce_tokens(
    model: nn.Module,
    example_inputs: Example,
    *,
    r: int | Sequence[int],
    method: Method = "merge",
    protect: int | None = None,
) -> FewerTokens:
    """Merge or drop tokens behind every attention layer; no training is needed to begin with.

    Which tokens go depends on the input, how many does not: shapes stay fixed, so the result is
    exported, compiled where its ops are known, and timed like any other network.

    Args:
        model: An encoder over a fixed number of tokens (ViT, DeiT and their kind), with attention
            as `scaled_dot_product_attention`; left alone.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        r: Tokens that go behind each layer, or a number for every layer.
        method: "merge" joins the most similar pairs, by their keys, and attention counts a merged
            token as many as it stands for; "attention" drops those that get least of it; "norm"
            drops those of the smallest norm.
        protect: Tokens at the front that stay, 0 or 1; None is 1 where the network reads its first
            token by itself, as a class token.

    Returns:
        The network and the report.

    Raises:
        InputError: No such attention was found, or tokens cannot be followed through an op, which
            is named.
        StrategyError: More tokens go than there are, or an unknown method.
        CaptureError: The network does not export.
    """
    started = time.perf_counter()
    if method not in get_args(Method):
        raise StrategyError(f"unknown method {method!r}; known are {', '.join(get_args(Method))}")
    if protect not in {None, 0, 1}:
        raise StrategyError(f"protect is {protect!r}; it is 0 or 1 tokens at the front, or None")
    check_finite(model)
    program = capture(model, example_inputs)
    shorter, counts, protected = shorten(program, r, method, protect)
    made = graph_form(shorter)
    check_runs(made, example_inputs)
    with suppress(InputError):  # inputs that cannot be described: it is saved with an example then
        attach(made, Record.of(example_inputs))
    short = capture(made, example_inputs)
    data = ReportData(
        kind="tokens",
        title=type(model).__name__,
        before=program_figures(program),
        after=program_figures(short),
        choices={
            "method": method,
            "tokens behind each layer": ", ".join(map(str, counts)),
            "protected": str(protected),
        },
        environment=environment(),
        notes=(*_notes(program, short), TIMING),
        seconds=time.perf_counter() - started,
    )
    return FewerTokens(made, Report(data))


def _notes(program: Program, short: Program) -> Iterator[str]:
    """Outputs that have other sizes than they had."""
    for before, after in zip(outputs_of(program), outputs_of(short), strict=True):
        if is_tensor(before) and program.shape(before)[1:] != short.shape(after)[1:]:
            was, now = (list(s[1:]) for s in (program.shape(before), short.shape(after)))
            yield (
                f"output {before.name!r} has {now} per sample and had {was}: it holds the tokens "
                "that are left, not one per place of the input"
            )

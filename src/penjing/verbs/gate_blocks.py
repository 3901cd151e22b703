"""`gate_blocks`: a network that skips residual blocks where an input does not need them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from penjing.adaptive.gated import GatedNetwork, choose_blocks, gated_blocks
from penjing.adaptive.heads import Head
from penjing.errors import InputError
from penjing.figures import GateFigures
from penjing.graph.capture import Example, capture
from penjing.record import Record, attach
from penjing.report import Report, ReportData, environment
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite


@dataclass(frozen=True, slots=True)
class GatedBlocks:
    """A network with gates that have still to be trained.

    Args:
        model: Called like the original.
        report: The blocks that can be skipped, and what share of the work each is.
    """

    model: GatedNetwork
    report: Report


@arguments_checked
def gate_blocks(
    model: nn.Module,
    example_inputs: Example,
    *,
    at: Sequence[str] | str | None = None,
    gate: Head = "linear",
    seed: int = 0,
) -> GatedBlocks:
    """Put gates in front of residual blocks: an input runs a block where its gate lets it in.

    Train the result with `pj.train(made.model, task, callbacks=[GateRate(0.6)])`; in eval mode it
    then runs only the blocks that each sample needs. `pj.measure_gates` says what that saves.

    Args:
        model: A network with residual blocks, pruned or not; left alone. Its batch must be free.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        at: Names of blocks (the layer that makes what a block adds) or of modules that hold them;
            None for all that can be skipped.
        gate: "linear" averages positions and decides; "conv" puts a strided convolution before
            that; or a function `(features, 1) -> module` that gives one logit per sample.
        seed: Of the gates' weights.

    Returns:
        The network, whose gates let nearly everything through at first, and the report.

    Raises:
        InputError: There is no block to skip, or none of that name.
        StrategyError: An unknown gate.
        CaptureError: The network does not export.

    Source:
        Wang et al. 2018, arXiv:1711.09485 (SkipNet); Veit & Belongie 2018, arXiv:1711.11503
        (ConvNet-AIG). Their gates have two layers; one is enough here, and quicker.
    """
    started = time.perf_counter()
    check_finite(model)
    program = capture(model, example_inputs)
    names = [at] if isinstance(at, str) else at
    spans = choose_blocks(gated_blocks(program), names)
    made = GatedNetwork.of(program, spans, gate, seed)
    with suppress(InputError):  # inputs that cannot be described: it is saved with an example then
        attach(made, Record.of(example_inputs))
    data = ReportData(
        kind="gates",
        title=type(model).__name__,
        gates=tuple(GateFigures(site.name, site.macs / made.macs) for site in made.sites),
        choices={
            "gate": gate if isinstance(gate, str) else getattr(gate, "__name__", str(gate)),
            "seed": str(seed),
        },
        environment=environment(),
        notes=("the gates are to be trained: pj.train with callbacks=[GateRate(0.6)]",),
        seconds=time.perf_counter() - started,
    )
    return GatedBlocks(made, Report(data))

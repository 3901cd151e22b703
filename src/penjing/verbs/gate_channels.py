"""`gate_channels`: a network that runs the channels that an input needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from penjing.adaptive.channels import ChannelGatedNetwork, ChannelSite, channel_sites
from penjing.adaptive.heads import Head
from penjing.errors import InputError
from penjing.figures import GateFigures
from penjing.graph.capture import Example
from penjing.graph.network import Network
from penjing.record import Record, attach
from penjing.report import Report, ReportData, environment
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite


@dataclass(frozen=True, slots=True)
class GatedChannels:
    """A network with gates of channels that have still to be trained.

    Args:
        model: Called like the original.
        report: The layers whose channels are chosen, and what share of the work they are.
    """

    model: ChannelGatedNetwork
    report: Report


@arguments_checked
def gate_channels(
    model: nn.Module,
    example_inputs: Example,
    *,
    at: Sequence[str] | str | None = None,
    gate: Head = "linear",
    seed: int = 0,
) -> GatedChannels:
    """Let every input choose the channels that it needs: feature boosting and suppression.

    Train the result with `pj.train(made.model, task, callbacks=[ChannelDensity(0.5)])`; in eval
    mode one sample is then computed with half the channels of each gated layer. `pj.measure_gates`
    says what that saves: rows of weights are gathered while the network runs, which can cost more
    time than the channels that are left out.

    Args:
        model: Any network with channels or neurons inside branches; left alone. Its batch must be
            free.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        at: Names of layers, or of modules that hold them; None for all that can be gated.
        gate: "linear" averages positions and scores; "conv" puts a strided convolution before that;
            or a function `(features, channels) -> module` that gives one score per channel.
        seed: Of the gates' weights.

    Returns:
        The network, all of whose channels run at first, and the report.

    Raises:
        InputError: There is no layer to gate, or none of that name.
        StrategyError: An unknown gate.
        CaptureError: The network does not export.

    Source:
        Gao et al. 2019, arXiv:1810.05331; what differs is told at `ChannelGatedNetwork`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> made = gate_channels(net, torch.ones(1, 4)).model.set_density(0.25)
        >>> made.infer(torch.ones(3, 4)).opened.sum(1)
        tensor([2, 2, 2])
    """
    started = time.perf_counter()
    check_finite(model)
    sites = channel_sites(Network.of(model, example_inputs))
    chosen = _choose(sites, [at] if isinstance(at, str) else at)
    made = ChannelGatedNetwork(model, example_inputs, [s.name for s in chosen], gate, seed=seed)
    with suppress(InputError):  # inputs that cannot be described: it is saved with an example then
        attach(made, Record.of(example_inputs))
    data = ReportData(
        kind="channels",
        title=type(model).__name__,
        gates=tuple(GateFigures(site.name, site.macs / made.macs) for site in made.sites),
        choices={
            "gate": gate if isinstance(gate, str) else getattr(gate, "__name__", str(gate)),
            "seed": str(seed),
        },
        environment=environment(),
        notes=("the gates are to be trained: pj.train with callbacks=[ChannelDensity(0.5)]",),
        seconds=time.perf_counter() - started,
    )
    return GatedChannels(made, Report(data))


def _choose(sites: Sequence[ChannelSite], at: Sequence[str] | None) -> list[ChannelSite]:
    """Those that were asked for.

    Raises:
        InputError: There is none, or none of that name.
    """
    if not sites:
        raise InputError(
            "the network has no layer whose channels a gate can choose from: one that alone makes "
            "them, inside one branch, with the batch free in dimension 0"
        )
    known = ", ".join(site.name for site in sites)
    wanted = [site.name for site in sites] if at is None else list(at)
    for name in wanted:
        if not any(_named(site, name) for site in sites):
            raise InputError(f"there is no layer to gate at {name!r}; there are {known}")
    chosen = [site for site in sites if any(_named(site, name) for name in wanted)]
    if not chosen:
        raise InputError(f"at is empty; the layers are {known}")
    return chosen


def _named(site: ChannelSite, name: str) -> bool:
    return f"{site.name}.".startswith(f"{name}.")

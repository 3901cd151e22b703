"""`slimmable`: one set of weights that runs at several widths."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from penjing.adaptive.slimmable import FULL, SlimmableNetwork
from penjing.counts.macs import Counter
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Example, capture
from penjing.plan import Plan
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.selection import Key
from penjing.record import Record, attach
from penjing.report import CandidateFigures, Report, ReportData, environment
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.prune import prune


@dataclass(frozen=True, slots=True)
class Slimmable:
    """A network of several widths, which have still to be trained.

    Args:
        model: Runs at its full width until `model.set_width(0.5)` says otherwise.
        report: What each width costs.
    """

    model: SlimmableNetwork
    report: Report


@arguments_checked
def slimmable(  # noqa: PLR0913 - the public contract: the choices of `prune`
    model: nn.Module,
    example_inputs: Example,
    *,
    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    calibration: Any = None,
    importance: str | Importance | Prepares | None = None,
    round_to: int | None = None,
    ignored_layers: Iterable[Key] | Key = (),
    scope: Iterable[str] = ("inner", "residual"),
    transform_fn: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Slimmable:
    """Make a network that runs at several widths, each a part of the next wider one.

    Train all of them at once with `pj.train(made.model, task, callbacks=[Sandwich()])`. Then
    `model.set_width(0.5)` changes the width in place, and `model.at_width(0.5)` gives that network
    by itself, cut, for export.

    Args:
        model: Any network that `prune` takes, trained or not; left alone.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        widths: Shares of the units of every group, in (0, 1]; the full width is always there.
        calibration: Batches of inputs: the order of the units then comes from data, and the norms
            of every width begin with statistics of their own.
        importance: Order of the units in every group, as for `prune`.
        round_to: Units that stay are rounded up to a multiple of this.
        ignored_layers: Modules, names, globs or types that keep their width.
        scope: Which groups have widths, as for `prune`.
        transform_fn: Makes a batch of what `calibration` yields.
        seed: Of everything random.

    Returns:
        The network and the report.

    Raises:
        StrategyError: Widths outside (0, 1], or none below 1.
        InputError: The network does not run on `example_inputs`, or has no units to cut.
        CaptureError: The network does not export.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> made = slimmable(net, torch.ones(1, 4), widths=(0.5, 1.0))
        >>> made.model.at_width(0.5)[0].out_features
        4
    """
    started = time.perf_counter()
    shares = sorted({float(width) for width in widths} - {FULL})
    if not shares or not all(0 < share < FULL for share in shares):
        raise StrategyError(f"widths are {tuple(widths)}; give shares in (0, 1], one below 1")
    full = copy.deepcopy(model)
    cuts: dict[float, nn.Module] = {}
    plans: dict[float, Plan] = {}
    for share in shares:
        cut = prune(
            full,
            example_inputs,
            pruning_ratio=1 - share,
            calibration=calibration,
            importance=importance,
            allocation="uniform",
            repair=None if calibration is None else "recalibrate",
            round_to=round_to,
            ignored_layers=ignored_layers,
            max_pruning_ratio=1 - min(shares) / 2,
            scope=scope,
            transform_fn=transform_fn,
            seed=seed,
        )
        plans[share], cuts[share] = cut.plan, cut.model
    if not any(plan.drop for plan in plans.values()):
        raise InputError(f"{type(model).__name__} has no units to cut in this scope")
    made = SlimmableNetwork(full, example_inputs, plans)
    if calibration is not None:
        _take_norms(made, cuts)
    with suppress(InputError):  # inputs that cannot be described: it is saved with an example then
        attach(made, Record.of(example_inputs))
    data = ReportData(
        kind="slimmable",
        title=type(model).__name__,
        candidates=tuple(_row(made, width, cuts.get(width, full)) for width in made.widths),
        choices={"widths": ", ".join(f"{w:g}" for w in made.widths), "seed": str(seed)},
        environment=environment(),
        notes=("the widths are to be trained together: pj.train with callbacks=[Sandwich()]",),
        seconds=time.perf_counter() - started,
    )
    return Slimmable(made, Report(data))


@torch.no_grad()
def _take_norms(made: SlimmableNetwork, cuts: dict[float, nn.Module]) -> None:
    """Begin every width with the statistics that were found for it, in place."""
    for share, own in zip(sorted(cuts), made.own, strict=True):
        held = {**dict(own.named_parameters()), **dict(own.named_buffers())}
        found = {**dict(cuts[share].named_parameters()), **dict(cuts[share].named_buffers())}
        for name, tensor in held.items():
            if name in found and found[name].shape == tensor.shape:
                tensor.copy_(found[name])


def _row(made: SlimmableNetwork, width: float, cut: nn.Module) -> CandidateFigures:
    counter = Counter(capture(cut, made.example_inputs))
    return CandidateFigures(f"width {width:g}", macs=counter.macs(), params=counter.params())

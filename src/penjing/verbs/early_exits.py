"""`early_exits`: a network that can answer before its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from penjing.adaptive.exits import EarlyExitNetwork
from penjing.adaptive.heads import Head
from penjing.adaptive.points import At, choose, exit_points
from penjing.errors import InputError
from penjing.figures import ExitFigures
from penjing.graph.capture import Example, capture
from penjing.record import Record, attach
from penjing.report import Report, ReportData, environment
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.soundness import check_finite


@dataclass(frozen=True, slots=True)
class EarlyExits:
    """A network with exits that have still to be trained.

    Args:
        model: Gives a tuple of outputs, one per exit, its own end last.
        report: Where the exits are, and what share of the work lies before each.
    """

    model: EarlyExitNetwork
    report: Report


@arguments_checked
def early_exits(  # noqa: PLR0913 - a public verb, its options are keywords
    model: nn.Module,
    example_inputs: Example,
    *,
    exits: int | None = None,
    at: Sequence[At] | At | None = None,
    head: Head = "auto",
    freeze_trunk: bool = False,
    seed: int = 0,
) -> EarlyExits:
    """Attach classifiers to inner layers of a network, so that easy inputs can leave early.

    Train the result with `pj.train(made.model, made.model.task(task))`, then choose who leaves
    where with `pj.calibrate_exits`. `made.model.infer(x)` runs the layers behind an exit only for
    the samples that have not left.

    Args:
        model: A classifier, pruned or not; left alone. Its batch must be free.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        exits: Number of early exits, the network's own end not counted: at equal shares of the
            MACs, at ends of stages where one is near.
        at: Instead of `exits`, the places: names of modules, or shares of the MACs in (0, 1).
        head: "linear" averages positions and classifies, "conv" puts a strided convolution before
            that, "deep" several of these, "auto" takes "conv" on maps; or a function
            `(features, outputs) -> module`.
        freeze_trunk: Only the heads are trained; the network's own end stays as it is.
        seed: Of the heads' weights.

    Returns:
        The network with exits, which no sample takes yet, and the report.

    Raises:
        InputError: No place of that name, fewer places than exits, an output that is not one tensor
            of class scores, or a batch that the network holds fixed.
        StrategyError: Both or neither of `exits` and `at`, or an unknown head.
        CaptureError: The network does not export.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
        ...                     nn.Linear(8, 3))
        >>> made = early_exits(net, torch.ones(1, 4), exits=1)
        >>> [tuple(scores.shape) for scores in made.model(torch.ones(5, 4))]
        [(5, 3), (5, 3)]
    """
    started = time.perf_counter()
    check_finite(model)
    program = capture(model, example_inputs)
    wanted = [at] if isinstance(at, (str, float)) else at
    points = choose(exit_points(program), exits, wanted)
    made = EarlyExitNetwork.of(program, points, head, freeze_trunk=freeze_trunk, seed=seed)
    with suppress(InputError):  # inputs that cannot be described: it is saved with an example then
        attach(made, Record.of(example_inputs))
    data = ReportData(
        kind="exits",
        title=type(model).__name__,
        exits=tuple(ExitFigures(point.name, point.share) for point in points),
        choices={
            "head": head if isinstance(head, str) else getattr(head, "__name__", str(head)),
            "trunk": "frozen" if freeze_trunk else "trained along",
            "seed": str(seed),
        },
        environment=environment(),
        notes=("no sample leaves early yet: train the exits, then pj.calibrate_exits",),
        seconds=time.perf_counter() - started,
    )
    return EarlyExits(made, Report(data))

"""`measure_gates`: what gated blocks and channels save, sample by sample."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from penjing.adaptive.channel_files import write_channels
from penjing.adaptive.channels import ChannelGatedNetwork
from penjing.adaptive.gated import GatedNetwork
from penjing.adaptive.gated_files import write_gated
from penjing.errors import InputError
from penjing.exporters import Exported, write_program
from penjing.figures import GateFigures, LatencyFigures
from penjing.graph.capture import Example, capture
from penjing.latency.samples import feeds_of, sampled_figures, singles, spread, time_samples
from penjing.report import Report, ReportData, environment
from penjing.task import Task, evaluating, random_kept
from penjing.task.batches import call
from penjing.task.definition import Split
from penjing.task.randomness import device_of
from penjing.verbs.arguments import arguments_checked

COUNTED = "mean over the samples, of the blocks that they run; gates are left out"
COUNTED_CHANNELS = "of the channels that each sample runs; gates are in it"

Gated = GatedNetwork | ChannelGatedNetwork


@dataclass(frozen=True, slots=True)
class MeasuredGates:
    """What gates save.

    Args:
        opened: Which sample ran which block, bool, `(samples, blocks)`; of gated channels, which
            sample ran which channel.
        report: Metrics, mean MACs and the distribution of latencies, beside those of the same
            network with every block or channel run.
    """

    opened: Tensor
    report: Report


@arguments_checked
def measure_gates(
    model: nn.Module,
    task: Task,
    *,
    split: Split = "val",
    latency: bool = True,
    samples: int = 200,
) -> MeasuredGates:
    """Run a network with gated blocks or channels over a split and time single samples of it.

    Args:
        model: A network made by `gate_blocks` or `gate_channels` and trained; only read.
        task: Its data, and its metrics where it has them.
        split: "val", "test" or "train".
        latency: Write it to ONNX and time it; otherwise only MACs are had.
        samples: Samples that are timed, one by one, in turns with the network that runs
            everything.

    Returns:
        Who ran what, and the report.

    Raises:
        InputError: `model` has no gates, the split gives no batches, or the task calls the model
            itself.
        ExportError: ONNX cannot express the network; `latency=False` does without it.
    """
    started = time.perf_counter()
    network = _check_gated(model)
    _check_called(task)
    opened = _opened(network, task, split)
    plain, gated = _timed(network, task, split, samples) if latency else (None, None)
    macs = network.macs_of(opened)
    channels = isinstance(network, ChannelGatedNetwork)
    counted = COUNTED_CHANNELS if channels else COUNTED
    whole = network.original()
    judged = bool(task.metrics) or task.loss is not None
    data = ReportData(
        kind="channels" if channels else "gates",
        title="gated channels" if channels else "gated blocks",
        before=sampled_figures(whole, network.macs, plain, counted),
        after=sampled_figures(network, round(float(macs.mean())), gated, counted),
        gates=_gates(network, opened),
        metrics_before=task.evaluate(whole, split) if judged else {},
        metrics_after=task.evaluate(network, split) if judged else {},
        higher_is_better=task.directions if judged else {},
        choices={"judged on": split},
        environment=environment(),
        notes=tuple(_notes(network, macs, plain, gated)),
        seconds=time.perf_counter() - started,
    )
    return MeasuredGates(opened, Report(data))


def _check_gated(model: nn.Module) -> Gated:
    """Refuse any other network.

    Raises:
        InputError: It has no gates.
    """
    if not isinstance(model, GatedNetwork | ChannelGatedNetwork):
        raise InputError(
            f"{type(model).__name__} has no gates; pj.gate_blocks puts them in front of its "
            "blocks, pj.gate_channels in front of its layers"
        )
    return model


def _gates(network: Gated, opened: Tensor) -> tuple[GateFigures, ...]:
    """Each gate, and how much it let through."""
    if isinstance(network, ChannelGatedNetwork):
        shares = network.shares(opened)
    else:
        shares = opened.double().mean(0).tolist()
    places = [(site.name, site.macs / network.macs) for site in network.sites]
    return tuple(GateFigures(*place, share) for place, share in zip(places, shares, strict=True))


def _check_called(task: Task) -> None:
    """Refuse a task whose inputs are not those of the network.

    Raises:
        InputError: It calls the model itself.
    """
    if task.forward is not None:
        raise InputError(
            "the task calls the model by a forward of its own, and gates are measured sample by "
            "sample; leave Task(forward=...) away and give inputs as the network takes them"
        )


@torch.inference_mode()
def _opened(network: Gated, task: Task, split: Split) -> Tensor:
    """Who runs what."""
    data, home = task.data(split), device_of(network)
    rows: list[Tensor] = []
    with evaluating(network), random_kept(data):
        for batch in task.batches(split):
            rows.append(call(network.infer, batch.to(home).inputs).opened.cpu())
    if not rows:
        raise InputError(f"{split} gave no batches; is the loader empty?")
    return torch.cat(rows)


def _timed(
    network: Gated, task: Task, split: Split, samples: int
) -> tuple[LatencyFigures, LatencyFigures]:
    """The network with every block run, and with gates, on the same samples one at a time."""
    inputs = list(islice(singles(task, split), samples))
    with tempfile.TemporaryDirectory() as folder:
        whole, gated = Path(folder) / "whole.onnx", Path(folder) / "gated.onnx"
        written = (
            write_program(capture(network.original(), inputs[0]), whole),
            _write(network, inputs[0], gated),
        )
        feeds = [[feeds_of(given, one.inputs) for given in inputs] for one in written]
        rows = time_samples([whole, gated], feeds)
    return spread(rows[:, 0]), spread(rows[:, 1])


def _write(network: Gated, example: Example, path: Path) -> Exported:
    if isinstance(network, ChannelGatedNetwork):
        return write_channels(network, example, path)
    return write_gated(network, example, path)


def _notes(
    network: Gated,
    macs: Tensor,
    plain: LatencyFigures | None,
    gated: LatencyFigures | None,
) -> list[str]:
    low, high = (float(macs.quantile(share)) / network.macs for share in (0.05, 0.95))
    notes = [
        f"MACs of a sample are {low:.0%} to {high:.0%} of the network's, from the 5th to the 95th "
        "percentile",
    ]
    if plain is not None and gated is not None:
        notes.append(
            f"one sample at a time, over {gated.n} of them: mean {gated.mean_ms:.3g} ms and 95th "
            f"percentile {gated.p95_ms:.3g} ms, against {plain.mean_ms:.3g} and "
            f"{plain.p95_ms:.3g} ms with everything run"
        )
        if (gated.mean_ms or 0) > (plain.mean_ms or 0):
            notes.append(
                "it is slower than with everything run: the gates cost more than they save"
            )
    return notes

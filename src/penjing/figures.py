"""Figures: what was measured and how, as plain data that a report can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One compute layer of a network.

    Args:
        name: Qualified name of the layer (its weight's name without `.weight`), or the op's name
            when it has no weight.
        op: ATen name, such as "conv2d".
        params: Elements of the parameters it reads.
        nonzero: Of those, how many are not zero.
        macs: Multiply-accumulates at batch one, without bias.
        output_shape: Shape of its output at batch one.
    """

    name: str
    op: str
    params: int
    nonzero: int
    macs: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Latency of one network on one runtime.

    Args:
        runtime: Name and version, such as "onnxruntime 1.31.1".
        threads: Intra-op threads.
        batch: Samples per call.
        n: Timed calls after the warm-up.
        median_ms: Median of the timed calls, milliseconds.
        min_ms: Fastest call.
        p95_ms: 95th percentile.
        ratio: Median of the pairwise ratios original / this network when both were timed
            alternating, else None.
        mean_ms: Mean over samples, where the latency depends on the sample; else None.
        original: Figures of the original in the same rounds, where both were timed alternating;
            `ratio` and these milliseconds belong together, those of another run do not.
    """

    runtime: str
    threads: int
    batch: int
    n: int
    median_ms: float
    min_ms: float
    p95_ms: float
    ratio: float | None = None
    mean_ms: float | None = None
    original: LatencyFigures | None = None


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """One exit of a network that can answer before its end. A figure that was not had is None.

    Args:
        name: Module behind which it is, or "end".
        macs_share: MACs of the network up to there, as a share of all.
        quality: First metric if every sample left here, on validation.
        threshold: What it takes to leave here; None where no sample does, and at the end.
        taken: Share of the samples that leave here.
        cost: What such a sample costs: milliseconds, or MACs, heads included.
    """

    name: str
    macs_share: float
    quality: float | None = None
    threshold: float | None = None
    taken: float | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class GateFigures:
    """One block that inputs may skip, or one layer whose channels they choose; None: not had.

    Args:
        name: The layer that makes what the block adds, or the channels.
        macs_share: MACs of the block, or of making and reading the channels, as a share of all of
            the network's.
        taken: Share of the samples that run it; of channels, mean share of those that have a say.
    """

    name: str
    macs_share: float
    taken: float | None = None


UNITS: Mapping[str, str] = {
    "params": "",
    "nonzero": "",
    "macs": "",
    "size_bytes": "B",
    "ram_bytes": "B",
    "latency_ms": "ms",
    "energy_mj": "mJ",
}
"""Figure of a network -> its unit; empty where it is a count."""


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Size and cost of one network. A figure that was not had is None.

    Args:
        params: Elements of all parameters, tied ones once.
        nonzero: Of those, how many are not zero.
        macs: Multiply-accumulates of convolutions and matrix products at batch one, without bias.
        size_bytes: Bytes of the exported file on disk.
        ram_bytes: Peak of the live activations at batch one, inputs and outputs included, weights
            not.
        latency_ms: Median latency in milliseconds.
        energy_mj: Energy per call in millijoules.
        how: Figure name -> how it was had, one sentence each.
        layers: Compute layers in the order of the network.
        latency: The whole latency measurement behind `latency_ms`.
    """

    params: int
    nonzero: int
    macs: int
    size_bytes: int | None = None
    ram_bytes: int | None = None
    latency_ms: float | None = None
    energy_mj: float | None = None
    how: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerFigures, ...] = ()
    latency: LatencyFigures | None = None

    def __str__(self) -> str:
        """One line per figure that was had, with how it was had.

        Example:
            >>> print(Figures(1000, 400, 20_000, how={"macs": "counted"}))
            params            1,000
            nonzero             400
            macs             20,000  counted
        """
        known = {name: getattr(self, name) for name in UNITS}
        rows = [(name, value, self.how.get(name, "")) for name, value in known.items()]
        return "\n".join(
            f"{name:<12}{'-' if value is None else _shown(value):>12} {UNITS[name]} {how}".rstrip()
            for name, value, how in rows
            if value is not None or how
        )

    def in_turn_with(self, result: Figures) -> Figures:
        """The same of an original, with its latency in the rounds in which `result` was timed.

        Args:
            result: Figures of what was made of it; where it was timed alone, nothing changes.
        """
        timed = None if result.latency is None else result.latency.original
        if timed is None:
            return self
        return replace(self, latency_ms=timed.median_ms, latency=timed)


@dataclass(frozen=True, slots=True)
class Proof:
    """Comparison of a cut network with its masked original.

    Args:
        error: Largest relative difference of any compared node, in float64, on randomised weights
            and random inputs.
        moved: How far masking itself moved the outputs, relative: a proof that moved nothing proves
            nothing.
        real_error: Largest relative difference of any output between the module and the cut graph,
            with the real weights on the example inputs, in the network's own dtype.
        nodes: Graph nodes compared one by one.
        form: "module" when the result is the user's own class, "graph" when it is a graph module.
        reason: Why the user's own class could not express the cut; empty for "module".
    """

    error: float
    moved: float
    real_error: float
    nodes: int
    form: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What happened to one group.

    Args:
        name: Name of the group.
        units: Units before.
        kept: Units after.
        error: Estimated relative output error of the cut that allocation reckoned with; None when
            not known.
    """

    name: str
    units: int
    kept: int
    error: float | None = None


@dataclass(frozen=True, slots=True)
class RepairFigures:
    """What repair did to one layer.

    Where a clipping activation (ReLU, ReLU6) follows a repaired layer, errors are measured behind
    it, with the last fit, which has seen the held-out samples too.

    Args:
        layer: Qualified name of the layer.
        error_before: Relative squared error of its output against the dense network's before the
            repair, on held-out samples.
        error_after: The same after the repair.
        damping: Ridge strength chosen, as a share of the mean diagonal of the Gram matrix.
        reason: Why the layer was left alone; empty when it was repaired.
        note: What else is to be said of it.
    """

    layer: str
    error_before: float | None
    error_after: float | None
    damping: float | None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class LayerLatency:
    """How long one layer takes within its network, on one runtime.

    Args:
        layer: Qualified name, or what the row sums up.
        floats_ms: Median in floats, milliseconds.
        integers_ms: Median in integers.
        op: Op of the runtime that computes it in the integer network.
    """

    layer: str
    floats_ms: float
    integers_ms: float
    op: str = ""


@dataclass(frozen=True, slots=True)
class SensitivityFigures:
    """What the outputs of a network lose through one layer in integers.

    Args:
        layer: Qualified name of the layer, or of the node where it is no module.
        alone: Relative squared error of the outputs when this layer alone is in integers.
        without: The same when all of the network is, except this layer.
        kept: What it was kept in, to lose less; empty when it was quantized as the rest.
    """

    layer: str
    alone: float
    without: float
    kept: str = ""


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """One epoch of training.

    Args:
        epoch: Counted from 1.
        loss: Mean training loss.
        metrics: Metric name -> value on the validation split.
        lr: Learning rate at the end of the epoch.
        seconds: Wall-clock time of the epoch.
    """

    epoch: int
    loss: float
    metrics: Mapping[str, float]
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SparsityFigures:
    """What became zero in one layer.

    Args:
        layer: Qualified name.
        weights: Elements of its weight.
        nonzero: Of those, how many are not zero in the result.
        pattern: Shape of its zeros; empty where it stays dense.
        error: Estimated relative output error that allocation reckoned with; None when not known.
        reason: Why it stays dense; empty where it became sparse.
    """

    layer: str
    weights: int
    nonzero: int
    pattern: str = ""
    error: float | None = None
    reason: str = ""

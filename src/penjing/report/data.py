"""What a report holds: plain, versioned data, JSON both ways; nothing else is ever shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from penjing.decode import Malformed, decode
from penjing.errors import CheckpointError, InputError
from penjing.figures import (
    EpochFigures,
    ExitFigures,
    Figures,
    GateFigures,
    GroupFigures,
    LayerLatency,
    Proof,
    RepairFigures,
    SensitivityFigures,
    SparsityFigures,
)
from penjing.plan import Group, Groups, Lock, Reach
from penjing.task.recovery import Recovered

REPORT_VERSION = 1

Kind = Literal[
    "prune",
    "sparsify",
    "quantize",
    "prepare",
    "finetune",
    "distill",
    "train",
    "compress",
    "measure",
    "groups",
    "exits",
    "gates",
    "channels",
    "slimmable",
    "tokens",
]


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class of a classification task, before and after.

    Args:
        name: Name of the class.
        count: Samples of that class.
        before: Share of them that the original network gets right, in [0, 1]; None without labels.
        after: The same for the result.
        agreement: Share of them on which both networks answer alike.
    """

    name: str
    count: int
    before: float | None = None
    after: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateFigures:
    """One network that was tried. A figure that was not had is None.

    Args:
        name: Unique in its report.
        macs: Multiply-accumulates at batch one.
        params: Elements of all parameters.
        size_bytes: Bytes of the exported file.
        latency_ms: Median latency in milliseconds.
        metric: The first metric of the task; without labels the agreement with the original.
        drop: How much worse than the original by that metric, absolute; negative when it is better.
        kept: Whether this one was chosen.
        meets: Whether it meets every constraint; None when there was none or it is not known.
        seconds: Wall-clock time it took.
        note: What else is to be said, such as why it was given up.
        speedup: Latency of the original over its own, both timed alternating.
    """

    name: str
    macs: int | None = None
    params: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    metric: float | None = None
    drop: float | None = None
    kept: bool = False
    meets: bool | None = None
    seconds: float = 0.0
    note: str = ""
    speedup: float | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the values of one tensor are spread, before and after.

    Args:
        tensor: Qualified name.
        edges: Ascending borders of the bins, one more than bins.
        before: Values per bin in the original network.
        after: Values per bin in the result.

    Raises:
        InputError: Bins and borders do not fit together.
    """

    tensor: str
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __post_init__(self) -> None:
        bins = len(self.edges) - 1
        if bins < 1 or len(self.before) != bins or len(self.after) != bins:
            raise InputError(
                f"histogram of {self.tensor!r}: {len(self.edges)} edges need {max(bins, 1)} bins, "
                f"got {len(self.before)} before and {len(self.after)} after"
            )

    @classmethod
    def of(cls, tensor: str, before: Tensor, after: Tensor, *, bins: int = 41) -> Self:
        """Count the values of two tensors in common bins around zero.

        Args:
            tensor: Qualified name to show.
            before: Values in the original network, any shape.
            after: Values in the result, any shape; those out of range fall into the outer bins.
            bins: Number of bins; an odd number gives zero a bin of its own.

        Returns:
            Counts in equal bins over plus and minus the largest finite magnitude of `before`.

        Example:
            >>> Histogram.of("w", torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0]), bins=3).after
            (0, 0, 1)
        """
        spread = before.detach().flatten().double().cpu()
        spread = spread[spread.isfinite()]
        reach = float(spread.abs().max()) if spread.numel() else 1.0
        reach = reach or 1.0
        edges = torch.linspace(-reach, reach, bins + 1, dtype=torch.float64)
        return cls(tensor, tuple(edges.tolist()), _count(before, edges), _count(after, edges))


def _count(values: Tensor, edges: Tensor) -> tuple[int, ...]:
    """Finite values per bin; the outer bins are open."""
    flat = values.detach().flatten().double().cpu()
    places = torch.bucketize(flat[flat.isfinite()], edges[1:-1], right=True)
    return tuple(torch.bincount(places, minlength=len(edges) - 1).tolist())


@dataclass(frozen=True, slots=True)
class Line:
    """One group in the picture of the coupling.

    Args:
        group: Name of the group.
        units: Its units.
        scope: "inner" or "residual".
        rows: Numbers of the layers whose first dimension it cuts.
        columns: Numbers of the layers of which it cuts another dimension.
        exact: False where a norm over the units makes cutting differ from zero-masking.
    """

    group: str
    units: int
    scope: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Coupling:
    """Which groups cut which layers, and how much of the network they reach.

    Args:
        layers: Every weight in the order of the network.
        lines: Every group.
        params: Parameters of the network.
        reachable: Share of them that some group cuts.
        macs: Multiply-accumulates of the network at batch one.
        reachable_macs: Share of them that some group removes.

    Example:
        >>> Coupling.of(Groups((), (), "00", 0, 0.0)).lines
        ()
    """

    layers: tuple[Reach, ...]
    lines: tuple[Line, ...]
    params: int
    reachable: float
    macs: int
    reachable_macs: float

    @classmethod
    def of(cls, groups: Groups) -> Self:
        """What the picture needs of the groups that `find_groups` returns."""
        place = {layer.tensor: number for number, layer in enumerate(groups.layers)}
        return cls(
            groups.layers,
            tuple(_line(group, place) for group in groups),
            groups.params,
            groups.reachable,
            groups.macs,
            groups.reachable_macs,
        )


def _line(group: Group, place: Mapping[str, int]) -> Line:
    cuts = [(place[part.tensor], part.dim) for part in group.slices if part.tensor in place]
    rows = tuple(sorted({layer for layer, dim in cuts if dim == 0}))
    columns = tuple(sorted({layer for layer, dim in cuts if dim != 0}))
    return Line(group.name, group.units, group.scope, rows, columns, group.exact)


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything one report says. A verb fills what it has; what is empty is left out of the page.

    Args:
        kind: The verb that made it.
        title: One line that names the network and the task.
        before: Figures of the original network.
        after: Figures of the result.
        metrics_before: Metric name -> value of the original on the held-out data.
        metrics_after: The same for the result; decisions were made by the first metric.
        higher_is_better: Metric name -> its direction, where known.
        agreement: Share of held-out samples on which both networks answer alike, in [0, 1].
        per_class: One row per class.
        candidates: Every network that was tried.
        groups: Every prunable group in the order of the network.
        sparsity: Every layer that could be sparse, in the order of the network.
        repair: Every layer that repair looked at.
        sensitivity: What the outputs lose through each layer in integers.
        layer_latency: How long each layer takes in floats and in integers.
        exits: Every exit of a network that can answer early, its own end last.
        gates: Every block that is skipped where an input does not need it, or layer whose channels
            each input chooses.
        epochs: Every epoch of training.
        recovery: Figures of every step of a chain beside those of the original, by split.
        histograms: Weights before and after.
        locked: What was left alone, and why.
        coupling: Which groups cut which layers, and how much is within reach.
        proof: Comparison of the cut network with its masked original.
        choices: Settings as they were resolved, such as importance, allocation, repair and seed.
        constraints: Upper bounds as they were given, absolute or in percent of the original.
        environment: Versions and machine, see `environment`.
        command: What reproduces the result.
        seconds: Wall-clock time of the whole.
        notes: What else a reader must know, one sentence each.
        version: Version of this data.

    Example:
        >>> data = ReportData("measure", "a small net", metrics_before={"accuracy": 0.9})
        >>> ReportData.from_json(data.to_json()) == data
        True
    """

    kind: Kind
    title: str
    before: Figures | None = None
    after: Figures | None = None
    metrics_before: Mapping[str, float] = field(default_factory=dict)
    metrics_after: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    agreement: float | None = None
    per_class: tuple[ClassFigures, ...] = ()
    candidates: tuple[CandidateFigures, ...] = ()
    groups: tuple[GroupFigures, ...] = ()
    sparsity: tuple[SparsityFigures, ...] = ()
    repair: tuple[RepairFigures, ...] = ()
    sensitivity: tuple[SensitivityFigures, ...] = ()
    layer_latency: tuple[LayerLatency, ...] = ()
    exits: tuple[ExitFigures, ...] = ()
    gates: tuple[GateFigures, ...] = ()
    epochs: tuple[EpochFigures, ...] = ()
    recovery: tuple[Recovered, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    locked: tuple[Lock, ...] = ()
    coupling: Coupling | None = None
    proof: Proof | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    version: int = REPORT_VERSION

    def to_json(self) -> str:
        """The data as JSON text; a float that is not finite becomes "nan", "inf" or "-inf"."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: Content of a `report.json`.

        Returns:
            Data equal to what was written.

        Raises:
            CheckpointError: Not JSON, no report, a field of a wrong type, or of a newer version.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"this report is damaged, it is not JSON: {error}; make it again with `Report.save`"
            ) from error
        _check_version(content)
        try:
            return decode(cls, content, "report")
        except (Malformed, InputError) as error:
            raise CheckpointError(f"this report is damaged: {error}") from error


def _check_version(content: object) -> None:
    """Refuse what is no report, or one from the future."""
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(
            f"this is not a report: no version number (got {version!r}); was another file meant?"
        )
    if version > REPORT_VERSION:
        raise CheckpointError(
            f"the report has version {version}, this penjing reads up to {REPORT_VERSION}; "
            "upgrade penjing"
        )


def _finite(value: Any) -> Any:
    """The same structure with names in place of floats that JSON does not have."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value

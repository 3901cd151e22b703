"""Folding: units that go are merged into the units that stay most like them.

What a dropped unit gave its readers is given by its partner instead: the readers' columns of the
one are added to those of the other, times the factor that fits best on unlabelled samples.

Suffixes: C = positions of a layer's input channels, A = units of a group, M = positions of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import StrategyError
from penjing.figures import RepairFigures
from penjing.graph.network import Cut
from penjing.graph.norms import Norm
from penjing.plan import Group
from penjing.pruning.standing import standing
from penjing.recovery.recalibrate import recalibrate
from penjing.recovery.zeros import KEPT
from penjing.statistics.grams import Layer, layers
from penjing.statistics.outlets import Outlet, outlets
from penjing.statistics.stream import Stream
from penjing.task import Calibration

TINY = 1e-30  # keeps quotients finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Merge every unit that goes into one that stays, then measure the norms anew.

    The partner is the unit of the same group whose activations correlate most with those of the
    unit that goes, of either sign; the readers' columns are added with the slope of the regression
    of the one on the other, and what is left of the mean goes into the bias, or into the running
    mean of the norm behind. Where there is neither, activations are compared about zero.

    Args:
        recalibrate: Measure the running statistics of the norms of the folded network.
        memory_mb: Bound on the activations held, in MiB.
        largest: Input channels of a layer beyond which it is not folded.

    Raises:
        StrategyError: A setting is outside its range.

    Source:
        Folding of correlated units into their readers: Srinivas and Babu 2015, arXiv:1507.06149
        (there equal weights, without data); Chen et al. 2025, arXiv:2502.10216 (k-means of units,
        with the norms corrected afterwards). Here by activations, with the kept units as centres.
    """

    recalibrate: bool = True
    memory_mb: float = 2048.0
    largest: int = 4700

    def __post_init__(self) -> None:
        if not self.memory_mb > 0 or self.largest < 1:
            raise StrategyError(
                f"fold: memory_mb is {self.memory_mb} and largest is {self.largest}; both are "
                "above 0"
            )


@torch.no_grad()
def fold(
    cut: Cut, samples: Calibration, settings: Fold
) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for the readers of what was cut.

    Args:
        cut: What goes.
        samples: Unlabelled samples.
        settings: How.

    Returns:
        Values by qualified name in the shapes of the cut network, and a row per reader.
    """
    program = cut.dense
    known, _ = layers(program)
    outlet_of = outlets(program, known)
    weights = [layer.weight for layer in known.values()]
    readers = {
        name: pieces
        for name, layer in known.items()
        if (pieces := _pieces(cut, layer)) and weights.count(layer.weight) == 1
    }
    stream = Stream([program], samples, settings.memory_mb)
    found: dict[str, Tensor] = {}
    rows = []
    for name in (n for n in program.nodes if n in readers):
        layer, label = known[name], known[name].weight.removesuffix(".weight")
        if layer.groups > 1 or program.tensors[layer.weight].shape[layer.input_dim] > (
            settings.largest
        ):
            rows.append(RepairFigures(label, None, None, None, "grouped, or too wide to fold"))
            continue
        chunks = stream.advance(name)
        moments = Moments.of((stream.value(c, layer.source) for c in chunks), layer)
        made = _merged(cut, layer, outlet_of[name], moments, readers[name])
        found.update({fqn: _sliced(cut, fqn, value) for fqn, value in made.items()})
        merged = sum(len(piece.gone) for piece in readers[name])
        note = f"{merged} units that went were folded into others"
        sparse = standing(program.tensors[layer.weight]) is not None
        note += f"; {KEPT}" if sparse else ""
        rows.append(RepairFigures(label, None, None, None, note=note))
    if settings.recalibrate:
        found.update(recalibrate(cut.program, found, samples, settings.memory_mb))
    return found, rows


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions of a group's units among the input channels of a reader.

    Args:
        positions: `(A, M)`.
        gone: Units that go.
        kept: Units that stay.
    """

    positions: Tensor
    gone: Tensor
    kept: Tensor

    @classmethod
    def of(cls, group: Group, positions: Sequence[Sequence[int]], gone: Iterable[int]) -> Piece:
        """The positions of one group."""
        leaving = sorted(gone)
        staying = [unit for unit in range(group.units) if unit not in set(leaving)]
        return cls(torch.tensor(positions), torch.tensor(leaving), torch.tensor(staying))


@dataclass(frozen=True, slots=True)
class Moments:
    """Products and means of a layer's input channels over samples and places, float64.

    Args:
        products: Mean products, `(C, C)`.
        means: `(C,)`.
    """

    products: Tensor
    means: Tensor

    @classmethod
    def of(cls, values: Iterable[Tensor], layer: Layer) -> Moments:
        """Sum over all chunks."""
        count, products, means = 0, torch.zeros(()), torch.zeros(())
        for value in values:
            rows = value.movedim(layer.channel_dim, -1).flatten(0, -2).double()
            products = products + rows.T @ rows
            means, count = means + rows.sum(0), count + len(rows)
        return cls(products / count, means / count)

    def between(self, piece: Piece, centred: bool) -> Tensor:
        """Products of units, summed over their positions, `(A, A)`."""
        about = torch.outer(self.means, self.means) if centred else 0.0
        table = self.products - about
        parts = [table[at][:, at] for at in piece.positions.T]
        return torch.stack(parts).sum(0)


def partners(products_AA: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
    """For every unit that goes the unit that it is merged into, and the factor.

    Args:
        products_AA: Products of units.
        piece: Which go.

    Returns:
        Units that stay `(gone,)` int64, and slopes `(gone,)` float64.
    """
    across = products_AA[piece.gone][:, piece.kept]
    energy = products_AA.diagonal()[piece.kept].clamp_min(0)
    explained = across.square() / energy.clamp_min(TINY)
    best = explained.argmax(1)
    slope = across.gather(1, best[:, None])[:, 0] / energy[best].clamp_min(TINY)
    return piece.kept[best], torch.where(energy[best] > TINY, slope, 0.0)


def _pieces(cut: Cut, layer: Layer) -> list[Piece]:
    """What a layer reads of groups that lose units."""
    found = []
    for group in cut.network.groups:
        gone = cut.plan.drop.get(group.name, ())
        for part in group.slices if gone else ():
            if part.tensor == layer.weight and part.dim == layer.input_dim:
                positions = [part.positions(unit) for unit in range(group.units)]
                found.append(Piece.of(group, positions, gone))
    return found


def _merged(
    cut: Cut, layer: Layer, out: Outlet, moments: Moments, pieces: Sequence[Piece]
) -> dict[str, Tensor]:
    """Tensors of a reader, in the shapes of the whole network."""
    tensors = cut.dense.tensors
    norm = out.norm
    weight = tensors[layer.weight].double().movedim(layer.input_dim, 0).clone()
    free = standing(weight)
    carries = layer.bias is not None or norm is not None
    shift = weight.new_zeros(weight.shape[1])
    before = weight.clone()
    for piece in pieces:
        into, slope = partners(moments.between(piece, carries), piece)
        for unit, partner, factor in zip(piece.gone, into, slope, strict=True):
            gone, kept = piece.positions[unit], piece.positions[partner]
            moved = factor * before[gone]
            moved = moved if free is None else moved * free[kept]
            weight.index_add_(0, kept, moved)
            shift += moments.means[gone] @ _reach(layer, before[gone])
            shift -= moments.means[kept] @ _reach(layer, moved)
    new = {layer.weight: weight.movedim(0, layer.input_dim)}
    if carries:
        new.update(_shifted(layer, norm, tensors, shift))
    return new


def _reach(layer: Layer, weight: Tensor) -> Tensor:
    """What a constant input adds to one output away from the border, `(C, outputs)`.

    A transposed convolution with strides reaches an output with a part of its kernel only; outputs
    share the mean of these parts.
    """
    return weight.flatten(2).sum(2) / math.prod(layer.upsample) if layer.kernel else weight


def _shifted(
    layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor], shift: Tensor
) -> dict[str, Tensor]:
    """The bias of a layer, or the mean of the norm behind it, that adds a shift."""
    if layer.bias is not None:
        return {layer.bias: tensors[layer.bias].double() + shift}
    assert norm is not None  # the caller has looked
    return {norm.mean: tensors[norm.mean].double() - shift}


def _sliced(cut: Cut, fqn: str, value: Tensor) -> Tensor:
    """What is left of a tensor of the whole network."""
    node = next(name for name, stored in cut.dense.stored.items() if stored == fqn)
    for dim in range(value.dim()):
        kept = cut.keep(node, dim)
        value = value if kept is None else value.index_select(dim, kept)
    return value.to(cut.dense.tensors[fqn].dtype)

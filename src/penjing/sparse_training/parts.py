"""What masks are chosen for: the blocks of one weight, or the units of one group.

Suffixes: U = units of a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

from penjing.plan import Group, Groups, Plan, Slice
from penjing.pruning.importance.sums import by_unit
from penjing.pruning.sparsity import Scored
from penjing.pruning.weights.protocol import Target

UNIT = "unit"
"""The pattern whose blocks are the units of groups."""

MOST_OF_A_LAYER = 0.995
MOST_OF_A_GROUP = 0.9  # the floor of `penjing.prune`


class Part(Protocol):
    """Something that an allocation gives a share of zeros."""

    @property
    def name(self) -> str:
        """Unique in the network."""
        ...

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the parameters that its masks lie on."""
        ...

    @property
    def most(self) -> float:
        """Largest share that may go."""
        ...

    @property
    def size(self) -> int:
        """Number of weights."""
        ...

    @property
    def step(self) -> float:
        """Share that goes with one unit or block at a time, where that matters."""
        ...

    def scored(self, scores: Mapping[str, Tensor]) -> Scored:
        """As an allocation sees it, from scores of single elements by name."""
        ...

    def masks(self, layer: Scored, share: float) -> dict[str, Tensor]:
        """Masks by name of the weight, the lowest scores dropped."""
        ...

    def gone(self, kept: Mapping[str, Tensor]) -> float:
        """Share that masks drop, given them by name."""
        ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of one weight, as a pattern makes them.

    Args:
        target: The weight.
    """

    target: Target
    most: float = MOST_OF_A_LAYER

    @property
    def name(self) -> str:
        """That of the weight."""
        return self.target.weight

    @property
    def weights(self) -> tuple[str, ...]:
        """The weight alone."""
        return (self.target.weight,)

    @property
    def size(self) -> int:
        """Elements of the weight."""
        return int(self.target.tiling.sizes.sum())

    @property
    def step(self) -> float:
        """Blocks are small."""
        return 0.0

    def scored(self, scores: Mapping[str, Tensor]) -> Scored:
        """Every block with the mean of its own scores."""
        tiling = self.target.tiling
        blocks = tiling.blocks(self.target.matrix(scores[self.name])).sum((1, 3))
        return Scored(
            name=self.name,
            scores=blocks / tiling.sizes.clamp_min(1),
            sizes=tiling.sizes,
            shape=(tiling.groups * tiling.outputs, tiling.channels, tiling.taps),
        )

    def masks(self, layer: Scored, share: float) -> dict[str, Tensor]:
        """The mask of the weight."""
        mask = self.target.tiling.keep(layer.scores, share)
        return {self.name: self.target.tensor(mask.double()) > 0}

    def gone(self, kept: Mapping[str, Tensor]) -> float:
        """Share of zeros in the mask."""
        mask = kept[self.name]
        return 1 - int(mask.count_nonzero()) / mask.numel()


@dataclass(frozen=True, slots=True)
class Units:
    """Units of one group: a unit goes with every slice of every parameter that it owns.

    Args:
        group: The group, without the directions of weight norms.
        shapes: Shapes of the parameters that it cuts, by name.
    """

    group: Group
    shapes: Mapping[str, torch.Size]
    most: float = MOST_OF_A_GROUP

    @classmethod
    def of(cls, model: nn.Module, group: Group) -> Units:
        """A group and the parameters of a network that it cuts."""
        known = dict(model.named_parameters(remove_duplicate=False))
        pieces = without_directions(model, group.slices)
        names = dict.fromkeys(piece.tensor for piece in pieces if piece.tensor in known)
        shapes = {name: known[name].shape for name in names}
        return cls(replace(group, slices=pieces), shapes)

    @property
    def name(self) -> str:
        """That of the group."""
        return self.group.name

    @property
    def weights(self) -> tuple[str, ...]:
        """Every parameter that the group cuts."""
        return tuple(self.shapes)

    @property
    def size(self) -> int:
        """Elements of all its slices."""
        return sum(self.shapes[piece.tensor].numel() for piece in self._slices())

    @property
    def step(self) -> float:
        """One unit."""
        return 1 / self.group.units

    def scored(self, scores: Mapping[str, Tensor]) -> Scored:
        """Every unit with the sum of its own scores, over the mean of the group's units."""
        total_U = self._sums(scores)
        mean = total_U.mean().abs().clamp_min(torch.finfo(torch.float64).tiny)
        each = self.size / self.group.units
        return Scored(
            name=self.name,
            scores=total_U / mean,
            sizes=torch.full_like(total_U, each),
            shape=(self.group.units, math.ceil(each), 1),
        )

    def masks(self, layer: Scored, share: float) -> dict[str, Tensor]:
        """One mask for every parameter."""
        units = self.group.units
        count = min(round(share * units), units - self.group.least)
        dropped = layer.scores.argsort(stable=True)[:count].tolist()
        found = {name: torch.ones(shape, dtype=torch.bool) for name, shape in self.shapes.items()}
        for piece in self._slices():
            positions = [p for unit in dropped for p in piece.positions(unit)]
            found[piece.tensor].index_fill_(piece.dim, torch.tensor(positions).long(), False)
        return found

    def gone(self, kept: Mapping[str, Tensor]) -> float:
        """Share of units of which nothing is left."""
        return len(self.dropped(kept)) / self.group.units

    def dropped(self, kept: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Units of which nothing is left, ascending.

        Args:
            kept: Masks, or weights themselves, by name.
        """
        alive_U = self._sums({name: kept[name] != 0 for name in self.shapes})
        return tuple((alive_U == 0).nonzero().flatten().tolist())

    def _slices(self) -> list[Slice]:
        return [piece for piece in self.group.slices if piece.tensor in self.shapes]

    def _sums(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum over all that a unit owns, `(units,)` float64 on the CPU."""
        sums_U = torch.zeros(self.group.units, dtype=torch.float64)
        for piece in self._slices():
            value = values[piece.tensor].detach().double().cpu().movedim(piece.dim, 0)
            sums_U += by_unit(value.reshape(len(value), -1).sum(1), piece, self.group.units)
        return sums_U


def without_directions(model: nn.Module, slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Slices without those of vectors that a weight norm divides by their length.

    A vector of zeros has no direction and would become NaN; its length `g` is zero where a unit is,
    which is enough.

    Args:
        model: Read, never changed.
        slices: Of one group.
    """
    found: set[tuple[str, int]] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ParametrizationList):
            norms = [made for made in module if isinstance(made, _WeightNorm)]
            found |= {(f"{name}.original1", norm.dim) for norm in norms}
        old = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
        found |= {(f"{name}.{hook.name}_v".lstrip("."), hook.dim) for hook in old}
    return tuple(piece for piece in slices if (piece.tensor, piece.dim) not in found)


def vanished(model: nn.Module, groups: Groups, /) -> Plan:
    """The plan that cuts all units whose weights are zero.

    Nothing is lost with them where weights read them; a sum over units counts what an activation
    makes of zero, such as `sigmoid(0)`. `Sparsifier` leaves such groups alone.

    Args:
        model: A trained network; read, never changed.
        groups: Of `penjing.find_groups` on it.

    Returns:
        What `penjing.prune(model, example_inputs, plan=...)` takes. Units that a norm runs over
        stay, since its statistics count their zeros.

    Example:
        >>> import penjing as pj
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> for part in (net[0].weight, net[0].bias, net[2].weight.T):
        ...     _ = part.data[:3].zero_()
        >>> vanished(net, pj.find_groups(net, torch.ones(1, 4))).drop
        {'0': (0, 1, 2)}
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    drop = {}
    for group in groups:
        units = Units.of(model, group)
        if units.shapes and group.exact:
            drop[group.name] = units.dropped(weights)[: group.units - group.least]
    every = {group.name: group.units for group in groups}
    return Plan({name: gone for name, gone in drop.items() if gone}, every, groups.fingerprint)

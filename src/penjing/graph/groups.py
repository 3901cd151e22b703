"""Groups: atoms with the same set of places are the interchangeable units of one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Dim, Reason
from penjing.graph.call import op_name
from penjing.graph.demands import least_units
from penjing.graph.grids import Tile
from penjing.graph.kinds import Kinds
from penjing.plan import Group, Groups, Lock, Slice, fingerprint

OUTPUT_DIM = {"linear": 0, "conv1d": 0, "conv2d": 0, "conv3d": 0, "embedding": 1, "_weight_norm": 0}
OUTPUT_DIM |= {
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "matmul": 1,
    "mm": 1,
    "addmm": 1,
}


class Place(NamedTuple):
    """One factor of one dimension of one stored tensor; a tuple, since it is hashed often."""

    tensor: str
    dim: int
    factor: int


@dataclass(frozen=True, slots=True)
class _Owned:
    """A place where free atoms lie.

    Args:
        place: The place.
        number: Of the dimension, in the order of the stored tensors.
        positions: Those with a free atom.
        atoms: Their atoms.
    """

    place: Place
    number: int
    positions: NDArray[np.int64]
    atoms: NDArray[np.int64]


@dataclass(slots=True)
class _Set:
    """Interchangeable atoms.

    Args:
        atoms: In the order of their first positions.
        first: Number of the first dimension that they own, factor and first position in it.
        slices: What they own.
    """

    atoms: NDArray[np.int64]
    first: tuple[int, int, int]
    slices: list[Slice]


@dataclass(frozen=True, slots=True)
class Units:
    """A group with the atoms of its units.

    Args:
        group: The group as data.
        atoms: Atom of each unit.
    """

    group: Group
    atoms: NDArray[np.int64]


def find_units(analysis: Analysis) -> list[Units]:
    """Groups of a network in the order of its stored tensors.

    Units of one group lie in the same dimensions of every tensor, equally often: how many positions
    stay depends on how many units do, and as long as one unit stays, no dimension runs empty.

    Args:
        analysis: Labels of every tensor.

    Returns:
        One entry per group of at least two units that owns part of a parameter.
    """
    outputs = _output_dims(analysis)
    found: list[Units] = []
    names: dict[str, int] = defaultdict(int)
    kinds = Kinds(analysis)
    for one in _sets(analysis):
        if len(one.atoms) < 2 or not any(
            part.tensor in analysis.program.parameters for part in one.slices
        ):
            continue
        maker = next((s for s in one.slices if outputs.get(s.tensor) == s.dim), one.slices[0])
        name = maker.tensor.removesuffix(".weight")
        names[name] += 1
        label = name if names[name] == 1 else f"{name}#{names[name]}"
        found.append(_units(analysis, kinds, label, one))
    least = least_units(analysis.atoms, [units.atoms for units in found])
    return [
        units
        if n.units == 1
        else replace(units, group=replace(units.group, least=n.units, least_why=n.why))
        for units, n in zip(found, least, strict=True)
    ]


def _units(analysis: Analysis, kinds: Kinds, name: str, one: _Set) -> Units:
    algebra = analysis.atoms
    group = Group(
        name=name,
        units=len(one.atoms),
        slices=tuple(one.slices),
        scope="residual" if algebra.is_stream(one.atoms).any() else "inner",
        exact=not algebra.is_normalised(one.atoms).any(),
    )
    kind = kinds.of(group, one.atoms)
    return Units(group if kind == group.kind else replace(group, kind=kind), one.atoms)


def _sets(analysis: Analysis) -> list[_Set]:
    """Interchangeable atoms with what they own, in the order of their first places.

    The atoms of an axis that is whole wherever it lies are a set without being looked at: they lie
    in the same factors, equally often, and no other atoms lie there.
    """
    mixed, dims = _mixed(analysis)
    alone: dict[int, _Set | None] = {}
    places: list[_Owned] = []
    for number, (fqn, axis, dim, tiles) in enumerate(_stored_dims(analysis)):
        if tiles is None:
            live = analysis.atoms.live(dim)
            places += (_owned(fqn, axis, f, number, live) for f in range(live.shape[1]))
            continue
        for tile in tiles:
            if id(tile.atoms) not in alone:
                atoms, first = tile.atoms[:, 0], (number, tile.factor, 0)
                alone[id(tile.atoms)] = None if mixed[atoms].any() else _Set(atoms, first, [])
            one = alone[id(tile.atoms)]
            if one is None:
                live = analysis.atoms.live(dim)
                places.append(_owned(fqn, axis, tile.factor, number, live))
            else:
                one.slices.append(_tile_slice(fqn, axis, tile))
    found = [one for one in alone.values() if one is not None]
    places = [owned for owned in places if len(owned.positions)]
    if places:
        found += _alike(len(analysis.atoms), places, dims)
    return sorted(found, key=lambda one: one.first)


def _mixed(analysis: Analysis) -> tuple[NDArray[np.bool_], list[Dim]]:
    """Atoms of axes that are not whole everywhere; where these lie other than once each."""
    mixed = np.zeros(len(analysis.atoms), bool)
    dims: list[Dim] = []
    grids: list[tuple[Dim, Sequence[Tile]]] = []
    for dim in _distinct_dims(analysis):
        tiles = analysis.atoms.tiles(dim)
        if tiles is not None:
            if tiles and len(dim) > len(tiles[0].atoms):
                grids.append((dim, tiles))
            continue
        live = analysis.atoms.live(dim)
        if live.size:
            mixed[live[live >= 0]] = True
            dims.append(live)
    if dims:
        dims += (
            analysis.atoms.live(dim)
            for dim, tiles in grids
            if any(mixed[tile.atoms].any() for tile in tiles)
        )
    return mixed, dims


def _slice(place: Place, positions: NDArray[np.int64]) -> Slice:
    """What units remove in one place, from their positions (units, positions each)."""
    if positions.shape[1] == 1 and np.array_equal(positions[:, 0], np.arange(len(positions))):
        return Slice(place.tensor, place.dim)
    return Slice(place.tensor, place.dim, tuple(tuple(row) for row in positions.tolist()))


def _tile_slice(tensor: str, dim: int, tile: Tile) -> Slice:
    """What units remove where they lie as whole atoms of an axis."""
    size = len(tile.atoms)
    if tile.outer == tile.inner == 1:
        return Slice(tensor, dim)
    places = np.arange(tile.outer * size * tile.inner).reshape(tile.outer, size, tile.inner)
    rows = places.transpose(1, 0, 2).reshape(size, -1)
    return Slice(tensor, dim, tuple(map(tuple, rows.tolist())))


def _stored_dims(analysis: Analysis) -> Iterator[tuple[str, int, Dim, Sequence[Tile] | None]]:
    """Every dimension of every stored tensor that may still be cut, with its tiles."""
    atoms = analysis.atoms
    for node, fqn in _stored(analysis):
        for axis, dim in enumerate(analysis.labels(node)):
            tiles = atoms.tiles(dim) if dim.size else ()
            if tiles or (tiles is None and atoms.is_live(dim)):
                yield fqn, axis, dim, tiles


def _stored(analysis: Analysis) -> Iterator[tuple[fx.Node, str]]:
    """Placeholders of stored tensors with their qualified names, in order."""
    stored = analysis.program.stored
    for node in analysis.program.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            yield node, stored[node.name]


def _owned(tensor: str, dim: int, factor: int, number: int, live: Dim) -> _Owned:
    """One factor of a dimension with its free atoms."""
    column = live[:, factor]
    positions = np.flatnonzero(column >= 0)
    return _Owned(Place(tensor, dim, factor), number, positions, column[positions])


def _alike(size: int, places: Sequence[_Owned], dims: Sequence[Dim]) -> list[_Set]:
    """Sets of atoms that lie in the same places and dimensions, equally often.

    Where an atom lies is told by a sum of random 64-bit numbers, one for each place and one for
    each dimension and count.

    Args:
        size: Number of atoms.
        places: Of stored tensors.
        dims: Dimensions of all tensors, in free atoms.

    Returns:
        Atoms of each set in the order of their first positions.
    """
    generator = np.random.default_rng(0)
    mark = np.zeros(size, np.uint64)
    first = np.full(size, np.iinfo(np.int64).max)
    for rank, owned in reversed(list(enumerate(places))):
        mark[owned.atoms] += generator.integers(
            2**64, dtype=np.uint64
        )  # once, however often it lies there
        first[owned.atoms[::-1]] = (rank << 40) + owned.positions[::-1]
    there = np.flatnonzero(first < np.iinfo(np.int64).max)
    for live in dims:
        atoms, counts = np.unique(live[live >= 0], return_counts=True)
        numbers = generator.integers(2**64, size=int(counts.max()) + 1, dtype=np.uint64)
        mark[atoms] += numbers[counts]
    order = there[np.argsort(first[there])]
    _, start, inverse = np.unique(mark[order], return_index=True, return_inverse=True)
    number = np.full(size, -1)
    number[order] = np.argsort(np.argsort(start))[inverse]
    by_set = order[np.argsort(number[order], kind="stable")]
    ends = np.cumsum(np.bincount(number[order], minlength=len(start)))[:-1]
    split = np.split(by_set, ends) if len(by_set) else []
    return _with_slices(split, number, first, places)


def _with_slices(
    split: Sequence[NDArray[np.int64]],
    number: NDArray[np.int64],
    first: NDArray[np.int64],
    places: Sequence[_Owned],
) -> list[_Set]:
    """Sets with what their units remove in every place.

    Args:
        split: Atoms of each set.
        number: Set of each atom.
        first: Place and position where each atom lies first, in one number.
        places: All places.
    """
    unit = np.empty(len(number), np.int64)
    found: list[_Set] = []
    for atoms in split:
        unit[atoms] = np.arange(len(atoms))
        place, position = divmod(int(first[atoms[0]]), 1 << 40)
        where = (places[place].number, places[place].place.factor, position)
        found.append(_Set(atoms, where, []))
    for owned in places:
        column = owned.atoms
        order = np.lexsort((owned.positions, unit[column], number[column]))
        sets, starts = np.unique(number[column[order]], return_index=True)
        for one, part in zip(
            sets.tolist(), np.split(owned.positions[order], starts[1:]), strict=True
        ):
            rows = part.reshape(len(split[one]), -1)
            found[one].slices.append(_slice(owned.place, rows))
    return found


def _distinct_dims(analysis: Analysis) -> list[Dim]:
    """Every dimension of every tensor, once."""
    dims = {
        id(dim): dim
        for node in analysis.program.graph.nodes
        if node.op != "output"
        for labels in analysis.all_labels(node)
        for dim in labels
        if dim.size
    }
    return list(dims.values())


def _output_dims(analysis: Analysis) -> dict[str, int]:
    """Stored tensor -> the dimension along which its op makes units."""
    dims: dict[str, int] = {}
    for node in analysis.program.graph.nodes:
        weight = weight_of(node)
        if weight is not None and weight.name in analysis.program.stored:
            dims.setdefault(analysis.program.stored[weight.name], OUTPUT_DIM[op_name(node)])
    return dims


def weight_of(node: fx.Node) -> fx.Node | None:
    """The weight argument of a compute op that makes units; None for other ops."""
    if node.op != "call_function" or (name := op_name(node)) not in OUTPUT_DIM:
        return None
    position = {"embedding": 0, "_weight_norm": 0, "addmm": 2}.get(name, 1)
    weight = node.args[position] if position < len(node.args) else None
    return weight if isinstance(weight, fx.Node) else None


def describe(analysis: Analysis, units: list[Units]) -> Groups:
    """Groups and locks of a network as data."""
    program = analysis.program
    sizes = {
        name: program.tensors[name].numel()
        for name in program.parameters
        if name in program.tensors
    }
    reached = _reached(analysis, [u.atoms for u in units])
    distinct = {program.tensors[n].data_ptr(): n for n in sizes if sizes[n]}
    total = sum(sizes[n] for n in distinct.values())
    return Groups(
        groups=tuple(u.group for u in units),
        locked=tuple(_locks(analysis)),
        fingerprint=fingerprint(
            {name: tuple(tensor.shape) for name, tensor in program.tensors.items()}
        ),
        params=total,
        reachable=sum(reached.get(n, 0) for n in distinct.values()) / total if total else 0.0,
    )


def _reached(analysis: Analysis, atoms: Sequence[NDArray[np.int64]]) -> dict[str, int]:
    """Parameter -> elements that at least one group cuts."""
    cuttable = np.zeros(len(analysis.atoms) + 1, bool)  # the last for "no atom", number -1
    for units in atoms:
        cuttable[units] = True
    left_of: dict[int, int] = {}

    def untouched(dim: Dim) -> int:
        tiles = analysis.atoms.tiles(dim) if dim.size else ()
        if tiles is not None:
            left = len(dim)
            for atoms in [tile.atoms for tile in tiles]:
                if id(atoms) not in left_of:
                    left_of[id(atoms)] = len(atoms) - int(np.count_nonzero(cuttable[atoms]))
                left = left // len(atoms) * left_of[id(atoms)]
            return left
        live = analysis.atoms.live(dim)
        return int((~cuttable[live].any(axis=1)).sum()) if live.size else len(dim)

    reached = {}
    for node, fqn in _stored(analysis):
        if fqn in analysis.program.parameters:
            left = prod([untouched(dim) for dim in analysis.labels(node)])
            reached[fqn] = analysis.program.tensors[fqn].numel() - left
    return reached


def _locks(analysis: Analysis) -> list[Lock]:
    """What is locked along the output dimensions of weights, by tensor and reason.

    A matrix that no known op reads is taken to make units along its first dimension.
    """
    outputs = _output_dims(analysis)
    for fqn in analysis.program.tensors:
        if fqn in analysis.program.parameters and analysis.program.tensors[fqn].dim() > 1:
            outputs.setdefault(fqn, 0)
    counts: dict[tuple[str, int, Reason], int] = defaultdict(int)
    for node, fqn in _stored(analysis):
        if fqn not in outputs:
            continue
        axis = outputs[fqn]
        dim = analysis.labels(node)[axis]
        if analysis.atoms.tiles(dim):
            continue  # a free axis lies in every position
        resolved, live = analysis.atoms.resolve(dim), analysis.atoms.live(dim)
        if resolved.size:
            held = (live < 0).all(axis=1) & (resolved >= 0).any(axis=1)
            rows = resolved[held]
            last = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] >= 0, axis=1)
            for reason, count in analysis.atoms.reasons(rows[np.arange(len(rows)), last]):
                counts[fqn, axis, reason] += count
    return [
        Lock(fqn, axis, n, reason.why, reason.where) for (fqn, axis, reason), n in counts.items()
    ]

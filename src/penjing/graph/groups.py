"""Groups: atoms with the same set of places are the interchangeable units of one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import fx

from penjing.graph.analysis import Analysis
from penjing.graph.axes import Dim, Reason
from penjing.graph.call import op_name
from penjing.graph.demands import least_units
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


_Owned = tuple[Place, NDArray[np.int64], NDArray[np.int64]]
"""A place, its positions with a free atom, and those atoms."""


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
    places = _places(analysis)
    owned, number = _alike(analysis, places)
    at: list[list[tuple[Place, NDArray[np.int64]]]] = [[] for _ in owned]
    unit = np.empty(len(analysis.atoms), np.int64)
    for atoms in owned:
        unit[atoms] = np.arange(len(atoms))
    for place, positions, column in places:
        order = np.lexsort((positions, unit[column], number[column]))
        groups, starts = np.unique(number[column[order]], return_index=True)
        for group, part in zip(
            groups.tolist(), np.split(positions[order], starts[1:]), strict=True
        ):
            at[group].append((place, part.reshape(len(owned[group]), -1)))
    outputs = _output_dims(analysis)
    found: list[Units] = []
    names: dict[str, int] = defaultdict(int)
    kinds = Kinds(analysis)
    for atoms, owns in zip(owned, at, strict=True):
        if len(atoms) < 2 or not any(p.tensor in analysis.program.parameters for p, _ in owns):
            continue
        maker = next((p for p, _ in owns if outputs.get(p.tensor) == p.dim), owns[0][0])
        name = maker.tensor.removesuffix(".weight")
        names[name] += 1
        label = name if names[name] == 1 else f"{name}#{names[name]}"
        units = _units(analysis, label, owns, atoms)
        kind = kinds.of(units.group, units.atoms)
        found.append(replace(units, group=replace(units.group, kind=kind)))
    least = least_units(analysis.atoms, [units.atoms for units in found])
    return [
        replace(units, group=replace(units.group, least=n.units, least_why=n.why))
        for units, n in zip(found, least, strict=True)
    ]


def _units(
    analysis: Analysis,
    name: str,
    owns: Sequence[tuple[Place, NDArray[np.int64]]],
    atoms: NDArray[np.int64],
) -> Units:
    algebra = analysis.atoms
    group = Group(
        name=name,
        units=len(atoms),
        slices=tuple(_slice(place, positions) for place, positions in owns),
        scope="residual" if algebra.is_stream(atoms).any() else "inner",
        exact=not algebra.is_normalised(atoms).any(),
    )
    return Units(group, atoms)


def _slice(place: Place, positions: NDArray[np.int64]) -> Slice:
    """What units remove in one place, from their positions (units, positions each)."""
    if positions.shape[1] == 1 and np.array_equal(positions[:, 0], np.arange(len(positions))):
        return Slice(place.tensor, place.dim)
    return Slice(place.tensor, place.dim, tuple(tuple(row) for row in positions.tolist()))


def _places(analysis: Analysis) -> list[_Owned]:
    """Every factor of every dimension of every stored tensor, with the free atoms in it."""
    found: list[_Owned] = []
    for node in analysis.program.graph.nodes:
        fqn = analysis.program.stored.get(node.name)
        if node.op != "placeholder" or fqn is None:
            continue
        for axis, dim in enumerate(analysis.labels(node)):
            live = analysis.atoms.live(dim)
            for factor in range(live.shape[1]):
                column = live[:, factor]
                positions = np.flatnonzero(column >= 0)
                if len(positions):
                    found.append((Place(fqn, axis, factor), positions, column[positions]))
    return found


def _alike(
    analysis: Analysis, places: Sequence[_Owned]
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Atoms that lie in the same places and dimensions, equally often.

    Where an atom lies is told by a sum of random 64-bit numbers, one for each place and one for
    each dimension and count.

    Returns:
        Atoms of each set in the order of their first positions, sets in the order of their first
        places; and for every atom the number of its set.
    """
    generator = np.random.default_rng(0)
    mark = np.zeros(len(analysis.atoms), np.uint64)
    first = np.full(len(analysis.atoms), np.iinfo(np.int64).max)
    for place, (_, positions, column) in reversed(list(enumerate(places))):
        mark[column] += generator.integers(
            2**64, dtype=np.uint64
        )  # once, however often it lies there
        first[column[::-1]] = (place << 40) + positions[::-1]
    owned = np.flatnonzero(first < np.iinfo(np.int64).max)
    for dim in _distinct_dims(analysis):
        live = analysis.atoms.live(dim)
        atoms, counts = np.unique(live[live >= 0], return_counts=True)
        numbers = generator.integers(2**64, size=int(counts.max(initial=0)) + 1, dtype=np.uint64)
        mark[atoms] += numbers[counts]
    order = owned[np.argsort(first[owned])]
    _, start, inverse = np.unique(mark[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(start))
    number = np.full(len(analysis.atoms), -1)
    number[order] = rank[inverse]
    by_set = order[np.argsort(number[order], kind="stable")]
    ends = np.cumsum(np.bincount(number[order], minlength=len(start)))[:-1]
    return (np.split(by_set, ends) if len(by_set) else []), number


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
    if node.op != "call_function" or op_name(node) not in OUTPUT_DIM:
        return None
    position = {"embedding": 0, "_weight_norm": 0, "addmm": 2}.get(op_name(node), 1)
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
    reached = {}
    for node in analysis.program.graph.nodes:
        fqn = analysis.program.stored.get(node.name, "")
        if node.op == "placeholder" and fqn in analysis.program.parameters:
            untouched = 1
            for dim in analysis.labels(node):
                live = analysis.atoms.live(dim)
                untouched *= int((~cuttable[live].any(axis=1)).sum()) if live.size else len(dim)
            reached[fqn] = analysis.program.tensors[fqn].numel() - untouched
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
    for node in analysis.program.graph.nodes:
        fqn = analysis.program.stored.get(node.name, "")
        if node.op != "placeholder" or fqn not in outputs:
            continue
        dims = analysis.labels(node)
        axis = outputs[fqn]
        resolved = analysis.atoms.resolve(dims[axis])
        live = analysis.atoms.live(dims[axis])
        if resolved.size:
            held = (live < 0).all(axis=1) & (resolved >= 0).any(axis=1)
            rows = resolved[held]
            last = rows.shape[1] - 1 - np.argmax(rows[:, ::-1] >= 0, axis=1)
            for reason, count in analysis.atoms.reasons(rows[np.arange(len(rows)), last]):
                counts[fqn, axis, reason] += count
    return [
        Lock(fqn, axis, n, reason.why, reason.where) for (fqn, axis, reason), n in counts.items()
    ]

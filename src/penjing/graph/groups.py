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
from penjing.graph.axes import Reason
from penjing.graph.call import op_name
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
    owned = _owned_positions(analysis)
    seen = _seen_positions(analysis)
    alike: dict[tuple[tuple[Place, ...], tuple[tuple[int, int], ...]], list[int]] = defaultdict(
        list
    )
    for atom, places in owned.items():
        alike[tuple(places), tuple(seen[atom])].append(atom)
    outputs = _output_dims(analysis)
    found: list[Units] = []
    names: dict[str, int] = defaultdict(int)
    kinds = Kinds(analysis)
    for (at, _), atoms in alike.items():
        if len(atoms) < 2 or not any(p.tensor in analysis.program.parameters for p in at):
            continue
        first = at[0]
        atoms.sort(key=lambda a: owned[a][first][0])
        maker = next((p for p in at if outputs.get(p.tensor) == p.dim), at[0])
        name = maker.tensor.removesuffix(".weight")
        names[name] += 1
        label = name if names[name] == 1 else f"{name}#{names[name]}"
        units = _units(analysis, label, at, atoms, owned)
        kind = kinds.of(units.group, units.atoms)
        found.append(replace(units, group=replace(units.group, kind=kind)))
    return found


def _units(
    analysis: Analysis,
    name: str,
    places: Sequence[Place],
    atoms: list[int],
    owned: dict[int, dict[Place, list[int]]],
) -> Units:
    slices = []
    for place in places:
        index = tuple(tuple(owned[a][place]) for a in atoms)
        slices.append(Slice.of(place.tensor, place.dim, index))
    ids = np.array(atoms, np.int64)
    algebra = analysis.atoms
    group = Group(
        name=name,
        units=len(atoms),
        slices=tuple(slices),
        scope="residual" if any(algebra.is_stream(a) for a in atoms) else "inner",
        exact=not any(algebra.is_normalised(a) for a in atoms),
    )
    return Units(group, ids)


def _owned_positions(analysis: Analysis) -> dict[int, dict[Place, list[int]]]:
    """Free atom -> its places in stored tensors, each with the positions it removes."""
    owned: dict[int, dict[Place, list[int]]] = {}
    for node in analysis.program.graph.nodes:
        fqn = analysis.program.stored.get(node.name)
        if node.op != "placeholder" or fqn is None:
            continue
        for axis, dim in enumerate(analysis.labels(node)):
            live = analysis.atoms.live(dim)
            for factor in range(live.shape[1]):
                place = Place(fqn, axis, factor)
                column = live[:, factor]
                positions = np.flatnonzero(column >= 0)
                for atom, position in zip(
                    column[positions].tolist(), positions.tolist(), strict=True
                ):
                    owned.setdefault(atom, {}).setdefault(place, []).append(position)
    return owned


def _seen_positions(analysis: Analysis) -> dict[int, list[tuple[int, int]]]:
    """Free atom -> every dimension of every tensor that it lies in, and at how many positions."""
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    dims = {
        id(dim): dim
        for node in analysis.program.graph.nodes
        if node.op != "output"
        for labels in analysis.all_labels(node)
        for dim in labels
    }
    for number, dim in enumerate(dims.values()):
        live = analysis.atoms.live(dim)
        atoms, counts = np.unique(live[live >= 0], return_counts=True)
        for atom, count in zip(atoms.tolist(), counts.tolist(), strict=True):
            seen[atom].append((number, count))
    return seen


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
    reached = _reached(analysis, {int(a) for u in units for a in u.atoms})
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


def _reached(analysis: Analysis, atoms: set[int]) -> dict[str, int]:
    """Parameter -> elements that at least one group cuts."""
    cuttable = np.zeros(len(analysis.atoms) + 1, bool)  # the last for "no atom", number -1
    cuttable[list(atoms)] = True
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
        for position in range(len(resolved)):
            if live.shape[1] == 0 or (live[position] < 0).all():
                atoms = [int(a) for a in resolved[position] if a >= 0] if resolved.shape[1] else []
                if atoms:
                    counts[fqn, axis, analysis.atoms.reason(atoms[-1])] += 1
    return [
        Lock(fqn, axis, n, reason.why, reason.where) for (fqn, axis, reason), n in counts.items()
    ]

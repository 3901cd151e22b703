"""Sizes after a cut, by units kept per group: what an allocator asks hundreds of times a second.

How many positions of a dimension stay depends on the counts alone. A dimension is a sum of terms,
each a number of positions times the kept shares of the groups that own them: 16 channels of two
conv groups are 16 x (kept outer) x (kept inner).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod

import numpy as np
from torch import fx

from penjing.graph.axes import Dim
from penjing.graph.call import output_shapes
from penjing.graph.network import Network

Term = tuple[int, tuple[str, ...]]
"""Positions, and the groups that all must keep them."""


class Sizing:
    """Shapes of a network's nodes for any number of units kept.

    Args:
        network: The network; units of its groups that are not named stay.
    """

    def __init__(self, network: Network) -> None:
        self._units = {group.name: group.units for group in network.groups}
        owner: dict[int, str] = {}
        for name in self._units:
            owner.update(dict.fromkeys(network.atoms(name).tolist(), name))
        self._terms: list[tuple[Term, ...]] = []
        self._numbers: dict[tuple[Term, ...], int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._fixed: dict[str, tuple[int, ...]] = {}
        analysis, seen = network.analysis, dict[int, int]()
        for node in network.program.graph.nodes:
            if node.op == "output" or not output_shapes(node) or output_shapes(node)[0] is None:
                continue
            for dim in analysis.labels(node):
                if id(dim) not in seen:
                    seen[id(dim)] = self._number(_terms(analysis.atoms.resolve(dim), owner))
            self._shapes[node.name] = tuple(seen[id(dim)] for dim in analysis.labels(node))
            self._fixed[node.name] = output_shapes(node)[0] or ()

    def shapes(self, kept: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
        """Shape of every node's first output at the example's sizes.

        Args:
            kept: Units kept by group; groups that are not named keep all.

        Returns:
            Node name -> shape.
        """
        share = {name: kept.get(name, units) / units for name, units in self._units.items()}
        sizes = [
            round(sum(count * prod(share[g] for g in groups) for count, groups in terms))
            for terms in self._terms
        ]
        return {name: tuple(sizes[i] for i in numbers) for name, numbers in self._shapes.items()}

    def _number(self, terms: tuple[Term, ...]) -> int:
        if terms not in self._numbers:
            self._numbers[terms] = len(self._terms)
            self._terms.append(terms)
        return self._numbers[terms]


def node_shape(shapes: Mapping[str, tuple[int, ...]], node: fx.Node) -> tuple[int, ...]:
    """Shape of a node among `shapes`."""
    return shapes[node.name]


def _terms(resolved: Dim, owner: Mapping[int, str]) -> tuple[Term, ...]:
    """Positions counted by the set of groups that own them."""
    if resolved.shape[1] == 0:
        return ((len(resolved), ()),)
    rows, counts = np.unique(resolved, axis=0, return_counts=True)
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for row, count in zip(rows, counts, strict=True):
        found[tuple(sorted(owner[int(a)] for a in row if int(a) in owner))] += int(count)
    return tuple((count, groups) for groups, count in found.items())

"""How much of a network its groups reach, and what each lock costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import numpy as np
from torch import fx

from penjing.counts.macs import Counter
from penjing.graph.axes import Dim
from penjing.graph.network import Network
from penjing.plan import Groups, Lock, Reach


def with_reach(network: Network) -> Groups:
    """The groups of a network, with what they reach and what the locks keep from them.

    A weight element is reached when some group removes it, and a multiplication when one of its
    factors is.

    Args:
        network: A network whose groups are found.

    Returns:
        Its groups, with `layers`, `macs`, `reachable_macs` and the costs of the locks filled in.
    """
    found = _Reached(network)
    layers = {fqn: found.layer(fqn) for fqn in found.weights}
    total, left = found.products()
    return replace(
        network.groups,
        layers=tuple(layers.values()),
        locked=tuple(found.priced(lock, layers.get(lock.tensor)) for lock in network.groups.locked),
        macs=total,
        reachable_macs=1 - left / total if total else 0.0,
    )


class _Reached:
    """Which positions of a network some group removes."""

    def __init__(self, network: Network) -> None:
        self._network, self._analysis = network, network.analysis
        self._cut = np.zeros(len(self._analysis.atoms) + 1, bool)  # the last for "no atom"
        for group in network.groups:
            self._cut[network.atoms(group.name)] = True
        program = network.program
        self.weights = {
            fqn: program.nodes[name]
            for name, fqn in program.stored.items()
            if fqn in program.parameters and program.tensors[fqn].dim() > 1
        }
        self._counter = Counter(program)

    def layer(self, fqn: str) -> Reach:
        """One weight: its elements, those that groups remove, and its multiplications."""
        node = self.weights[fqn]
        params = self._network.program.tensors[fqn].numel()
        macs = sum(
            rule(user, self._counter.sizes.single) // max(1, len(self._operands(user)))
            for user, rule in self._counter.layers
            if node in self._operands(user)
        )
        return Reach(fqn, params, params - round(params * self._left([node])), macs)

    def products(self) -> tuple[int, float]:
        """Multiplications of the network, and those that no group removes."""
        total, left = 0, 0.0
        for node, rule in self._counter.layers:
            macs = rule(node, self._counter.sizes.single)
            total += macs
            left += macs * self._left_of_product(node)
        return total, left

    def priced(self, lock: Lock, layer: Reach | None) -> Lock:
        """A lock with the parameters and multiplications that stay because of it."""
        if layer is None or not layer.params:
            return lock
        dims = self._analysis.labels(self.weights[lock.tensor])
        others = prod(self._untouched(d) for i, d in enumerate(dims) if i != lock.dim)
        kept = lock.positions * others
        return replace(lock, params=kept, macs=layer.macs * kept // layer.params)

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """Constant arguments of two dimensions or more: the weights of a product."""
        return [
            n
            for n in node.all_input_nodes
            if self._analysis.is_constant(n) and len(self._analysis.labels(n)) > 1
        ]

    def _left_of_product(self, node: fx.Node) -> float:
        """Share of a product's multiplications that no group removes."""
        weights = self._operands(node)
        if weights:
            return self._left(weights)
        first = self._analysis.labels(node.all_input_nodes[0])
        return self._share([*self._analysis.labels(node), *first[-1:]])

    def _left(self, nodes: Iterable[fx.Node]) -> float:
        """Share of the elements of some tensors that no group removes."""
        every = [self._analysis.labels(node) for node in nodes]
        sizes = [prod(len(dim) for dim in dims) for dims in every]
        left = sum(n * self._share(dims) for n, dims in zip(sizes, every, strict=True))
        return left / sum(sizes) if sum(sizes) else 0.0

    def _share(self, dims: Iterable[Dim]) -> float:
        return prod(self._untouched(dim) / len(dim) for dim in dims if len(dim))

    def _untouched(self, dim: Dim) -> int:
        live = self._analysis.atoms.live(dim)
        return int((~self._cut[live].any(axis=1)).sum()) if live.size else len(dim)

"""Re-basing: what is cut from queries and keys is chosen after turning them into the best basis.

A score is an inner product of a query and a key, so dimensions of a head can be mixed freely as
long as the other side is mixed inversely. When some of them go, the ones that stay are made those
of the best approximation of the scores of that rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.figures import RepairFigures
from penjing.graph.network import Cut
from penjing.statistics.attention import Head, Product, Scores, products, rebased
from penjing.statistics.grams import Layer, layers
from penjing.statistics.outlets import tied
from penjing.statistics.routed import routed


@dataclass(frozen=True, slots=True)
class Basis:
    """Queries and keys of one attention after a cut, in their new basis.

    Args:
        tensors: Weights and biases of the cut layers.
        turned: By layer node the cut layer's outputs in terms of the original's `(before, after)`.
        row: What it did to the scores.
    """

    tensors: dict[str, Tensor]
    turned: Mapping[str, Tensor]
    row: RepairFigures


@dataclass(frozen=True, slots=True)
class Rebase:
    """One attention that loses dimensions of its queries and keys.

    Args:
        cut: Says what stays; not changed.
        product: Its scores.
        sums: Second moments of what the original's layers put out, per head.
    """

    cut: Cut
    product: Product
    sums: tuple[tuple[Head, Scores], ...] = field(default=())

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer that makes the queries and the one that makes the keys, or the one of both."""
        query, key = self.product.query, self.product.key
        return (query,) if query.node == key.node else (query, key)

    def first(self, place: Mapping[str, int]) -> str:
        """Node of the layer that comes first."""
        return min((layer.node for layer in self.layers), key=lambda node: place[node])

    def look(self, values: Mapping[str, Tensor]) -> None:
        """Add what the original's layers put out, in place."""
        for head, sums in self.sums:
            sums.add(head, values[self.product.query.node], values[self.product.key.node])

    def turn(self) -> Basis:
        """The best basis for what stays.

        Returns:
            New tensors of the cut network, which equal the original's up to what was lost of the
            scores.
        """
        cut = self.cut
        kept = {layer.node: _columns(cut, layer) for layer in self.layers}
        blocks: dict[str, list[tuple[Sequence[int], Tensor]]] = {n: [] for n in kept}
        before = after = energy = 0.0
        for head, sums in self.sums:
            stays = set(kept[self.product.key.node])
            rank = sum(column in stays for column in head.keys)
            if not rank:
                continue
            query_ER, key_ER, lost = sums.basis(rank, self.product.centred)
            gone = [i for i, column in enumerate(head.keys) if column not in stays]
            weight = float(torch.stack(sums.moments(self.product.centred)).prod(0).sum())
            before += weight * sums.lost(gone, self.product.centred)
            after, energy = after + weight * lost, energy + weight
            blocks[self.product.key.node].append((head.keys, key_ER))
            blocks[self.product.query.node] += [(c, query_ER) for c in _there(head, self, kept)]
        turned = {
            layer.node: rebased(_width(cut, layer), kept[layer.node], blocks[layer.node])
            for layer in self.layers
        }
        tensors = dict(_written(cut, self.layers, turned))
        name = self.product.query.weight.removesuffix(".weight")
        scale = max(energy, 1e-30)
        row = RepairFigures(f"{name} (scores)", before / scale, after / scale, None, "")
        return Basis(tensors, turned, row)


def rebases(cut: Cut, ties: Collection[str]) -> list[Rebase]:
    """Attentions of a cut network whose queries and keys can have a new basis, and need one.

    Args:
        cut: What goes.
        ties: Tensors that are used more than once: their layers keep their basis.

    Returns:
        One entry per attention that loses dimensions.
    """
    program = cut.network.program
    known, _ = layers(program)
    place = {name: i for i, name in enumerate(program.nodes)}
    found = []
    for product in products(program, known):
        made = Rebase(cut, product, tuple((h, Scores.zeros(len(h.keys))) for h in product.heads))
        names = {n for layer in made.layers for n in (layer.weight, layer.bias) if n}
        sources = [place[layer.source] for layer in made.layers]
        there = all(layer.node in cut.program.nodes for layer in made.layers)
        if not there or names & set(ties) or max(sources) >= place[made.first(place)]:
            continue
        if _loses(cut, made):
            found.append(made)
    return found


def untouched(cut: Cut) -> list[RepairFigures]:
    """A row for every cut group that nothing makes up for: no layer reads it, and it has its basis.

    Args:
        cut: What went.
    """
    program = cut.network.program
    known, _ = layers(program)
    read = {(layer.weight, layer.input_dim) for layer in known.values()}
    read |= {(experts.weight, experts.order[2]) for experts in routed(program)[0].values()}
    turned = {layer.weight for a in rebases(cut, tied(program)) for layer in a.layers}
    rows = []
    for group in cut.network.groups:
        made_up = any(s.tensor in turned or (s.tensor, s.dim) in read for s in group.slices)
        if group.name in cut.plan.drop and not made_up:
            reason = "no layer reads its units; cut, not repaired"
            rows.append(RepairFigures(group.name, None, None, None, reason))
    return rows


def _loses(cut: Cut, attention: Rebase) -> bool:
    """Whether a head that stays loses dimensions, as many of its queries as of its keys."""
    kept = {layer.node: set(_columns(cut, layer)) for layer in attention.layers}
    keys, queries = (
        kept[attention.product.key.node],
        kept[attention.product.query.node],
    )
    some = False
    for head in attention.product.heads:
        rank = sum(c in keys for c in head.keys)
        ranks = {sum(c in queries for c in columns) for columns in head.queries}
        if not ranks <= {rank, 0}:
            return False
        some |= 0 < rank < len(head.keys)
    return some


def _there(
    head: Head, attention: Rebase, kept: Mapping[str, Sequence[int]]
) -> Iterator[tuple[int, ...]]:
    """Query heads of which something stays."""
    stays = set(kept[attention.product.query.node])
    return (columns for columns in head.queries if stays & set(columns))


def _width(cut: Cut, layer: Layer) -> int:
    """Outputs of the original layer."""
    return len(cut.network.program.tensors[layer.weight])


def _columns(cut: Cut, layer: Layer) -> list[int]:
    """Outputs of a layer that stay."""
    dims = len(cut.network.program.shape(cut.network.program.nodes[layer.node]))
    positions = cut.keep(layer.node, dims - 1)
    return list(range(_width(cut, layer))) if positions is None else positions.tolist()


def _written(
    cut: Cut, changed: Sequence[Layer], turned: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of cut layers from the original's outputs in a new basis."""
    whole, small = cut.network.program.tensors, cut.program.tensors
    nodes = {fqn: name for name, fqn in cut.network.program.stored.items()}
    for layer in changed:
        weight = whole[layer.weight].detach().double()
        inputs = cut.keep(nodes[layer.weight], 1)
        weight = weight if inputs is None else weight[:, inputs.to(weight.device)]
        matrix = turned[layer.node].to(weight)
        yield layer.weight, (matrix.mT @ weight).to(small[layer.weight].dtype)
        if layer.bias is not None:
            bias = whole[layer.bias].detach().double() @ matrix
            yield layer.bias, bias.to(small[layer.bias].dtype)

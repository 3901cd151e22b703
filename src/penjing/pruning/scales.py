"""Scales of attention scores that a forward takes from the dimensions that are left.

A class that divides its scores by the root of the dimensions of a head divides by less once some
are cut, where the original, masked, still divides by what it had. The ratio goes into the queries:
`(c q) k / sqrt(kept) = q k / sqrt(all)` with `c = sqrt(kept / all)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from penjing.graph.network import Cut
from penjing.statistics.attention import products
from penjing.statistics.grams import Layer, layers
from penjing.statistics.outlets import tied

Folds = Mapping[str, Tensor]
"""Qualified name of a cut tensor -> factor of each of its rows, float64."""


def scale_folds(cut: Cut) -> dict[str, Tensor]:
    """Factors that the rows of queries take on where the scale follows the dimensions.

    Args:
        cut: What goes.

    Returns:
        Factors by tensor, weights and biases, for the layers of queries whose heads lose
        dimensions. Attentions whose queries share a weight are left out.
    """
    program = cut.network.program
    known, _ = layers(program)
    ties = tied(program)
    found: dict[str, Tensor] = {}
    for product in products(program, known):
        query = product.query
        names = [name for name in (query.weight, query.bias) if name is not None]
        if set(names) & set(ties):
            continue
        stays, there = _outputs(cut, product.key), _outputs(cut, query)
        factors = torch.ones(len(there), dtype=torch.float64)
        for head in product.heads:
            share = sum(column in stays for column in head.keys) / len(head.keys)
            for columns in head.queries:
                factors[[there[c] for c in columns if c in there]] = share**0.5
        if bool((factors != 1).any()):
            found.update(dict.fromkeys(names, factors))
    return found


def _outputs(cut: Cut, layer: Layer) -> dict[int, int]:
    """Outputs of a layer that stay, and where they are then."""
    program = cut.network.program
    node = program.nodes[layer.node]
    kept = cut.keep(layer.node, len(program.shape(node)) - 1)
    stays: Sequence[int] = range(program.shape(node)[-1]) if kept is None else kept.tolist()
    return {column: place for place, column in enumerate(stays)}


def folded(tensors: Mapping[str, Tensor], folds: Folds) -> dict[str, Tensor]:
    """Tensors of the cut graph as a class with other scales needs them.

    Args:
        tensors: By qualified name.
        folds: Factors of rows; none changes nothing.

    Returns:
        The same names.

    Example:
        >>> folded({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 0.5])})
        {'w': tensor([1.0000, 0.5000])}
    """
    found = dict(tensors)
    for name in folds.keys() & tensors.keys():
        value = tensors[name].detach()
        factors = folds[name].to(value.device).view(-1, *[1] * (value.dim() - 1))
        found[name] = (value.double() * factors).to(value.dtype)
    return found

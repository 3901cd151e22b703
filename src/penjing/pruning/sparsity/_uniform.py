"""Uniform: the same sparsity everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.pruning.sparsity.protocol import Removal, Scored


def uniform(layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
    """One sparsity for all layers.

    Args:
        layers: What may become sparse.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.

    Example:
        >>> import torch
        >>> layer = Scored(name="a", scores=torch.rand(4), sizes=torch.ones(4), shape=(2, 2, 1))
        >>> uniform([layer], Removal(amount=3))
        {'a': 0.75}
    """
    total = sum(layer.cost * layer.weights for layer in layers)
    share = min(removal.amount / total, removal.max_sparsity) if total else 0.0
    return {layer.name: share for layer in layers}

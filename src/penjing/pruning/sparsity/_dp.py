"""The solver: least total error for what has to go."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.pruning.sparsity.protocol import Removal, Scored, lowest


def dp(layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
    """Let those blocks go whose error per cost is least over all layers.

    With scores that are errors, rising as blocks go, as those of `obs`, this is the least sum of
    the layers' errors for the cost that is removed: what dynamic programming over per-layer tables
    would find, since the curves are convex.

    Args:
        layers: What may become sparse; their scores are rises of the relative error.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.

    Source:
        Frantar and Alistarh 2022, arXiv:2208.11580, section 4 (global step), with errors relative
        to the energy that a layer feeds, and per cost.
    """
    return lowest(layers, [layer.scores / layer.cost for layer in layers], removal)

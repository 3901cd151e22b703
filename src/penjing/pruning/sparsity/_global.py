"""Global: one threshold on the scores of all layers."""

from __future__ import annotations

from collections.abc import Sequence

from penjing.pruning.sparsity.protocol import Removal, Scored, lowest


def global_threshold(layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
    """The lowest scores of all layers go, whatever a weight costs.

    Args:
        layers: What may become sparse.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.

    Source:
        Han et al. 2015, arXiv:1506.02626, with one threshold; thin layers can collapse, which
        `max_sparsity` bounds.
    """
    return lowest(layers, [layer.scores for layer in layers], removal)

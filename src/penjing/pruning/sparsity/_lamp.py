"""LAMP: scores relative to what would be left of their layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from penjing.pruning.sparsity.protocol import Removal, Scored, lowest


def lamp(layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
    """One threshold on each score divided by the sum of the scores not below it in its layer.

    Args:
        layers: What may become sparse; their scores are squared magnitudes in the source.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.

    Source:
        Lee et al. 2021, arXiv:2010.07611, eq. 4.
    """
    return lowest(layers, [_relative(layer) for layer in layers], removal)


def _relative(layer: Scored) -> Tensor:
    scores = layer.scores.flatten().double()
    finite = scores.where(scores.isfinite(), scores[scores.isfinite()].max())
    order = finite.argsort(stable=True)
    rising = (finite * layer.sizes.flatten())[order]
    left = rising.flip(0).cumsum(0).flip(0).clamp_min(1e-300)
    return finite.clone().scatter_(0, order, finite[order] / left)

"""Zeros chosen while weights are rounded: one Gram matrix says which, and makes up for both.

Suffixes: G = convolution groups, V = outputs of one group, U = unknowns of one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from penjing.pruning.weights import OBS
from penjing.pruning.weights.protocol import Matrix, Target
from penjing.recovery.supported import Supported
from penjing.statistics.grams import Gram

DAMPING = 1e-3
"""Ridge strength as a share of the mean diagonal of the Gram matrix."""


@dataclass(frozen=True, eq=False, slots=True)
class Thinning:
    """Weights that become zero before they are rounded.

    Args:
        targets: By qualified name of the weight.
        sparsity: Share of each that goes; an n:m pattern has its own.

    Source:
        Frantar and Alistarh 2023, arXiv:2301.00774, section 3.5: one sweep prunes and quantizes.
        There both are decided column by column; here a layer's zeros are chosen by exact
        elimination, what stays is solved for the outputs of the network in floats, and then it is
        rounded, all on one Gram matrix of what reaches the layer in integers.
    """

    targets: Mapping[str, Target]
    sparsity: float

    def __contains__(self, weight: str) -> bool:
        return weight in self.targets

    def __call__(self, weight: str, w_GVU: Tensor, gram: Gram, free: bool) -> Tensor:
        """A layer's weight with its zeros.

        Args:
            weight: Its qualified name.
            w_GVU: In floats, float64.
            gram: Sums over what reaches the layer, and over what it should yield.
            free: Whether a bias makes up for means.

        Returns:
            `(G, V, U)`; what was zero stays zero.
        """
        tiling, one = self.targets[weight].tiling, w_GVU.new_ones(w_GVU.shape[:2])
        layer = Matrix(name=weight, weight=w_GVU, scale=one, gram=gram, free=free)
        support = tiling.keep(OBS()(layer, tiling), self.sparsity) & (w_GVU != 0)
        fit = Supported(gram, free, DAMPING, support)
        if not fit.regular:
            return w_GVU * support
        solved, _ = fit.solve(gram.xy, gram.y)
        return solved

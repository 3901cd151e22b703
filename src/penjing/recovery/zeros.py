"""Supports for the reconstruction of sparse networks: where zeros are, and how they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from penjing.pruning.weights import OBS
from penjing.pruning.weights.protocol import AtSparsity, Matrix, Target, WeightImportance
from penjing.statistics.grams import Gram, Layer

KEPT = "zeros stay zeros"


@dataclass(frozen=True, eq=False, slots=True)
class Fixed:
    """Zeros that were chosen before.

    Args:
        masks: Weights that stay, `(G, V, U)` bool, by name of the weight.
    """

    masks: Mapping[str, Tensor]

    def __contains__(self, weight: str) -> bool:
        return weight in self.masks

    def choose(
        self,
        layer: Layer,
        gram: Gram,  # noqa: ARG002 - the protocol's
        free: bool,  # noqa: ARG002 - the protocol's
        full: Callable[[Tensor | None], Tensor],  # noqa: ARG002 - the protocol's
    ) -> Tensor:
        """The mask of a layer.

        Args:
            layer: The layer.
            gram: Not read.
            free: Not read.
            full: Not called.

        Returns:
            Weights that stay, `(G, V, U)` bool.
        """
        return self.masks[layer.weight]


def supporting(
    masks: Mapping[str, Tensor],
    targets: Mapping[str, Target],
    importance: WeightImportance,
    sparsities: Mapping[str, float],
    stays: Mapping[str, Tensor],
) -> Fixed | Rechosen:
    """The support of a repair: zeros chosen anew where the importance tells errors.

    Args:
        masks: Weights that stay, `(G, V, U)` bool, by name of the weight.
        targets: Layers by name of the weight.
        importance: What judged the weights.
        sparsities: Share of zeros by name of the weight.
        stays: Of layers with zeros that must stay, where none is, `(G, V, U)` bool.
    """
    first = Fixed({n: mask & stays[n] if n in stays else mask for n, mask in masks.items()})
    anew = isinstance(importance, (OBS, AtSparsity))
    return Rechosen(first, targets, importance, sparsities, stays) if anew else first


@dataclass(frozen=True, eq=False, slots=True)
class Rechosen:
    """Zeros chosen anew on what reaches a layer of the sparse network, as many as before.

    Args:
        first: The choice on the dense network, for what is not chosen anew.
        targets: By name of the weight.
        importance: How the weights are ranked.
        sparsities: Share of zeros by name of the weight.
        stays: Of layers with zeros that must stay, where none is.
    """

    first: Fixed
    targets: Mapping[str, Target]
    importance: WeightImportance
    sparsities: Mapping[str, float]
    stays: Mapping[str, Tensor]

    def __contains__(self, weight: str) -> bool:
        return weight in self.first

    def choose(
        self, layer: Layer, gram: Gram, free: bool, full: Callable[[Tensor | None], Tensor]
    ) -> Tensor:
        """Rank the best weight without new zeros on the inputs that really come.

        Args:
            layer: The layer.
            gram: Sums over what reaches it.
            free: Whether an intercept is free.
            full: The best weight without zeros, but for those outside a mask.

        Returns:
            Weights that stay, `(G, V, U)` bool.
        """
        target = self.targets[layer.weight]
        stays = self.stays.get(layer.weight)
        weight = full(stays)
        one = weight.new_ones(weight.shape[:2])
        matrix = Matrix(name=layer.weight, weight=weight, scale=one, gram=gram, free=free)
        sparsity, judge = self.sparsities[layer.weight], self.importance
        judge = judge.at(sparsity) if isinstance(judge, AtSparsity) else judge
        kept = target.tiling.keep(judge(matrix, target.tiling), sparsity)
        return kept if stays is None else kept & stays

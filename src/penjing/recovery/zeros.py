"""Supports for the reconstruction of sparse networks: where zeros are, and how they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from penjing.pruning.weights import OBS
from penjing.pruning.weights.protocol import AtSparsity, Matrix, Target, WeightImportance
from penjing.statistics.grams import Gram, Layer

MEANT = 0.01  # share of exact zeros from which they are meant; rounding leaves far fewer
KEPT = "zeros stay zeros"


def standing(weight: Tensor) -> Tensor | None:
    """Weights that may be other than zero in a layer that was sparse before it was cut.

    Args:
        weight: Of any shape.

    Returns:
        Where it is not exactly zero, bool; None where less than `MEANT` of it is.

    Example:
        >>> import torch
        >>> standing(torch.tensor([[1.0, 0.0]]))
        tensor([[ True, False]])
    """
    stays = weight != 0
    zeros = weight.numel() - int(stays.sum())
    return stays if zeros and zeros >= MEANT * weight.numel() else None


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
        full: Callable[[], Tensor],  # noqa: ARG002 - the protocol's
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
) -> Fixed | Rechosen:
    """The support of a repair: zeros chosen anew where the importance tells errors.

    Args:
        masks: Weights that stay, `(G, V, U)` bool, by name of the weight.
        targets: Layers by name of the weight.
        importance: What judged the weights.
        sparsities: Share of zeros by name of the weight.
    """
    first = Fixed(masks)
    anew = isinstance(importance, (OBS, AtSparsity))
    return Rechosen(first, targets, importance, sparsities) if anew else first


@dataclass(frozen=True, eq=False, slots=True)
class Rechosen:
    """Zeros chosen anew on what reaches a layer of the sparse network, as many as before.

    Args:
        first: The choice on the dense network, for what is not chosen anew.
        targets: By name of the weight.
        importance: How the weights are ranked.
        sparsities: Share of zeros by name of the weight.
    """

    first: Fixed
    targets: Mapping[str, Target]
    importance: WeightImportance
    sparsities: Mapping[str, float]

    def __contains__(self, weight: str) -> bool:
        return weight in self.first

    def choose(self, layer: Layer, gram: Gram, free: bool, full: Callable[[], Tensor]) -> Tensor:
        """Rank the best weight without zeros on the inputs that really come.

        Args:
            layer: The layer.
            gram: Sums over what reaches it.
            free: Whether an intercept is free.
            full: The best weight without zeros.

        Returns:
            Weights that stay, `(G, V, U)` bool.
        """
        target = self.targets[layer.weight]
        weight = full()
        one = weight.new_ones(weight.shape[:2])
        matrix = Matrix(name=layer.weight, weight=weight, scale=one, gram=gram, free=free)
        sparsity, judge = self.sparsities[layer.weight], self.importance
        judge = judge.at(sparsity) if isinstance(judge, AtSparsity) else judge
        return target.tiling.keep(judge(matrix, target.tiling), sparsity)

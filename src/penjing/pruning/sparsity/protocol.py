"""What an allocation of sparsity sees, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penjing.errors import BudgetError


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Scored:
    """A layer whose blocks have been scored.

    Args:
        name: Qualified name of its weight.
        scores: Per weight of each block, any shape; the lowest goes first.
        sizes: Weights of each block, of the same shape.
        shape: `(outputs, input channels, kernel positions)` of the layer.
        cost: Of one weight, in the unit of the demand.
    """

    name: str
    scores: Tensor
    sizes: Tensor
    shape: tuple[int, int, int]
    cost: float = 1.0

    @property
    def weights(self) -> float:
        """Number of weights."""
        return float(self.sizes.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How much has to go.

    Args:
        amount: Cost to remove from all layers together.
        max_sparsity: Largest share of one layer that may go.

    Raises:
        BudgetError: A negative amount, or a share outside [0, 1].
    """

    amount: float
    max_sparsity: float = 1.0

    def __post_init__(self) -> None:
        if self.amount < 0 or not 0 <= self.max_sparsity <= 1:
            raise BudgetError(
                f"{self.amount} to remove with max_sparsity {self.max_sparsity}; the amount is at "
                "least 0, the share lies in [0, 1]"
            )


class SparsityAllocation(Protocol):
    """Spread zeros over layers. Any callable of this shape is one."""

    def __call__(self, layers: Sequence[Scored], removal: Removal, /) -> dict[str, float]:
        """Sparsity of every layer, by name, in [0, max_sparsity].

        Args:
            layers: What may become sparse.
            removal: How much has to go.

        Returns:
            Sparsity by layer name.
        """
        ...


def lowest(
    layers: Sequence[Scored], values: Sequence[Tensor], removal: Removal
) -> dict[str, float]:
    """Sparsity of every layer when the blocks of the lowest values over all layers go.

    Args:
        layers: The layers.
        values: What decides, a tensor per layer with an entry per block; rises with the scores.
        removal: How much has to go.

    Returns:
        Sparsity by layer name.
    """
    ranked, costs, owners = [], [], []
    for number, (layer, value) in enumerate(zip(layers, values, strict=True)):
        order = layer.scores.flatten().argsort(stable=True)
        sizes = layer.sizes.flatten()[order]
        allowed = sizes.cumsum(0) <= removal.max_sparsity * layer.weights + 1e-6
        # the same rise where scores tie, so that a layer's blocks go in the order of its scores
        ranked.append(value.flatten()[order][allowed].cummax(0).values)
        costs.append(sizes[allowed].double() * layer.cost)
        owners.append(torch.full((int(allowed.sum()),), number))
    order = torch.cat(ranked).argsort(stable=True)
    cost, owner = torch.cat(costs)[order], torch.cat(owners)[order]
    taken = cost.cumsum(0) <= removal.amount * (1 + 1e-9)
    gone = torch.zeros(len(layers), dtype=torch.float64)
    gone.scatter_add_(0, owner[taken], cost[taken])
    return {
        layer.name: float(part) / layer.cost / layer.weights
        for layer, part in zip(layers, gone, strict=True)
    }

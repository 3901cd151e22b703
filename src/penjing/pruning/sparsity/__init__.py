"""How zeros are spread over layers.

Short names: "uniform", "global", "threshold", "erk", "lamp", "dp"; any callable of the shape
`protocol.SparsityAllocation` is one.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.lookup import lookup
from penjing.pruning.sparsity._dp import dp
from penjing.pruning.sparsity._erk import erk
from penjing.pruning.sparsity._global import global_threshold
from penjing.pruning.sparsity._lamp import lamp
from penjing.pruning.sparsity._threshold import Threshold
from penjing.pruning.sparsity._uniform import uniform
from penjing.pruning.sparsity.protocol import Removal, Scored, SparsityAllocation

__all__ = [
    "Removal",
    "Scored",
    "Threshold",
    "dp",
    "erk",
    "global_threshold",
    "lamp",
    "threshold",
    "uniform",
]

threshold = Threshold()


def resolve(allocation: str | SparsityAllocation) -> SparsityAllocation:
    """The allocation that a short name, "module:thing" or an object stands for.

    Args:
        allocation: "uniform", "global", "threshold", "erk", "lamp", "dp", "module:thing", or an
            allocation.

    Returns:
        A callable of the shape `protocol.SparsityAllocation`.

    Raises:
        StrategyError: The name is unknown or stands for something that is no allocation.

    Example:
        >>> resolve("erk") is erk
        True
    """
    known = {
        "uniform": uniform,
        "global": global_threshold,
        "threshold": threshold,
        "erk": erk,
        "lamp": lamp,
        "dp": dp,
    }
    return cast("SparsityAllocation", lookup(allocation, known, "allocation of sparsity"))

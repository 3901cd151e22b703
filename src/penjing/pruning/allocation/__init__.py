"""How much is cut where.

An allocation turns scores, error curves and exact costs into units kept per group. Short names:
"uniform", "global", "isomorphic", "dp"; any callable of the shape `protocol.Allocation` is one.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.allocation._dp import dp
from penjing.pruning.allocation._global import global_
from penjing.pruning.allocation._isomorphic import isomorphic
from penjing.pruning.allocation._uniform import uniform
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.lookup import lookup

__all__ = ["dp", "global_", "isomorphic", "uniform"]


def resolve(allocation: str | Allocation | type) -> Allocation:
    """The allocation that a short name, "module:thing", a class or an object stands for.

    Args:
        allocation: "uniform", "global", "isomorphic", "dp", "module:thing", or an allocation.

    Returns:
        A callable of the shape `protocol.Allocation`.

    Raises:
        StrategyError: The name is unknown or stands for something that is no allocation.

    Example:
        >>> resolve("uniform") is uniform
        True
    """
    known = {name.removesuffix("_"): globals()[name] for name in __all__}
    return cast("Allocation", lookup(allocation, known, "allocation"))

"""How much is cut where.

An allocation turns scores, error curves and exact costs into units kept per group. Short names:
"uniform", "global", "lamp", "isomorphic", "sensitivity", "dp", and "netadapt", "local_search",
"genetic", "reinforcement", which try candidates out; any callable of the shape
`protocol.Allocation` is one.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.allocation._dp import dp
from penjing.pruning.allocation._genetic import Genetic
from penjing.pruning.allocation._global import Global
from penjing.pruning.allocation._isomorphic import isomorphic
from penjing.pruning.allocation._local_search import LocalSearch
from penjing.pruning.allocation._netadapt import NetAdapt
from penjing.pruning.allocation._reinforcement import Reinforcement
from penjing.pruning.allocation._sensitivity import sensitivity
from penjing.pruning.allocation._uniform import uniform
from penjing.pruning.allocation.protocol import Allocation
from penjing.pruning.lookup import lookup

__all__ = [
    "Genetic",
    "Global",
    "LocalSearch",
    "NetAdapt",
    "Reinforcement",
    "dp",
    "genetic",
    "global_",
    "isomorphic",
    "lamp",
    "local_search",
    "netadapt",
    "reinforcement",
    "sensitivity",
    "uniform",
]

global_ = Global()
lamp = Global(normalizer="lamp")
netadapt = NetAdapt()
local_search = LocalSearch()
genetic = Genetic()
reinforcement = Reinforcement()


def resolve(allocation: str | Allocation | type) -> Allocation:
    """The allocation that a short name, "module:thing", a class or an object stands for.

    Args:
        allocation: A short name, "module:thing", or an allocation.

    Returns:
        A callable of the shape `protocol.Allocation`.

    Raises:
        StrategyError: The name is unknown or stands for something that is no allocation.

    Example:
        >>> resolve("uniform") is uniform
        True
    """
    known = {name.removesuffix("_"): globals()[name] for name in __all__ if name.islower()}
    return cast("Allocation", lookup(allocation, known, "allocation"))

"""Which weights matter.

An importance of weights scores the blocks that a pattern makes of a layer; the lowest becomes zero
first. Short names: "magnitude", "random", "wanda", "obs"; any callable of the shape
`protocol.WeightImportance` is one.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.lookup import lookup
from penjing.pruning.weights._magnitude import magnitude
from penjing.pruning.weights._obs import Obs as OBS
from penjing.pruning.weights._random import Random
from penjing.pruning.weights._wanda import Wanda
from penjing.pruning.weights.protocol import Matrix, WeightImportance

__all__ = ["OBS", "Matrix", "Random", "Wanda", "magnitude", "obs", "random", "wanda"]

obs = OBS()
random = Random()
wanda = Wanda()


def resolve(importance: str | WeightImportance | type) -> WeightImportance:
    """The importance that a short name, "module:thing", a class or an object stands for.

    Args:
        importance: "magnitude", "random", "wanda", "obs", "module:thing", or an importance.

    Returns:
        A callable of the shape `protocol.WeightImportance`.

    Raises:
        StrategyError: The name is unknown or stands for something that is no importance.

    Example:
        >>> resolve("magnitude") is magnitude
        True
    """
    known = {name: globals()[name] for name in __all__ if name.islower()}
    return cast("WeightImportance", lookup(importance, known, "importance of weights"))

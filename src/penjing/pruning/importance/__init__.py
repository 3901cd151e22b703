"""Which units matter.

An importance scores the units of a group; the lowest is cut first. Short names: "l1", "l2",
"even", "random", "taylor", "obs"; any callable of the shape `protocol.Importance` is one, and an
object with `prepare` sees data first.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.importance._even import even
from penjing.pruning.importance._l1 import l1
from penjing.pruning.importance._l2 import l2
from penjing.pruning.importance._obs import Obs as OBS
from penjing.pruning.importance._random import Random
from penjing.pruning.importance._taylor import Taylor
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.lookup import lookup

__all__ = ["OBS", "Random", "Taylor", "even", "l1", "l2", "obs", "random", "taylor"]

obs = OBS()
random = Random()
taylor = Taylor()


def resolve(importance: str | Importance | Prepares | type) -> Importance | Prepares:
    """The importance that a short name, "module:thing", a class or an object stands for.

    Args:
        importance: "l1", "l2", "even", "random", "taylor", "obs", "module:thing", or an importance.

    Returns:
        A callable of the shape `protocol.Importance`, or an object that has `prepare` to make one.

    Raises:
        StrategyError: The name is unknown or stands for something that is no importance.

    Example:
        >>> resolve("l2") is l2
        True
    """
    known = {name: globals()[name] for name in __all__ if name.islower()}
    return cast("Importance | Prepares", lookup(importance, known, "importance"))

"""Which weights matter.

An importance of weights scores the blocks that a pattern makes of a layer; the lowest becomes zero
first. Short names: "magnitude", "random", "wanda", "obs", "sparsegpt", "fisher", "snip", "grasp",
"synflow"; any callable of the shape `protocol.WeightImportance` is one, and so is any `Saliency`.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.lookup import lookup
from penjing.pruning.saliency import Fisher, Grasp, Movement, Saliency, Snip, SynFlow
from penjing.pruning.weights._elementwise import Elementwise
from penjing.pruning.weights._magnitude import Magnitude
from penjing.pruning.weights._obs import Obs as OBS
from penjing.pruning.weights._random import Random
from penjing.pruning.weights._sparsegpt import SparseGPT
from penjing.pruning.weights._wanda import Wanda
from penjing.pruning.weights.protocol import Matrix, WeightImportance

__all__ = [
    "OBS",
    "Elementwise",
    "Magnitude",
    "Matrix",
    "Random",
    "SparseGPT",
    "Wanda",
    "fisher",
    "grasp",
    "magnitude",
    "movement",
    "obs",
    "random",
    "snip",
    "sparsegpt",
    "synflow",
    "wanda",
]

magnitude = Magnitude()
obs = OBS()
random = Random()
sparsegpt = SparseGPT()
wanda = Wanda()
fisher = Elementwise(saliency=Fisher())
snip = Elementwise(saliency=Snip())
grasp = Elementwise(saliency=Grasp())
movement = Elementwise(saliency=Movement())
synflow = Elementwise(saliency=SynFlow())

ELSEWHERE = {
    **dict.fromkeys(("l1", "l2", "linf"), "'magnitude'; of blocks also Magnitude(p=1)"),
    "taylor": "'snip' is its first order, 'fisher' the mean square of it over samples",
    "hessian": "'fisher' is the diagonal, 'obs' the Hessian of each layer",
    "obd": "'fisher'",
    "obc": "'obs'",
    "gptq": "it rounds, in penjing.quantize; 'sparsegpt' makes zeros in the same way",
    "lamp": "allocation='lamp' ranks so, with importance='magnitude'",
    "threshold": "allocation='threshold', with importance='magnitude'",
}


def resolve(importance: str | WeightImportance | Saliency | type) -> WeightImportance:
    """The importance that a short name, "module:thing", a class or an object stands for.

    Args:
        importance: A short name, "module:thing", an importance, or a saliency of single elements.

    Returns:
        A callable of the shape `protocol.WeightImportance`.

    Raises:
        StrategyError: The name is unknown or stands for something that is no importance.

    Example:
        >>> resolve("magnitude") is magnitude
        True
    """
    known = {name: globals()[name] for name in __all__ if name.islower()}
    found = lookup(importance, known, "importance of weights", ELSEWHERE)
    return (
        Elementwise(saliency=found)
        if isinstance(found, Saliency)
        else cast("WeightImportance", found)
    )

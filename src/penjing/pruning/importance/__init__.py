"""Which units matter.

An importance scores the units of a group; the lowest is cut first. Short names are the lower-case
names in `__all__`; any callable of the shape `protocol.Importance` is one, an object with `prepare`
sees data first, and a `Saliency` of single elements is added up by unit.
"""

from __future__ import annotations

import math
from typing import cast

from penjing.pruning.importance._ablation import Ablation
from penjing.pruning.importance._activations import Activations
from penjing.pruning.importance._elementwise import Elementwise
from penjing.pruning.importance._even import even
from penjing.pruning.importance._fpgm import fpgm
from penjing.pruning.importance._magnitude import Magnitude
from penjing.pruning.importance._multi_task import MultiTask
from penjing.pruning.importance._norm_scale import NormScale
from penjing.pruning.importance._obs import Obs as OBS
from penjing.pruning.importance._random import Random
from penjing.pruning.importance._sensitivity import Sensitivity
from penjing.pruning.importance._taylor import Taylor
from penjing.pruning.importance.protocol import Importance, Prepares
from penjing.pruning.lookup import lookup
from penjing.pruning.saliency import Fisher, Grasp, Movement, Saliency, Snip, SynFlow

__all__ = [
    "OBS",
    "Ablation",
    "Activations",
    "Elementwise",
    "Magnitude",
    "MultiTask",
    "NormScale",
    "Random",
    "Sensitivity",
    "Taylor",
    "ablation",
    "apoz",
    "bn_scale",
    "chip",
    "entropy",
    "even",
    "fisher",
    "fpgm",
    "grasp",
    "hrank",
    "l1",
    "l2",
    "linf",
    "mean_activation",
    "movement",
    "mutual_information",
    "obs",
    "random",
    "sensitivity",
    "snip",
    "synflow",
    "taylor",
]

l1 = Magnitude(p=1)
l2 = Magnitude(p=2)
linf = Magnitude(p=math.inf)
obs = OBS()
random = Random()
taylor = Taylor()
fisher = Elementwise(saliency=Fisher())
snip = Elementwise(saliency=Snip())
grasp = Elementwise(saliency=Grasp())
movement = Elementwise(saliency=Movement())
synflow = Elementwise(saliency=SynFlow(steps=1))
bn_scale = NormScale()
apoz = Activations(statistic="nonzero")
mean_activation = Activations(statistic="mean")
entropy = Activations(statistic="entropy")
mutual_information = Activations(statistic="information")
hrank = Activations(statistic="rank")
chip = Activations(statistic="independence", samples=64)
ablation = Ablation()
sensitivity = Sensitivity(order=l2)

ELSEWHERE = {
    "magnitude": "magnitudes of units are 'l1', 'l2' and 'linf'",
    "slimming": "'bn_scale', after training with the penalty Slimming",
    "hessian": "'fisher' is the diagonal, 'obs' the Hessian of each layer",
    "obd": "'fisher'",
    "obc": "'obs'",
    "zero": "'apoz'",
    "kl": "'ablation'",
    "oracle": "'ablation'",
    "mutual_info": "'mutual_information'",
    "lamp": "allocation='lamp' ranks so, with importance='l2'",
    "fold": "repair='fold' merges what goes, under any importance",
    "folding": "repair='fold' merges what goes, under any importance",
    "wanda": "it ranks single weights, in penjing.sparsify",
    "sparsegpt": "it ranks single weights, in penjing.sparsify; for units 'obs'",
}


def resolve(importance: str | Importance | Prepares | Saliency | type) -> Importance | Prepares:
    """The importance that a short name, "module:thing", a class or an object stands for.

    Args:
        importance: A short name, "module:thing", an importance, or a saliency of single elements.

    Returns:
        A callable of the shape `protocol.Importance`, or an object that has `prepare` to make one.

    Raises:
        StrategyError: The name is unknown or stands for something that is no importance.

    Example:
        >>> resolve("l2") is l2
        True
    """
    known = {name: globals()[name] for name in __all__ if name.islower()}
    found = lookup(importance, known, "importance", ELSEWHERE)
    return (
        Elementwise(saliency=found)
        if isinstance(found, Saliency)
        else cast("Importance | Prepares", found)
    )

"""Values for single elements, from the whole network at once: for units and for weights.

`importance.Elementwise` adds them up over units, `weights.Elementwise` averages them over blocks;
both verbs take a saliency as it is. Short names: "fisher", "snip", "grasp", "movement",
"synflow".
"""

from __future__ import annotations

from penjing.pruning.saliency._fisher import Fisher
from penjing.pruning.saliency._grasp import Grasp
from penjing.pruning.saliency._movement import Movement
from penjing.pruning.saliency._snip import Snip
from penjing.pruning.saliency._synflow import SynFlow
from penjing.pruning.saliency.protocol import Saliency

__all__ = ["Fisher", "Grasp", "Movement", "Saliency", "Snip", "SynFlow"]

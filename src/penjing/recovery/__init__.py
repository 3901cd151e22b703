"""Recovery: what is done for a cut network without training it."""

from penjing.recovery.fold import Fold
from penjing.recovery.recalibrate import recalibrate
from penjing.recovery.reconstruct import Reconstruct, reconstruct
from penjing.recovery.repair import repair
from penjing.recovery.tune import Tune, tune

__all__ = ["Fold", "Reconstruct", "Tune", "recalibrate", "reconstruct", "repair", "tune"]

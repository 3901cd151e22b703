"""Recovery: what is done for a cut network without training it."""

from penjing.recovery.recalibrate import recalibrate
from penjing.recovery.reconstruct import Reconstruct, reconstruct

__all__ = ["Reconstruct", "recalibrate", "reconstruct"]

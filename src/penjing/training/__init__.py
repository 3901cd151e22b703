"""The one training loop. Sparse training, quantization-aware training and loggers are callbacks."""

from penjing.training.callbacks import Callback
from penjing.training.loop import fit
from penjing.training.optimizers import OPTIMIZERS
from penjing.training.run import FitResult, Run
from penjing.training.schedules import SCHEDULES
from penjing.training.settings import Fit, FitOptions
from penjing.training.teacher import Teacher

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Callback",
    "Fit",
    "FitOptions",
    "FitResult",
    "Run",
    "Teacher",
    "fit",
]

"""The one training loop. Sparse training, quantization-aware training and loggers are callbacks."""

from penjing.training.averaging import Averaging
from penjing.training.callbacks import Callback
from penjing.training.loop import fit
from penjing.training.moments import cut_moments
from penjing.training.optimizers import OPTIMIZERS
from penjing.training.run import FitResult, Run
from penjing.training.schedules import SCHEDULES
from penjing.training.settings import Fit, FitOptions
from penjing.training.teacher import AverageTeacher, ExitTeacher, Teacher, Teachers

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AverageTeacher",
    "Averaging",
    "Callback",
    "ExitTeacher",
    "Fit",
    "FitOptions",
    "FitResult",
    "Run",
    "Teacher",
    "Teachers",
    "cut_moments",
    "fit",
]

"""What "good" means: data, loss, metrics; batches in the shapes people have; calibration data."""

from penjing.task.batches import Batch, split
from penjing.task.calibration import Calibration
from penjing.task.comparison import ClassScores, Comparison, agreement, compare
from penjing.task.definition import Task
from penjing.task.randomness import evaluating, random_kept, random_state, set_random_state
from penjing.task.recovery import Recovered, chained, recovery
from penjing.task.several import Tasks, one_or_several

__all__ = [
    "Batch",
    "Calibration",
    "ClassScores",
    "Comparison",
    "Recovered",
    "Task",
    "Tasks",
    "agreement",
    "chained",
    "compare",
    "evaluating",
    "one_or_several",
    "random_kept",
    "random_state",
    "recovery",
    "set_random_state",
    "split",
]

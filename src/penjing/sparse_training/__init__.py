"""Zeros that grow while a network trains.

Methods: `Gradual` (magnitude, by a schedule), `Movement`, `STR` (learned thresholds), `Evolving`
(RigL, SET), `Alternating` (AC/DC), `Rewinding` (lottery tickets). They run as a callback of the
training loop (`SparseTraining`), of Lightning (`for_lightning`), of transformers (`for_trainer`),
or in any other loop (`Sparsifier`). Penalties draw weights or units to zero instead: `L1`,
`Slimming`, `GroupLasso`, `Growing`.
"""

from __future__ import annotations

from typing import cast

from penjing.pruning.lookup import lookup
from penjing.sparse_training._alternating import Alternating
from penjing.sparse_training._evolving import Evolving
from penjing.sparse_training._following import Wish
from penjing.sparse_training._gradual import Gradual
from penjing.sparse_training._lightning import for_lightning
from penjing.sparse_training._movement import Movement
from penjing.sparse_training._rewinding import Rewinding
from penjing.sparse_training._str import STR
from penjing.sparse_training._trainer import for_trainer
from penjing.sparse_training.callback import SparseTraining
from penjing.sparse_training.masks import Masks
from penjing.sparse_training.parts import vanished
from penjing.sparse_training.penalties import (
    L1,
    GroupLasso,
    Growing,
    Penalised,
    Penalty,
    Slimming,
    attach,
)
from penjing.sparse_training.protocol import Method, Moment
from penjing.sparse_training.schedules import SHAPES, SparsitySchedule
from penjing.sparse_training.sparsifier import Sparsifier

__all__ = [
    "L1",
    "SHAPES",
    "STR",
    "Alternating",
    "Evolving",
    "Gradual",
    "GroupLasso",
    "Growing",
    "Masks",
    "Method",
    "Moment",
    "Movement",
    "Penalised",
    "Penalty",
    "Rewinding",
    "Slimming",
    "SparseTraining",
    "Sparsifier",
    "SparsitySchedule",
    "Wish",
    "attach",
    "for_lightning",
    "for_trainer",
    "resolve",
    "vanished",
]

ELSEWHERE = {
    **dict.fromkeys(("agp", "gmp", "magnitude"), "'gradual', by the cubic schedule unless told"),
    **dict.fromkeys(("acdc", "ac-dc"), "'ac/dc'"),
    **dict.fromkeys(("lth", "imp", "rewinding", "iterative"), "'lottery'"),
    **dict.fromkeys(
        ("l1", "slimming", "group_lasso", "grouplasso", "greg"),
        "a penalty; give penalty= with an object of penjing.sparse_training",
    ),
}


def resolve(method: str | Method, schedule: SparsitySchedule) -> Method:
    """The method that a short name, "module:thing" or an object stands for.

    Args:
        method: "gradual", "movement", "str", "rigl", "set", "ac/dc", "lottery", or a method, which
            has its own sparsity.
        schedule: What a method by name is made with: all of it for the first three, its final
            sparsity and its end for the next three, its final sparsity for "lottery".

    Returns:
        The method.

    Raises:
        StrategyError: The name is unknown.
        BudgetError: A sparsity that the method cannot have.

    Example:
        >>> resolve("rigl", SparsitySchedule(sparsity=0.9)).final_sparsity
        0.9
    """
    if not isinstance(method, str):
        return method
    share, end = schedule.sparsity, schedule.end
    known = {
        "gradual": lambda: Gradual(schedule=schedule),
        "movement": lambda: Movement(schedule=schedule),
        "str": lambda: STR(schedule=schedule),
        "lottery": lambda: Rewinding(sparsity=share),
        "rigl": lambda: Evolving(sparsity=share, end=end),
        "set": lambda: Evolving(sparsity=share, end=end, grow="random"),
        "ac/dc": lambda: Alternating(sparsity=share, end=min(end, 0.95)),
    }
    return cast("Method", lookup(method, known, "method of sparse training", ELSEWHERE)())

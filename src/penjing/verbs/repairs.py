"""Repairs by name, and what each name stands for."""

from __future__ import annotations

from typing import Literal, get_args

from penjing.recovery.fold import Fold
from penjing.recovery.reconstruct import Reconstruct
from penjing.recovery.repair import How
from penjing.recovery.tune import Tune

Name = Literal["auto", "least_squares", "recalibrate", "tune", "fold", "variance", "bias"]
Repair = Name | Reconstruct | Tune | Fold | None

REPAIRS: tuple[str, ...] = get_args(Name)


def settled(chosen: Repair, data: bool, seed: int) -> How | None:
    """The repair that a choice stands for.

    Args:
        chosen: As the caller gave it.
        data: Whether there is calibration data.
        seed: Of the call.

    Returns:
        The repair with its settings; None for none.
    """
    if chosen == "auto":
        return Reconstruct(seed=seed) if data else None
    if chosen == "least_squares":
        return Reconstruct(seed=seed)
    if chosen == "variance":
        return Reconstruct(fit="variance", seed=seed)
    if chosen == "bias":
        return Reconstruct(fit="bias", seed=seed)
    if chosen == "tune":
        return Tune(first=Reconstruct(seed=seed), seed=seed)
    if chosen == "fold":
        return Fold()
    return chosen


def repair_name(repair: How | None) -> str:
    """Name of a repair, for the report."""
    if isinstance(repair, Reconstruct):
        return repair.fit
    if isinstance(repair, Fold):
        return "fold"
    return "off" if repair is None else "recalibrate" if repair == "recalibrate" else "tune"

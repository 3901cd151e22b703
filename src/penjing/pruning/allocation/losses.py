"""What the options of every group cost in error, for allocations that read error curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning.allocation.protocol import checked_scores, error_curve
from penjing.pruning.allocation.space import Floats, Space


def losses_of(
    space: Space, scores: Mapping[str, Tensor], errors: Mapping[str, Tensor]
) -> tuple[Floats, ...]:
    """Error of every option of every group.

    Args:
        space: What may be kept.
        scores: Importance per group, read where `errors` has no entry.
        errors: Error after dropping the k lowest units, shape `(units + 1,)`.

    Returns:
        Per group of the space, aligned with its options: falling as more is kept.

    Raises:
        StrategyError: A score or an error is missing, of a wrong shape or not finite.
    """
    return tuple(
        _losses(group, scores, errors)[group.units - choice]
        for group, choice in zip(space.groups, space.options, strict=True)
    )


def _losses(group: Group, scores: Mapping[str, Tensor], errors: Mapping[str, Tensor]) -> Floats:
    """Error by units dropped, shape (units + 1,), non-decreasing; the last may be infinite."""
    if group.name not in errors:
        return error_curve(checked_scores(group, scores)).numpy()
    curve = errors[group.name].detach().cpu().double().numpy()
    if curve.shape != (group.units + 1,):
        raise StrategyError(
            f"group {group.name!r} has {group.units} units and errors of shape {curve.shape}; "
            f"there must be one per number of dropped units, ({group.units + 1},)"
        )
    if not np.isfinite(curve[:-1]).all():
        raise StrategyError(f"group {group.name!r} has errors that are not finite")
    return np.maximum.accumulate(curve)

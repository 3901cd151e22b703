"""Bounds on the drop of several tasks, as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penjing.compression.constraints import parse
from penjing.errors import BudgetError
from penjing.task import Task, Tasks, one_or_several

DROP = "max_drop"


def together(
    task: Task | Tasks | Mapping[str, Task] | None, constraints: Mapping[str, Any]
) -> tuple[Task | Tasks | None, dict[str, float | str]]:
    """Several tasks as one, with one bound on what each may lose.

    Args:
        task: One task, or several by name.
        constraints: As the caller wrote them; `max_drop` may have a bound for every task.

    Returns:
        The task, and constraints with the loosest bound: a drop of a task with a tighter one counts
        for more, in proportion.

    Raises:
        BudgetError: Bounds for tasks that are not there, or not for all, or without data to judge
            each by.
    """
    bounds = constraints.get(DROP)
    several = None if task is None else one_or_several(task)
    if not isinstance(several, Tasks):
        if isinstance(bounds, Mapping):
            raise BudgetError(
                f"max_drop has bounds for {sorted(bounds)} and task is no dict; give "
                "task={'name': Task(...)}, or one number"
            )
        return several, dict(constraints)
    if not isinstance(bounds, Mapping):
        return several, dict(constraints)
    if set(bounds) != set(several.tasks):
        raise BudgetError(
            f"max_drop has bounds for {sorted(bounds)}, the tasks are "
            f"{sorted(several.tasks)}; give one for every task"
        )
    values = {name: parse({DROP: bound})[DROP].value for name, bound in bounds.items()}
    if not several.judges:
        raise BudgetError(
            "max_drop has a bound for every task, and not every task has validation data with "
            "metrics or a loss; without them networks are compared by their agreement alone, so "
            "give Task(val=loader, metrics=...) or one number"
        )
    loosest = max(values.values())
    weights = {
        n: 1.0 if v == loosest else loosest / v if v else math.inf for n, v in values.items()
    }
    return replace(several, weights=weights), {**constraints, DROP: loosest}

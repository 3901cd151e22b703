"""Figures of every step of a chain beside the original's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from penjing.errors import InputError
from penjing.task import Task, recovery

X = torch.ones(4, 1)
Y = torch.zeros(4, 1)


def times(factor: float) -> nn.Module:
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(factor)
    return layer


def largest(outputs, _labels):
    return float(outputs.abs().max())


TASK = Task(
    val=[(X, Y)], test=[(2 * X, Y)], loss=nn.functional.mse_loss, metrics={"largest": largest}
)


def test_every_step_has_its_figures_and_ratios_on_both_splits():
    rows = recovery(TASK, times(1), {"cut": times(4), "tuned": times(2)})
    found = {(r.split, r.step, r.figure): (r.before, r.after, r.ratio, r.change) for r in rows}
    assert found == {
        ("val", "cut", "largest"): (1, 4, 4, 4),
        ("val", "cut", "loss"): (1, 16, 16, 16),
        ("val", "tuned", "largest"): (4, 2, 2, 0.5),
        ("val", "tuned", "loss"): (16, 4, 4, 0.25),
        ("test", "cut", "largest"): (2, 8, 4, 4),
        ("test", "cut", "loss"): (4, 64, 16, 16),
        ("test", "tuned", "largest"): (8, 4, 2, 0.5),
        ("test", "tuned", "loss"): (64, 16, 4, 0.25),
    }


def test_a_ratio_to_nothing_is_not_a_number():
    (row, _) = recovery(
        Task(val=[(X, Y)], loss=TASK.loss, metrics=TASK.metrics), times(0), {"a": times(1)}
    )
    assert math.isnan(row.ratio)


def test_a_task_without_data_to_judge_by_is_refused():
    with pytest.raises(InputError, match="no val and no test"):
        recovery(Task(train=[(X, Y)]), times(1), {})


def test_several_tasks_by_name_are_judged_each_by_its_own():
    rows = recovery({"one": TASK, "other": TASK}, times(1), {"cut": times(4)})
    figures = {row.figure for row in rows}
    assert figures == {"one largest", "one loss", "other largest", "other loss"}

"""Budgets as people write them."""

from __future__ import annotations

import pytest

from penjing.errors import BudgetError
from penjing.pruning.budgets import absolute

COSTS = {"macs": 2000.0, "params": 10.0}


@pytest.mark.parametrize(
    ("given", "bound"),
    [(500, 500.0), ("50%", 1000.0), (" 47.5 % ", 950.0), ("500", 500.0), ("100%", 2000.0)],
)
def test_a_bound_is_absolute_or_a_share(given, bound):
    assert absolute({"macs": given}, COSTS) == {"macs": bound}


@pytest.mark.parametrize(
    "given", [0, -1, "0%", "101%", "half", "", None, float("nan"), "inf", True]
)
def test_a_bound_that_makes_no_sense_is_refused(given):
    with pytest.raises(BudgetError, match="constraint 'macs' is"):
        absolute({"macs": given}, COSTS)


def test_an_unknown_cost_is_answered_with_the_known_ones():
    with pytest.raises(BudgetError, match=r"'latency'.*'macs', 'params'"):
        absolute({"latency": 1}, COSTS)

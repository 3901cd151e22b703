"""Allocations of sparsity: the contract, and what each is for."""

import pytest
import torch

from penjing.errors import BudgetError
from penjing.pruning.sparsity import Removal, Scored, dp, erk, lamp
from penjing.testing import check_sparsity_allocation

PAIR = [
    Scored(name="thin", scores=torch.arange(4.0), sizes=torch.ones(4), shape=(2, 2, 1)),
    Scored(name="wide", scores=torch.arange(64.0), sizes=torch.ones(64), shape=(8, 8, 1)),
]


@pytest.mark.parametrize("name", ["uniform", "global", "erk", "lamp", "dp"])
def test_every_allocation_of_sparsity_keeps_the_contract(name):
    check_sparsity_allocation(name)


def test_erk_leaves_thin_layers_denser():
    found = erk(PAIR, Removal(amount=34))
    assert found["thin"] < found["wide"]


def test_lamp_never_takes_the_largest_weight_of_a_layer_while_others_are_left():
    found = lamp(PAIR, Removal(amount=66))
    assert found == {"thin": 0.75, "wide": 63 / 64}


def test_dp_takes_what_costs_the_least_error_per_cost():
    dear = Scored(
        name="dear", scores=torch.arange(4.0), sizes=torch.ones(4), shape=(2, 2, 1), cost=10.0
    )
    found = dp([PAIR[0], dear], Removal(amount=31))
    assert found["dear"] == 0.75


def test_a_negative_amount_is_refused():
    with pytest.raises(BudgetError, match="at least 0"):
        Removal(amount=-1)

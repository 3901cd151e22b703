"""Allocations of sparsity: the contract, and what each is for."""

import pytest
import torch

from penjing.errors import BudgetError, StrategyError
from penjing.pruning.sparsity import Removal, Scored, Threshold, dp, erk, lamp
from penjing.testing import check_sparsity_allocation

PAIR = [
    Scored(name="thin", scores=torch.arange(4.0), sizes=torch.ones(4), shape=(2, 2, 1)),
    Scored(name="wide", scores=torch.arange(64.0), sizes=torch.ones(64), shape=(8, 8, 1)),
]


@pytest.mark.parametrize("name", ["uniform", "global", "threshold", "erk", "lamp", "dp"])
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


def test_a_threshold_is_a_factor_times_the_spread_times_the_shape():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(200, generator=generator) * scale for scale in (1.0, 5.0, 0.1)]
    layers = [
        Scored(name=str(n), scores=w.square(), sizes=torch.ones(200), shape=(10, 20, 1))
        for n, w in enumerate(weights)
    ]
    found = Threshold(shape=((0.0, 1.0), (1.0, 3.0)))(layers, Removal(amount=300))
    factors = []
    for number, (w, height) in enumerate(zip(weights, (1.0, 2.0, 3.0), strict=True)):
        gone = round(found[str(number)] * 200)
        sizes = w.abs().sort().values / (w.square().mean().sqrt() * height)
        factors.append((float(sizes[gone - 1]), float(sizes[gone])))
    # one factor lies above all that went and below all that stayed
    assert max(low for low, _ in factors) <= min(high for _, high in factors)


@pytest.mark.parametrize(
    ("depth", "height"), [(0.0, 1.0), (0.1, 1.0), (0.4, 2.0), (0.6, 3.0), (0.8, 2.5), (1.0, 2.0)]
)
def test_a_piecewise_shape_is_straight_between_its_points(depth, height):
    shape = Threshold(shape=((0.2, 1.0), (0.6, 3.0), (1.0, 2.0)))
    assert shape.at(depth) == pytest.approx(height)


@pytest.mark.parametrize("shape", [(), ((0.5, 1.0), (0.2, 1.0)), ((0.0, 0.0),), ((2.0, 1.0),)])
def test_a_shape_that_makes_no_sense_is_refused(shape):
    with pytest.raises(StrategyError, match="depths rising"):
        Threshold(shape=shape)

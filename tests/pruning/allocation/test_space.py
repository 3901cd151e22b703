import pytest

from penjing.errors import BudgetError, InfeasibleError
from penjing.plan import Group
from penjing.pruning.allocation.protocol import Demand
from penjing.pruning.allocation.space import Space, options, units_dropped

GROUPS = [Group("b", units=8, slices=()), Group("a", units=4, slices=())]


def total(kept):
    return float(10 + sum(kept.values()))


@pytest.mark.parametrize(
    ("units", "ratio", "dropped"),
    [
        (10, 0.8, 8),
        (10, 0.9, 9),
        (10, 0.3, 3),
        (5, 0.5, 3),
        (7, 0.0, 0),
        (100, 0.29, 29),
        (3, 0.1, 0),
    ],
)
def test_dropped_units_are_rounded_to_the_nearest(units, ratio, dropped):
    assert units_dropped(units, ratio) == dropped


def test_a_group_keeps_its_floor_whatever_is_asked():
    assert options(10, Demand(pruning_ratio=0.5, max_pruning_ratio=0.7)).tolist() == list(
        range(3, 11)
    )


def test_a_group_never_loses_its_last_unit():
    assert options(2, Demand(pruning_ratio=0.5)).tolist() == [1, 2]


def test_the_floor_itself_is_rounded_up_to_a_step():
    demand = Demand(pruning_ratio=0.5, round_to=4, max_pruning_ratio=0.5)
    assert options(10, demand).tolist() == [8, 10]


def test_a_group_smaller_than_the_step_is_left_whole():
    assert options(4, Demand(pruning_ratio=0.5, round_to=8)).tolist() == [4]


def test_a_ratio_of_its_own_leaves_one_option():
    assert options(10, Demand(pruning_ratio=0.5), ratio=0.8).tolist() == [2]


def test_a_step_larger_than_every_group_is_refused():
    with pytest.raises(BudgetError, match="round_to is 16 and the largest group has 8"):
        Space.of(GROUPS, {}, Demand(pruning_ratio=0.5, round_to=16), weighted=False)


def test_a_budget_without_a_cost_lists_the_known_costs():
    costs = {"params": total, "macs": total}
    with pytest.raises(BudgetError, match="'latency_ms'; known costs are macs, params"):
        Space.of(GROUPS, costs, Demand(budgets={"latency_ms": 1}), weighted=True)


def test_a_ratio_for_a_group_that_is_not_there_is_refused():
    with pytest.raises(BudgetError, match="'c', which is not there; groups are 'a', 'b'"):
        Space.of(GROUPS, {}, Demand(ratios={"c": 0.5}), weighted=False)


def test_a_weighted_ratio_needs_the_cost_of_parameters():
    with pytest.raises(BudgetError, match=r"give costs\['params'\]"):
        Space.of(GROUPS, {}, Demand(pruning_ratio=0.5), weighted=True)


def test_an_infeasible_budget_carries_the_nearest_point():
    with pytest.raises(InfeasibleError) as raised:
        Space.of(GROUPS, {"macs": total}, Demand(budgets={"macs": 5}), weighted=True)
    assert raised.value.nearest == {"macs": 12.0}


def test_an_infeasible_budget_says_that_the_rest_cannot_be_cut():
    with pytest.raises(InfeasibleError, match="locked, ignored or no group reaches"):
        Space.of(GROUPS, {"macs": total}, Demand(budgets={"macs": 5}), weighted=True)


def test_a_budget_that_only_the_floor_hinders_says_which_floor():
    demand = Demand(budgets={"macs": 13}, max_pruning_ratio=0.5, round_to=2)
    with pytest.raises(InfeasibleError, match=r"In the way: max_pruning_ratio=0\.5, round_to=2"):
        Space.of(GROUPS, {"macs": total}, demand, weighted=True)


def test_an_unreachable_ratio_is_answered_in_shares():
    demand = Demand(pruning_ratio=0.5, ratios={"b": 0.0}, max_pruning_ratio=0.5)
    with pytest.raises(InfeasibleError) as raised:
        Space.of(GROUPS, {"params": total}, demand, weighted=True)
    assert raised.value.nearest["pruning_ratio"] == pytest.approx(2 / 12)


def test_groups_of_one_name_are_refused():
    with pytest.raises(BudgetError, match="same name"):
        Space.of([GROUPS[0], GROUPS[0]], {}, Demand(pruning_ratio=0.5), weighted=False)

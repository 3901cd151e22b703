import pytest
import torch

from penjing.errors import BudgetError, StrategyError
from penjing.plan import Group
from penjing.pruning.allocation.protocol import Demand, checked_scores, error_curve

GROUP = Group("conv", units=3, slices=())


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 50, 100, float("nan"), "0.5", True])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(BudgetError, match=r"share of units in \[0, 1\)"):
        Demand(pruning_ratio=ratio)


def test_a_ratio_in_percent_is_answered_with_the_share():
    with pytest.raises(BudgetError, match=r"30 percent is 0\.3"):
        Demand(pruning_ratio=30)


def test_a_ratio_above_the_largest_permitted_names_both():
    with pytest.raises(BudgetError, match=r"0\.95, above max_pruning_ratio=0\.9; raise"):
        Demand(pruning_ratio=0.95)


def test_a_ratio_of_one_group_is_checked_by_its_name():
    with pytest.raises(BudgetError, match=r"pruning_ratio_dict\['conv'\] is 80"):
        Demand(ratios={"conv": 80})


@pytest.mark.parametrize("bound", [0, -1, float("inf"), float("nan"), "50%", None])
def test_a_budget_that_is_no_positive_number_is_refused(bound):
    with pytest.raises(BudgetError, match="finite and above 0"):
        Demand(budgets={"macs": bound})


@pytest.mark.parametrize("step", [0, -8, 2.0, True])
def test_a_step_that_is_no_positive_whole_number_is_refused(step):
    with pytest.raises(BudgetError, match="round_to"):
        Demand(pruning_ratio=0.5, round_to=step)


def test_a_demand_for_nothing_is_refused():
    with pytest.raises(BudgetError, match="nothing is asked for"):
        Demand()


def test_an_error_curve_of_dead_units_is_flat():
    assert error_curve(torch.zeros(3)).tolist() == [0, 0, 0, 0]


def test_missing_scores_name_the_group():
    with pytest.raises(StrategyError, match="'conv' has no scores"):
        checked_scores(GROUP, {})


@pytest.mark.parametrize(
    "scores",
    [
        torch.ones(2),
        torch.ones(3, 1),
        torch.tensor([1.0, float("nan"), 2]),
        torch.tensor([-1.0, 0, 1]),
    ],
    ids=["short", "two-dimensional", "nan", "negative"],
)
def test_scores_that_break_the_contract_are_refused(scores):
    with pytest.raises(StrategyError, match="'conv'"):
        checked_scores(GROUP, {"conv": scores})

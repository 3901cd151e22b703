"""The shipped checks catch what they are for."""

import pytest
import torch

from penjing.pruning.allocation import uniform
from penjing.pruning.importance import l2
from penjing.testing import check_allocation, check_importance


def negative(model, group):
    return -l2(model, group)


def short(model, group):
    return l2(model, group)[1:]


def attached(model, group):
    return l2(model, group).requires_grad_()


def fickle(model, group):
    return l2(model, group) * torch.rand(1)


def meddling(model, group):
    next(model.parameters()).data.add_(1)
    return l2(model, group)


def training(model, group):
    model.train()
    return l2(model, group)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (negative, "negative"),
        (short, "shape"),
        (attached, "gradient"),
        (fickle, "differ"),
        (meddling, "differ|changed"),
        (training, "mode"),
    ],
)
def test_an_importance_that_breaks_its_promise_is_caught(strategy, message):
    with pytest.raises(AssertionError, match=message):
        check_importance(strategy)


def keeps_all(groups, *_):
    return {group.name: group.units for group in groups}


def keeps_none(groups, *_):
    return {group.name: 0 for group in groups}


def favours_the_first(groups, scores, errors, costs, demand):
    kept = uniform(groups, scores, errors, costs, demand)
    return (
        {**kept, groups[0].name: groups[0].units}
        if not demand.budgets and not demand.ratios
        else kept
    )


def forgets_a_group(groups, scores, errors, costs, demand):
    return dict(list(uniform(groups, scores, errors, costs, demand).items())[1:])


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (keeps_all, "own ratio|above the budget"),
        (keeps_none, "keeps 0"),
        (favours_the_first, "order of the groups"),
        (forgets_a_group, "names are"),
    ],
)
def test_an_allocation_that_breaks_its_promise_is_caught(strategy, message):
    with pytest.raises(AssertionError, match=message):
        check_allocation(strategy)


def test_an_allocation_that_answers_the_impossible_is_caught():
    def careless(groups, scores, errors, costs, demand):
        if demand.budgets.get("macs") == 1.0:
            return {group.name: 1 for group in groups}
        return uniform(groups, scores, errors, costs, demand)

    with pytest.raises(AssertionError, match="not an InfeasibleError"):
        check_allocation(careless)

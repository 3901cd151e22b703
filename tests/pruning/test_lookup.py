import re
from dataclasses import dataclass

import pytest

from penjing import sparse_training
from penjing.errors import StrategyError
from penjing.pruning import importance, weights
from penjing.pruning.lookup import lookup
from penjing.pruning.patterns import Pattern

SCHEDULE = sparse_training.SparsitySchedule(sparsity=0.5)
KNOWN = {"l2": abs, "taylor": max}


@dataclass(frozen=True)
class Needy:
    number: int

    def __call__(self):
        return self.number


@dataclass(frozen=True)
class Ready:
    number: int = 7

    def __call__(self):
        return self.number


def test_a_known_name_gives_its_strategy():
    assert lookup("l2", KNOWN, "importance") is abs


def test_a_module_and_a_name_in_it_give_a_strategy_from_anywhere():
    assert lookup("operator:neg", KNOWN, "importance")(2) == -2


def test_a_class_is_made_with_its_defaults():
    assert lookup(Ready, KNOWN, "importance") == Ready()


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(StrategyError, match=r"did you mean 'taylor'.*'l2', 'taylor'"):
        lookup("tailor", KNOWN, "importance")


def test_a_name_far_from_all_gets_no_suggestion():
    with pytest.raises(StrategyError) as raised:
        lookup("xyz", KNOWN, "importance")
    assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize("name", ["no_such_module:thing", "operator:no_such_thing", ":thing"])
def test_what_cannot_be_imported_is_named(name):
    with pytest.raises(StrategyError, match=f"'{name}' cannot be imported"):
        lookup(name, KNOWN, "importance")


def test_a_class_that_needs_arguments_is_refused_with_the_fix():
    with pytest.raises(StrategyError, match=r"Needy needs arguments.*give an object"):
        lookup(Needy, KNOWN, "importance")


def test_what_is_no_strategy_is_refused_with_its_type():
    with pytest.raises(StrategyError, match="it is a float"):
        lookup(0.5, KNOWN, "importance")


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: importance.resolve("lamp"), "allocation='lamp'"),
        (lambda: importance.resolve("slimming"), "'bn_scale'"),
        (lambda: weights.resolve("taylor"), "'snip' is its first order"),
        (lambda: weights.resolve("L1"), "'magnitude'"),
        (lambda: sparse_training.resolve("agp", SCHEDULE), "'gradual'"),
        (lambda: sparse_training.resolve("group_lasso", SCHEDULE), "penalty="),
        (lambda: sparse_training.SparsitySchedule(sparsity=0.5, shape="polynomial"), "'cubic'"),
        (lambda: Pattern.parse("unstructured"), "'element'"),
        (lambda: Pattern.parse("connection"), "'kernel'"),
    ],
)
def test_a_name_that_papers_use_is_answered_with_what_it_is_here(ask, answer):
    with pytest.raises(StrategyError, match=re.escape(answer)):
        ask()

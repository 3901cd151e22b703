"""Plans are data: JSON both ways, refused where they do not fit."""

from __future__ import annotations

import json

import pytest

from penjing.errors import PlanError
from penjing.plan import PLAN_VERSION, Group, Groups, Plan, Slice, fingerprint
from penjing.testing import tiny
from penjing.verbs.find_groups import find_groups
from penjing.verbs.prune import prune

PLAN = Plan({"a": (0, 2)}, {"a": 4, "b": 2}, "0123")


def groups(units=4, mark="0123"):
    pair = (Group("a", units, (Slice("a.weight", 0),)), Group("b", 2, (Slice("b.weight", 0),)))
    return Groups(pair, (), mark, 10, 1.0)


def test_a_plan_comes_back_from_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_plan_knows_what_stays():
    assert (PLAN.kept("a"), PLAN.kept("b")) == ((1, 3), (0, 1))


def test_a_plan_for_the_same_groups_is_accepted():
    assert PLAN.check(groups()) is None  # any other answer is an error


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ({"a": (4,)}, r"has 4 units \(0\.\.3\); the plan drops \[4\]"),
        ({"a": (-1,)}, r"drops \[-1\]"),
        ({"a": (2, 0)}, "must ascend"),
        ({"a": (0, 0)}, "must ascend"),
        ({"a": (0, 1, 2, 3)}, "drops all 4 units; at least one must stay"),
        ({"c": (0,)}, "'c', which is not among its groups"),
    ],
    ids=["outside", "negative", "order", "repeat", "all", "unknown"],
)
def test_a_plan_that_makes_no_sense_is_refused(drop, message):
    with pytest.raises(PlanError, match=message):
        Plan(drop, {"a": 4, "b": 2}, "0123")


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (groups(units=3), "has 3 units and the plan was made for 4.*applied twice"),
        (groups(mark="4567"), "fingerprint 0123.*another model"),
        (Groups((), (), "0123", 0, 0.0), "'a', which this network does not have"),
    ],
    ids=["units", "fingerprint", "names"],
)
def test_a_plan_for_other_groups_is_refused(seen, message):
    with pytest.raises(PlanError, match=message):
        PLAN.check(seen)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"version": 1}',
        PLAN.to_json().replace("[", "", 1),
        '{"version": "x"}',
    ],
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("bits", {"stem": True}, r"plan\.bits\['stem'\] must be a whole number, got True"),
        ("bits", {"stem": 4.0}, r"plan\.bits\['stem'\] must be a whole number, got 4\.0"),
        ("units", {"stem": "8"}, r"plan\.units\['stem'\] must be a whole number, got '8'"),
        ("drop", {"stem": [1.9]}, r"plan\.drop\['stem'\]\[0\] must be a whole number, got 1\.9"),
        ("sparsity", {"stem": True}, r"plan\.sparsity\['stem'\] must be a number, got True"),
        ("version", True, r"plan\.version must be a whole number, got True"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(field, value, place):
    content = {**json.loads(PLAN.to_json()), field: value}
    with pytest.raises(PlanError, match=place):
        Plan.from_json(json.dumps(content))


def test_a_plan_of_a_later_version_asks_for_an_upgrade():
    content = {**json.loads(PLAN.to_json()), "version": PLAN_VERSION + 1}
    with pytest.raises(PlanError, match="upgrade penjing"):
        Plan.from_json(json.dumps(content))


def test_a_plan_applied_twice_is_refused():
    pruned = prune(tiny.make("mlp"), tiny.example("mlp"), pruning_ratio=0.5)
    with pytest.raises(PlanError, match="applied twice"):
        prune(pruned.model, tiny.example("mlp"), plan=pruned.plan)


def test_a_plan_for_another_network_is_refused():
    plan = prune(tiny.make("mlp"), tiny.example("mlp"), pruning_ratio=0.5).plan
    with pytest.raises(PlanError, match="another"):
        prune(tiny.make("plain"), tiny.example("plain"), plan=plan)


def test_the_fingerprint_does_not_depend_on_the_order_of_tensors():
    assert fingerprint({"a": (1,), "b": (2,)}) == fingerprint({"b": (2,), "a": (1,)})


def test_a_group_is_found_by_name():
    found = find_groups(tiny.make("mlp"), tiny.example("mlp"))
    assert found["2"].units == 8


def test_an_unknown_group_is_answered_with_the_known_ones():
    found = find_groups(tiny.make("mlp"), tiny.example("mlp"))
    with pytest.raises(PlanError, match="'0', '2'"):
        found["1"]

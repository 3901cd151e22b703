"""What a network carries about itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from penjing.errors import CheckpointError, InputError
from penjing.graph.capture import capture
from penjing.graph.form import graph_form
from penjing.plan import Plan
from penjing.record import (
    Record,
    attach,
    describe_example,
    make_example,
    record_of,
    remember,
)

RECORD = Record.of(torch.ones(2, 3), [Plan({}, {"a": 2}, "00")])


def test_a_module_without_a_record_has_none():
    assert record_of(nn.Linear(2, 3)) is None


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(3, 2), lambda: graph_form(capture(nn.Linear(3, 2), torch.ones(2, 3)))],
    ids=["module", "graph form"],
)
def test_a_record_survives_two_deep_copies(make):
    model = make()
    attach(model, RECORD)
    assert record_of(copy.deepcopy(copy.deepcopy(model))) == RECORD


def test_a_record_does_not_enter_the_state_dict():
    model = nn.Linear(3, 2)
    attach(model, RECORD)
    assert list(model.state_dict()) == ["weight", "bias"]


def test_a_later_record_replaces_the_earlier_one_in_copies_too():
    form = graph_form(capture(nn.Linear(3, 2), torch.ones(2, 3)))
    attach(form, RECORD)
    attach(form, RECORD.then(Plan({}, {"b": 3}, "01")))
    found = record_of(copy.deepcopy(form))
    assert found is not None
    assert len(found.plans) == 2


def test_plans_of_a_network_that_is_cut_twice_are_remembered_in_order():
    first, second = Plan({}, {"a": 4}, "00"), Plan({}, {"a": 2}, "01")
    model = nn.Linear(3, 2)
    remember(model, nn.Linear(3, 4), torch.ones(2, 3), first)
    remember(model, model, torch.ones(2, 3), second)
    assert record_of(model) == Record.of(torch.ones(2, 3), [first, second])


def test_inputs_that_cannot_be_described_leave_no_record():
    model = nn.Linear(3, 2)
    remember(model, model, {"x": object()}, Plan({}, {"a": 2}, "00"))
    assert record_of(model) is None


@pytest.mark.parametrize(
    "example",
    [
        torch.zeros(2, 3),
        (torch.zeros(1, dtype=torch.int64), None, 2.5),
        {"x": [torch.zeros(2, dtype=torch.bfloat16)], "flag": True},
    ],
    ids=["tensor", "tuple", "dict"],
)
def test_example_inputs_come_back_with_shapes_and_dtypes(example):
    again = make_example(describe_example(example))
    torch.testing.assert_close(again, example, rtol=0, atol=0)


def test_an_input_of_another_kind_is_refused():
    with pytest.raises(InputError, match="set"):
        describe_example({"x": {1, 2}})


@pytest.mark.parametrize(
    "content",
    [
        {"tensor": ["float32", 10**12]},
        {"tensor": ["float32", -1]},
        {"tensor": ["float32", float("inf")]},
        {"tensor": ["load", 1]},
        {"pickle": "x"},
        [],
        {"tuple": 3},
    ],
    ids=str,
)
def test_content_that_describes_no_inputs_is_refused(content):
    with pytest.raises(CheckpointError, match="example inputs"):
        make_example(content)

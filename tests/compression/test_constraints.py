"""Constraints: absolute or percent, and what is refused."""

import math

import pytest

from penjing.compression.constraints import KNOWN, parse
from penjing.errors import BudgetError, UnavailableError


@pytest.mark.parametrize("text", ["47.4%", " 47.4 %", "47.40%"])
def test_percent_is_a_share_of_the_original(text):
    assert parse({"macs": text})["macs"].limit(1000) == pytest.approx(474)


@pytest.mark.parametrize("value", [256, 256.0, "256", "256.0"])
def test_a_number_is_absolute(value):
    assert parse({"flash_kb": value})["flash_kb"].limit(1000) == 256


def test_thousands_may_be_grouped():
    assert parse({"macs": "1,000,000"})["macs"].value == 1e6


@pytest.mark.parametrize("value", [0.01, "0.01", "1%"])
def test_one_percent_of_drop_is_one_point(value):
    assert parse({"max_drop": value})["max_drop"].limit(0.9) == pytest.approx(0.01)


def test_no_drop_at_all_may_be_asked_for():
    assert parse({"max_drop": 0})["max_drop"].value == 0


@pytest.mark.parametrize("name", [n for n in KNOWN if n != "max_drop"])
@pytest.mark.parametrize("value", ["0%", "101%", "-5%", 0, -1, math.nan, math.inf, True, "half"])
def test_a_bound_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(BudgetError, match=name):
        parse({name: value})


@pytest.mark.parametrize("value", [-0.01, "-1%", math.nan, "much"])
def test_a_drop_that_makes_no_sense_is_refused(value):
    with pytest.raises(BudgetError, match="max_drop"):
        parse({"max_drop": value})


def test_an_unknown_name_lists_the_known():
    with pytest.raises(BudgetError, match=r"did you mean 'latency_ms'.*flash_kb"):
        parse({"latency": 10})


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_budget_shows_how_to_write_one(nothing):
    with pytest.raises(BudgetError, match="'macs': '50%'"):
        parse(nothing)


def test_energy_belongs_to_a_later_version():
    with pytest.raises(UnavailableError, match="energy"):
        parse({"energy_mj": 1})


def test_constraints_that_are_no_dict_are_refused():
    with pytest.raises(BudgetError, match="give a dict"):
        parse("macs=50%")

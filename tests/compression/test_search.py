"""Which shares are tried, on lines whose costs are formulas."""

from types import SimpleNamespace

import pytest

from penjing.compression.candidate import Verdict
from penjing.compression.search import (
    MOST,
    RESOLUTION,
    Line,
    largest_within_costs,
    smallest_within_drop,
)


def line(usage, *, name="latency_ms", floor=0.05, ceiling=1.0, budget=10**6):
    """A line on which a bound is used by `usage(share)`; `budget` trials are paid for."""

    def trial(share):
        if len(made.tried) >= budget:
            return None
        return SimpleNamespace(share=share), Verdict({name: usage(share)}, {name: 1.0})

    made = Line(trial, floor, ceiling)
    return made


def best(tried):
    return max((share for share, (_, v) in tried.items() if v.meets), default=None)


COSTS = {
    "proportional": lambda share: share / 0.4,
    "with overhead": lambda share: (share + 0.3) / 0.7,
    "curved": lambda share: share**0.5 / 0.4**0.5,
    "in steps": lambda share: round(share * 10) / 10 / 0.4,
}


@pytest.mark.parametrize("usage", COSTS.values(), ids=COSTS)
def test_the_largest_candidate_within_a_cost_is_found(usage):
    tried = line(usage)
    largest_within_costs(tried)
    assert best(tried.tried) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("usage", COSTS.values(), ids=COSTS)
def test_few_candidates_find_it(usage):
    tried = line(usage)
    largest_within_costs(tried)
    assert len(tried.tried) <= MOST


def test_a_ceiling_within_the_costs_is_all_that_is_tried():
    tried = line(lambda _share: 0.9)
    largest_within_costs(tried)
    assert list(tried.tried) == [1.0]


def test_a_cost_that_cannot_be_met_is_known_after_three_candidates():
    tried = line(lambda share: 2 + share)
    largest_within_costs(tried)
    assert best(tried.tried) is None
    assert len(tried.tried) <= 3


def test_the_lower_end_is_tried_before_a_cost_is_given_up():
    tried = line(lambda share: 1.0 if share <= 0.05 else 1.5)
    largest_within_costs(tried)
    assert best(tried.tried) == 0.05


@pytest.mark.parametrize("edge", [0.07, 0.3, 0.55, 0.93])
def test_the_smallest_candidate_within_a_drop_is_found(edge):
    tried = line(lambda share: 0.5 if share >= edge else 1.5, name="max_drop")
    smallest_within_drop(tried)
    smallest = min(share for share, (_, v) in tried.tried.items() if v.meets)
    assert edge <= smallest <= edge + RESOLUTION


def test_a_time_limit_only_truncates_the_list():
    whole, part = line(COSTS["curved"]), line(COSTS["curved"], budget=2)
    largest_within_costs(whole)
    largest_within_costs(part)
    assert list(part.tried) == list(whole.tried)[:2]


def test_a_search_that_was_cut_short_says_so():
    tried = line(COSTS["curved"], budget=1)
    largest_within_costs(tried)
    assert "time" in tried.ended

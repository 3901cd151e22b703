"""What holds for every allocation, and what each promises beyond."""

import itertools

import numpy as np
import pytest
import torch

from penjing.errors import StrategyError
from penjing.plan import Group
from penjing.pruning import allocation
from penjing.pruning.allocation import dp, global_, resolve, uniform
from penjing.pruning.allocation.protocol import Demand, error_curve
from penjing.testing import check_allocation


class Tables:
    """Random groups, convex or ragged error tables, additive or interacting costs."""

    def __init__(self, seed, *, convex=True, interacting=True, largest=7):
        rng = np.random.default_rng(seed)
        units = rng.integers(2, largest, rng.integers(2, 5))
        self.groups = [Group(f"g{i}", units=int(n), slices=()) for i, n in enumerate(units)]
        steps = [np.sort(rng.random(n) ** 3) if convex else rng.random(n) for n in units]
        self.errors = {
            g.name: torch.tensor([0, *np.cumsum(s)])
            for g, s in zip(self.groups, steps, strict=True)
        }
        self.scores = {g.name: torch.tensor(s) for g, s in zip(self.groups, steps, strict=True)}
        self.weight = {g.name: float(rng.integers(1, 9)) for g in self.groups}
        self.cost = self.product if interacting else self.sum
        self.costs = {"macs": self.cost, "params": self.sum}

    def sum(self, kept):
        return sum(self.weight[name] * units for name, units in kept.items())

    def product(self, kept):
        widths = [3, *(kept[g.name] * self.weight[g.name] for g in self.groups), 5]
        return sum(a * b for a, b in itertools.pairwise(widths))

    def between(self, share):
        """A budget at `share` of the way from one unit per group to all units."""
        low = self.cost({g.name: 1 for g in self.groups})
        return low + share * (self.cost({g.name: g.units for g in self.groups}) - low)

    def error(self, kept):
        return sum(float(self.errors[g.name][g.units - kept[g.name]]) for g in self.groups)

    def ask(self, strategy, demand):
        return strategy(self.groups, self.scores, self.errors, self.costs, demand)

    def best(self, budget):
        names = [g.name for g in self.groups]
        every = itertools.product(*(range(1, g.units + 1) for g in self.groups))
        candidates = (dict(zip(names, kept, strict=True)) for kept in every)
        return min(self.error(kept) for kept in candidates if self.cost(kept) <= budget)


def within(budget):
    return Demand(budgets={"macs": budget}, max_pruning_ratio=0.99)


NAMES = [n for n in allocation.__all__ if n.islower() and n != "reinforcement"]  # that one is slow


@pytest.mark.parametrize("name", NAMES)
def test_every_allocation_keeps_the_contract(name):
    check_allocation(getattr(allocation, name))


@pytest.mark.parametrize("name", ["uniform", "global", "dp"])
def test_every_short_name_finds_an_allocation(name):
    assert callable(resolve(name))


def test_an_unknown_allocation_is_answered_with_the_nearest():
    with pytest.raises(StrategyError, match="did you mean 'uniform'"):
        resolve("unifrom")


@pytest.mark.parametrize("strategy", [uniform, global_, dp])
def test_no_groups_are_no_decision(strategy):
    costs = {"macs": len, "params": len}
    assert strategy([], {}, {}, costs, Demand(budgets={"macs": 2})) == {}


@pytest.mark.parametrize("strategy", [uniform, global_, dp])
def test_a_budget_of_the_whole_cuts_nothing(strategy):
    tables = Tables(0)
    whole = {g.name: g.units for g in tables.groups}
    assert tables.ask(strategy, within(tables.cost(whole))) == whole


@pytest.mark.parametrize("strategy", [global_, dp])
@pytest.mark.parametrize("ratio", [0.1, 0.33, 0.5, 0.8])
def test_a_weighted_ratio_is_met_within_one_unit(strategy, ratio):
    tables = Tables(3, largest=40)
    kept = tables.ask(strategy, Demand(pruning_ratio=ratio))
    total = tables.sum({g.name: g.units for g in tables.groups})
    over = (1 - ratio) * total - tables.sum(kept)
    assert 0 <= over + 1e-9 <= max(tables.weight.values()) + 1e-9


def test_uniform_drops_eight_of_ten_at_four_fifths():
    assert uniform([Group("a", 10, ())], {}, {}, {}, Demand(pruning_ratio=0.8)) == {"a": 2}


def test_uniform_takes_the_smallest_share_that_meets_the_budget():
    groups = [Group("a", 10, ()), Group("b", 20, ())]
    units = {"units": lambda kept: sum(kept.values())}
    assert uniform(groups, {}, {}, units, Demand(budgets={"units": 15})) == {"a": 5, "b": 10}


def test_uniform_never_keeps_more_than_the_ratio_asks_when_there_is_a_budget_too():
    groups = [Group("a", 10, ())]
    demand = Demand(pruning_ratio=0.7, budgets={"units": 9})
    assert uniform(groups, {}, {}, {"units": lambda k: k["a"]}, demand) == {"a": 3}


def test_global_takes_more_where_scores_spread():
    groups = [Group("flat", 8, ()), Group("steep", 8, ())]
    scores = {"flat": torch.ones(8), "steep": 4.0 ** torch.arange(8)}
    kept = global_(
        groups, scores, {}, {"params": lambda k: sum(k.values())}, Demand(pruning_ratio=0.25)
    )
    assert kept == {"flat": 8, "steep": 4}


def test_global_ranks_do_not_depend_on_the_scale_of_a_group():
    tables = Tables(5, largest=30)
    before = tables.ask(global_, Demand(pruning_ratio=0.5))
    tables.scores["g0"] = tables.scores["g0"] * 1000
    assert tables.ask(global_, Demand(pruning_ratio=0.5)) == before


def test_global_leaves_every_group_its_floor():
    groups = [Group("low", 10, ()), Group("high", 10, ())]
    scores = {"low": torch.tensor([0.0] * 9 + [1.0]), "high": torch.ones(10)}
    demand = Demand(pruning_ratio=0.45, max_pruning_ratio=0.6)
    kept = global_(groups, scores, {}, {"params": lambda k: sum(k.values())}, demand)
    assert kept == {"low": 4, "high": 7}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("interacting", [False, True], ids=["additive", "interacting"])
def test_dp_finds_the_optimum_of_tiny_convex_tables(seed, interacting):
    tables = Tables(seed, interacting=interacting)
    budget = tables.between(0.5)
    assert tables.error(tables.ask(dp, within(budget))) == pytest.approx(tables.best(budget))


@pytest.mark.parametrize("seed", range(20))
def test_dp_is_near_the_optimum_of_tiny_ragged_tables(seed):
    tables = Tables(seed, convex=False)
    budget = tables.between(0.4)
    step = max(float(curve.diff().max()) for curve in tables.errors.values())
    assert tables.error(tables.ask(dp, within(budget))) <= tables.best(budget) + step


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("convex", [True, False], ids=["convex", "ragged"])
def test_dp_is_never_worse_than_uniform_at_equal_cost(seed, convex):
    tables = Tables(seed, convex=convex, largest=30)
    even = tables.ask(uniform, within(tables.between(0.5)))
    kept = tables.ask(dp, within(tables.cost(even)))
    assert tables.error(kept) <= tables.error(even) + 1e-12


@pytest.mark.parametrize("strategy", [uniform, global_, dp])
@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_budget_never_costs_more(strategy, seed):
    tables = Tables(seed, largest=30)
    spent = [
        tables.cost(tables.ask(strategy, within(tables.between(s)))) for s in (0.2, 0.4, 0.6, 0.8)
    ]
    assert spent == sorted(spent)


@pytest.mark.parametrize("strategy", [uniform, global_, dp])
def test_several_budgets_are_met_at_once(strategy):
    tables = Tables(2, largest=30)
    params = 0.45 * tables.sum({g.name: g.units for g in tables.groups})
    macs = tables.between(0.3)
    kept = tables.ask(strategy, Demand(budgets={"macs": macs, "params": params}))
    assert (tables.cost(kept) <= macs, tables.sum(kept) <= params) == (True, True)


def test_dp_meets_a_budget_on_a_peak():
    tables = Tables(4, largest=40)

    def peak(kept):
        return max(kept.values())

    demand = Demand(budgets={"peak": 9})
    kept = dp(tables.groups, {}, tables.errors, {"peak": peak, "params": tables.sum}, demand)
    assert kept == {g.name: min(g.units, 9) for g in tables.groups}


def test_dp_spends_a_stepped_cost_up_to_its_step():
    group = Group("a", units=64, slices=())
    tiles = {"latency_ms": lambda kept: float(-(-kept["a"] // 16))}
    kept = dp([group], {"a": torch.ones(64)}, {}, tiles, Demand(budgets={"latency_ms": 2.5}))
    assert kept == {"a": 32}


def test_dp_drops_dead_units_before_any_other():
    groups = [Group("dead", 8, ()), Group("alive", 8, ())]
    errors = {"dead": torch.tensor([0.0] * 7 + [1, 2]), "alive": torch.linspace(0, 1, 9)}
    units = {"units": lambda kept: sum(kept.values())}
    kept = dp(groups, {}, errors, units, Demand(budgets={"units": 10}))
    assert kept == {"dead": 2, "alive": 8}


def test_dp_reads_scores_where_there_are_no_errors():
    tables = Tables(6, largest=20)
    curves = {name: error_curve(score) for name, score in tables.scores.items()}
    demand = within(tables.between(0.5))
    without = dp(tables.groups, tables.scores, {}, tables.costs, demand)
    assert without == dp(tables.groups, tables.scores, curves, tables.costs, demand)


def test_dp_accepts_an_infinite_error_of_dropping_everything():
    errors = {"a": torch.tensor([0.0, 1.0, 2.0, float("inf")])}
    kept = dp([Group("a", 3, ())], {}, errors, {"u": lambda k: k["a"]}, Demand(budgets={"u": 2}))
    assert kept == {"a": 2}


@pytest.mark.parametrize(
    "curve", [torch.zeros(3), torch.tensor([0, float("nan"), 1, 2])], ids=["short", "nan"]
)
def test_dp_refuses_error_curves_that_break_the_contract(curve):
    with pytest.raises(StrategyError, match="'a'"):
        dp([Group("a", 3, ())], {}, {"a": curve}, {"u": lambda k: k["a"]}, Demand(budgets={"u": 2}))


def test_dp_solves_fifty_wide_groups_with_few_exact_costs():
    rng = np.random.default_rng(0)
    groups = [Group(f"g{i:02}", 256, ()) for i in range(50)]
    errors = {g.name: torch.tensor([0, *np.cumsum(np.sort(rng.random(256) ** 3))]) for g in groups}
    asked = []

    def macs(kept):
        asked.append(1)
        return sum(a * b for a, b in itertools.pairwise([3, *kept.values(), 10]))

    budget = 0.5 * macs({g.name: 256 for g in groups})
    dp(groups, {}, errors, {"macs": macs}, Demand(budgets={"macs": budget}))
    assert len(asked) < 1_000


def test_units_compete_only_with_those_of_their_kind():
    heads = [Group(n, units=4, slices=(), kind="heads") for n in ("a", "b")]
    neurons = [Group("c", units=4, slices=(), kind="neurons")]
    scores = {
        "a": torch.arange(1.0, 5),
        "b": torch.arange(11.0, 15),
        "c": torch.arange(101.0, 105),
    }
    demand = Demand(pruning_ratio=0.25)
    kept = allocation.isomorphic([*heads, *neurons], scores, {}, {}, demand)
    assert kept == {"a": 2, "b": 4, "c": 3}

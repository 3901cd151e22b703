"""`prune` from end to end: what it cuts, what it leaves, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from penjing.errors import (
    BudgetError,
    CaptureError,
    InfeasibleError,
    InputError,
    PlanError,
    StrategyError,
    VerificationError,
)
from penjing.graph import rewrite
from penjing.plan import Plan
from penjing.testing import tiny
from penjing.verbs.prune import prune

X = tiny.example("residual")


def batches(name, count=4, size=8):
    return [tiny.example(name, batch=size, seed=seed) for seed in range(count)]


def equal_states(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def units(result):
    return {name: len(result.plan.kept(name)) for name in result.plan.units}


# ---------------------------------------------------------------- how much


def test_a_ratio_is_the_share_of_units_of_every_group():
    result = prune(tiny.make("residual"), X, pruning_ratio=0.5)
    assert units(result) == {"stem": 2, "block1.conv1": 2, "block2.conv1": 4, "block2.conv2": 4}


@pytest.mark.parametrize("name", ["residual_a", "concat", "depthwise", "grouped", "flatten"])
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_a_bound_holds_on_the_result(name, cost):
    result = prune(tiny.make(name), tiny.example(name), constraints={cost: "70%"})
    before, after = result.report.data.before, result.report.data.after
    assert 0 < getattr(after, cost) <= 0.7 * getattr(before, cost)


@pytest.mark.parametrize("name", ["residual", "concat"])
def test_a_bound_on_ram_holds_on_the_result(name):
    original = prune(tiny.make(name), tiny.example(name), pruning_ratio=0.0)
    bound = 0.9 * original.report.data.before.ram_bytes / 1024
    result = prune(tiny.make(name), tiny.example(name), constraints={"ram_kb": bound})
    assert result.report.data.after.ram_bytes / 1024 <= bound


@pytest.mark.parametrize("name", ["residual_a", "depthwise", "shared", "transposed"])
def test_parameters_of_the_report_are_those_of_the_result(name):
    result = prune(tiny.make(name), tiny.example(name), pruning_ratio=0.4)
    assert result.report.data.after.params == sum(p.numel() for p in result.model.parameters())


def test_units_that_remain_are_a_multiple_of_round_to():
    result = prune(tiny.make("mlp"), tiny.example("mlp"), pruning_ratio=0.5, round_to=4)
    assert units(result) == {"0": 8, "2": 4}


def test_no_group_loses_more_than_the_largest_ratio():
    result = prune(
        tiny.make("residual"),
        X,
        constraints={"macs": "60%"},
        allocation="global",
        max_pruning_ratio=0.5,
    )
    assert all(kept >= result.plan.units[name] / 2 for name, kept in units(result).items())


@pytest.mark.parametrize("key", ["by module", "by name", "by glob", "by type"])
def test_single_layers_have_ratios_of_their_own(key):
    model = tiny.make("residual")
    keys = {
        "by module": model.block2.conv1,
        "by name": "block2.conv1",
        "by glob": "block2.*1",
        "by type": nn.Conv2d,
    }
    result = prune(model, X, pruning_ratio_dict={keys[key]: 0.25})
    assert units(result)["block2.conv1"] == 6


def test_the_first_key_that_matches_gives_the_ratio():
    ratios = {"block2.conv1": 0.75, nn.Conv2d: 0.25}
    result = prune(tiny.make("residual"), X, pruning_ratio_dict=ratios)
    assert units(result) == {"stem": 3, "block1.conv1": 3, "block2.conv1": 2, "block2.conv2": 6}


@pytest.mark.parametrize("scope", ["inner", ("inner",), {"inner"}], ids=repr)
def test_groups_out_of_scope_stay(scope):
    result = prune(tiny.make("residual"), X, pruning_ratio=0.5, scope=scope)
    assert set(result.plan.drop) == {"block1.conv1", "block2.conv1"}


def test_nothing_asked_for_cuts_nothing():
    model = tiny.make("residual")
    result = prune(model, X, pruning_ratio=0.0)
    assert not result.plan.drop
    assert equal_states(result.model, model)


# ---------------------------------------------------------------- ignored layers


@pytest.mark.parametrize("key", ["by module", "by name", "by glob", "by type"])
def test_ignored_layers_stay_as_they_are_bit_by_bit(key):
    model = tiny.make("residual")
    keys = {
        "by module": model.block2.conv1,
        "by name": "block2.conv1",
        "by glob": "block2.c*1",
        "by type": nn.Linear,
    }
    result = prune(model, X, pruning_ratio=0.5, ignored_layers=[keys[key]])
    kept = {"by type": "fc.weight"}.get(key, "block2.conv1.weight")
    assert torch.equal(result.model.state_dict()[kept], model.state_dict()[kept])
    assert result.plan.drop


def test_one_ignored_layer_needs_no_list():
    result = prune(tiny.make("mlp"), tiny.example("mlp"), pruning_ratio=0.5, ignored_layers="2")
    assert not result.plan.drop


def test_ignored_layers_stay_under_repair():
    model = tiny.make("residual")
    result = prune(
        model,
        X,
        pruning_ratio=0.5,
        ignored_layers=["block2.conv1"],
        calibration=batches("residual"),
    )
    kept = "block2.conv1.weight"
    assert torch.equal(result.model.state_dict()[kept], model.state_dict()[kept])


def test_ignored_layers_that_match_nothing_are_answered_with_the_names():
    with pytest.raises(StrategyError, match=r"'layer9' matches no layer.*stem"):
        prune(tiny.make("residual"), X, pruning_ratio=0.5, ignored_layers=["layer9"])


# ---------------------------------------------------------------- plans and seeds


@pytest.mark.parametrize("name", ["residual_a", "concat", "depthwise", "grouped", "shared"])
def test_a_plan_applied_to_a_fresh_instance_gives_the_same_network(name):
    first = prune(tiny.make(name), tiny.example(name), pruning_ratio=0.5)
    plan = Plan.from_json(first.plan.to_json())
    second = prune(tiny.make(name), tiny.example(name), plan=plan)
    assert second.plan == first.plan
    assert equal_states(second.model, first.model)


@pytest.mark.parametrize("steps", [2, 3])
def test_steps_compose_to_one_plan(steps):
    result = prune(tiny.make("residual"), X, pruning_ratio=0.5, iterative_steps=steps)
    assert units(result) == units(prune(tiny.make("residual"), X, pruning_ratio=0.5))
    again = prune(tiny.make("residual"), X, plan=result.plan)
    assert equal_states(again.model, result.model)


@pytest.mark.parametrize("name", ["grouped", "residual_a", "concat"])
def test_steps_keep_bounds_and_floors(name):
    result = prune(
        tiny.make(name),
        tiny.example(name),
        constraints={"macs": "50%"},
        iterative_steps=4,
        max_pruning_ratio=0.6,
    )
    before, after = result.report.data.before, result.report.data.after
    assert after.macs <= 0.5 * before.macs
    assert all(kept >= 0.4 * result.plan.units[n] for n, kept in units(result).items())


def test_steps_with_ignored_modules_and_ratios_of_layers():
    model = tiny.make("residual")
    result = prune(
        model,
        X,
        pruning_ratio_dict={model.block2.conv1: 0.5},
        iterative_steps=3,
        ignored_layers=[model.block1.conv1],
    )
    assert result.plan.drop.keys() == {"block2.conv1"}
    assert units(result)["block2.conv1"] == 4


def test_steps_with_data_judge_and_repair_anew():
    result = prune(
        tiny.make("residual"),
        X,
        pruning_ratio=0.5,
        iterative_steps=2,
        calibration=batches("residual"),
    )
    assert result.report.data.repair
    assert torch.isfinite(result.model(X)).all()


def test_the_same_seed_gives_the_same_plan():
    plans = [
        prune(tiny.make("residual"), X, pruning_ratio=0.5, importance="random", seed=3).plan
        for _ in range(2)
    ]
    assert plans[0] == plans[1]


def test_another_seed_gives_another_plan():
    plans = [
        prune(tiny.make("residual"), X, pruning_ratio=0.5, importance="random", seed=seed).plan
        for seed in (3, 4)
    ]
    assert plans[0] != plans[1]


def test_the_same_seed_gives_the_same_repaired_weights():
    results = [
        prune(tiny.make("residual"), X, pruning_ratio=0.5, calibration=batches("residual"))
        for _ in range(2)
    ]
    assert equal_states(results[0].model, results[1].model)


# ---------------------------------------------------------------- the argument is left alone


def prepared():
    """A network in a mixed mode with a hook."""
    model = tiny.make("residual").train()
    model.block1.bn1.eval()
    calls = []
    model.fc.register_forward_hook(lambda *_: calls.append(1))
    return model


def snapshot(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [dict(m._forward_hooks) for m in model.modules()],
        [id(p) for p in model.parameters()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


def same(one, other):
    return one[1:] == other[1:] and all(torch.equal(one[0][k], other[0][k]) for k in one[0])


@pytest.mark.parametrize("data", [False, True], ids=["without data", "with data"])
def test_the_network_passed_in_is_unchanged(data):
    model = prepared()
    before = snapshot(model)
    prune(model, X, pruning_ratio=0.5, calibration=batches("residual") if data else None)
    assert same(snapshot(model), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pruning_ratio": 50},
        {"pruning_ratio": 0.5, "importance": "l3"},
        {"pruning_ratio": 0.5, "ignored_layers": ["none"]},
        {"constraints": {"macs": 1}},
        {"plan": Plan({}, {"x": 2}, "00")},
    ],
    ids=["percent", "importance", "ignored", "infeasible", "plan"],
)
@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "inplace"])
def test_the_network_passed_in_is_unchanged_after_an_error(wrong, inplace):
    model = prepared()
    before = snapshot(model)
    with pytest.raises((BudgetError, StrategyError, PlanError)):
        prune(model, X, **wrong, inplace=inplace)
    assert same(snapshot(model), before)


def test_a_refused_cut_leaves_the_network_alone(monkeypatch):
    model = prepared()
    before = snapshot(model)
    monkeypatch.setitem(rewrite._RULES, "conv2d", _one_group_too_many)
    with pytest.raises(VerificationError):
        prune(model, X, pruning_ratio=0.5, inplace=True)
    assert same(snapshot(model), before)


def _one_group_too_many(_rewriter, _old, twin):
    twin.set_arg("padding", [0, 0])


def test_the_result_is_in_the_mode_of_the_original():
    model = prepared()
    result = prune(model, X, pruning_ratio=0.5)
    assert [m.training for m in result.model.modules()] == [m.training for m in model.modules()]


def test_a_network_in_training_mode_gives_what_it_gives_in_evaluation():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
    model = nn.Sequential(inner, nn.Linear(16, 3))
    data = [torch.randn(64, 6, generator=torch.Generator().manual_seed(1))]
    results = [
        prune(model.train(mode), torch.ones(2, 6), pruning_ratio=0.5, calibration=data)
        for mode in (True, False)
    ]
    assert results[0].plan == results[1].plan
    assert equal_states(results[0].model, results[1].model)
    assert [r.model.training for r in results] == [True, False]


def test_a_network_that_takes_one_size_alone_is_cut_for_it():
    class OneSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.first(x.reshape(2, 7, 5)).relu()).reshape(14, 3)

    pruned = prune(OneSize(), torch.ones(2, 35), pruning_ratio=0.5)
    assert pruned.model.first.out_features == 4
    assert pruned.model(torch.ones(2, 35)).shape == (14, 3)


def test_in_place_the_network_itself_shrinks():
    model = tiny.make("residual")
    wanted = prune(model, X, pruning_ratio=0.5).model
    result = prune(model, X, pruning_ratio=0.5, inplace=True)
    assert result.model is model
    assert equal_states(model, wanted)
    assert model.block1.conv1.out_channels == 2


def test_in_place_with_repair_the_network_gets_the_repaired_weights():
    model, data = tiny.make("residual"), batches("residual")
    wanted = prune(model, X, pruning_ratio=0.5, calibration=data).model
    prune(model, X, pruning_ratio=0.5, calibration=data, inplace=True)
    assert equal_states(model, wanted)


def test_in_place_is_refused_where_the_class_cannot_express_the_cut():
    model = tiny.make("residual_a")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(VerificationError, match="use inplace=False"):
        prune(model, tiny.example("residual_a"), pruning_ratio=0.5, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class WritesItsSize(nn.Module):
    """A forward with a size written into it, which no attribute can change."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.down(self.up(x).reshape(-1, 8).relu())


def test_in_place_is_refused_in_several_steps_too():
    with pytest.raises(VerificationError, match="use inplace=False"):
        prune(
            WritesItsSize(),
            torch.randn(2, 4),
            pruning_ratio=0.5,
            inplace=True,
            iterative_steps=2,
        )


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of pruning_ratio, constraints and plan"),
        ({"pruning_ratio": 0.5, "constraints": {"macs": 1.0}}, "give one of"),
        ({"pruning_ratio": 50}, "50 percent is 0.5"),
        ({"pruning_ratio": 1.0}, r"\[0, 1\)"),
        ({"pruning_ratio": -0.1}, r"\[0, 1\)"),
        ({"pruning_ratio_dict": {"4": 0.5}}, "only layers whose outputs are not cut"),
        ({"pruning_ratio_dict": {"0": 50}}, "percent"),
        ({"pruning_ratio": 0.5, "max_pruning_ratio": 90}, "max_pruning_ratio is 90"),
        ({"pruning_ratio": 0.5, "round_to": 0}, "round_to is 0"),
        ({"pruning_ratio": 0.5, "iterative_steps": 0}, "iterative_steps is 0"),
        ({"pruning_ratio": 0.5, "iterative_steps": 2.5}, "a whole number of steps"),
        ({"constraints": "50%"}, "such as {'macs': '50%'}"),
        ({"constraints": {}}, "nothing is asked for"),
        ({"pruning_ratio": "50%"}, "half of the units is 0.5"),
        ({"pruning_ratio": 0.5, "importance": "l3"}, "no importance is called 'l3'.*'l2'"),
        ({"pruning_ratio": 0.5, "importance": "taylor"}, "pass calibration=batches"),
        ({"pruning_ratio": 0.5, "allocation": "even"}, "no allocation is called.*'uniform'"),
        ({"pruning_ratio": 0.5, "repair": "magic"}, "repair is 'magic'; known are 'auto'"),
        ({"pruning_ratio": 0.5, "repair": "least_squares"}, "pass calibration=batches"),
        ({"pruning_ratio": 0.5, "scope": "outer"}, r"scope is \['outer'\]; it holds places"),
        ({"constraints": {"mac": "50%"}}, "no constraint is called 'mac'.*'macs'"),
        ({"constraints": {"macs": "half"}}, "a share of the original such as '50%'"),
        ({"constraints": {"macs": "150%"}}, r"\(0%, 100%\]"),
        ({"constraints": {"macs": -1}}, "finite and positive"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_named_with_the_fix(settings, message):
    with pytest.raises((BudgetError, StrategyError), match=message):
        prune(tiny.make("mlp"), tiny.example("mlp"), **settings)


def test_a_plan_is_carried_out_in_one_step():
    plan = prune(tiny.make("residual"), X, pruning_ratio=0.5).plan
    with pytest.raises(BudgetError, match="one step"):
        prune(tiny.make("residual"), X, plan=plan, iterative_steps=2)


def test_a_bound_below_what_is_possible_names_the_nearest_point():
    with pytest.raises(InfeasibleError, match="macs") as error:
        prune(tiny.make("residual"), X, constraints={"macs": "1%"})
    assert error.value.nearest["macs"] > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = tiny.make("residual")
    with torch.no_grad():
        model.block1.conv1.weight[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"'block1\.conv1\.weight' holds 1 of 144"):
        prune(model, X, pruning_ratio=0.5)


def test_running_statistics_that_are_not_finite_are_named():
    model = tiny.make("residual")
    model.block1.bn1.running_var[1] = torch.nan
    with pytest.raises(InputError, match=r"'block1\.bn1\.running_var'"):
        prune(model, X, pruning_ratio=0.5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tiny.make("mlp").state_dict(), "load_state_dict it into your network"),
        (lambda x: x, "is a function, not an nn.Module"),
    ],
    ids=["state dict", "function"],
)
def test_what_is_no_network_is_refused(model, message):
    with pytest.raises(InputError, match=message):
        prune(model, X, pruning_ratio=0.5)


def test_a_plan_as_text_is_answered_with_the_reader():
    with pytest.raises(PlanError, match=r"Plan\.from_json"):
        prune(tiny.make("residual"), X, plan="{}")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [(X * torch.nan, "holds NaN"), (X[:0], "is empty")],
    ids=["NaN", "empty"],
)
def test_example_inputs_of_no_use_are_refused(inputs, message):
    with pytest.raises(InputError, match=message):
        prune(tiny.make("residual"), inputs, pruning_ratio=0.5)


def test_example_inputs_of_the_wrong_shape_are_named():
    with pytest.raises(InputError, match=r"float32\[1, 6\]"):
        prune(tiny.make("residual"), tiny.example("mlp"), pruning_ratio=0.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no samples|empty"),
        ([tiny.example("residual", 8) * torch.nan], "NaN"),
        ([tiny.example("residual", 1)], "has 1 sample, importance 'obs' needs at least 2"),
    ],
    ids=["empty", "NaN", "one sample"],
)
def test_calibration_data_that_is_of_no_use_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        prune(tiny.make("residual"), X, pruning_ratio=0.5, calibration=data)


def test_a_network_that_branches_on_data_is_answered_with_the_fix():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            return y if y.sum() > 0 else -y

    with pytest.raises(CaptureError, match=r"torch\.where"):
        prune(Branches(), torch.ones(2, 4), pruning_ratio=0.5)


def test_a_network_without_groups_comes_back_with_a_note():
    model = nn.Linear(4, 2)
    result = prune(model, torch.ones(2, 4), pruning_ratio=0.5)
    assert equal_states(result.model, model)
    assert "no group in scope" in result.report.data.notes[0]


def test_the_report_says_what_auto_stood_for():
    choices = prune(tiny.make("residual"), X, pruning_ratio=0.5).report.data.choices
    assert (choices["importance"], choices["allocation"], choices["repair"]) == (
        "l2",
        "uniform",
        "off",
    )


# ---------------------------------------------------------------- ordinary networks, awkward ways


class Convolutions(nn.Module):
    """Two convolutions with something of a subclass's own between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def between(self, x):
        return x

    def forward(self, x):
        y = self.between(self.first(x).relu())
        return self.fc(self.second(y).relu().mean((2, 3)))


class Counts(Convolutions):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def between(self, x):
        self.calls += 1
        return x


class Averages(Convolutions):
    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x):
        self.average = 0.9 * self.average + 0.1 * x.mean((0, 2, 3))
        return super().forward(x)


class Noisy(Convolutions):
    def between(self, x):
        return x + 0.1 * torch.randn_like(x)


class DropsAlways(Convolutions):
    def between(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class HoldsPlainTensor(Convolutions):
    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.5, 1.5, 8).view(8, 1, 1)

    def between(self, x):
        return x * self.scale


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 64, 4)

    def forward(self, x):
        return self.fc(self.conv(x).relu().view(2, 8 * 64))


def images(count=1, seed=0):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("data", [False, True], ids=["without data", "with data"])
@pytest.mark.parametrize(
    "make", [Counts, Averages, Noisy, DropsAlways, HoldsPlainTensor], ids=lambda m: m.__name__
)
def test_networks_with_a_state_of_their_own_are_cut_and_left_alone(make, data):
    model = make()
    before = snapshot(model)
    calibration = [images(8, seed) for seed in range(3)] if data else None
    result = prune(model, images(), pruning_ratio=0.5, calibration=calibration)
    assert result.plan.drop
    assert same(snapshot(model), before)


@pytest.mark.parametrize("make", [Noisy, DropsAlways], ids=lambda m: m.__name__)
def test_axes_of_random_numbers_are_locked_with_the_reason(make):
    locks = prune(make(), images(), pruning_ratio=0.5).report.data.locked
    assert any("draws random numbers" in lock.reason for lock in locks)


def test_a_weight_norm_is_ranked_by_data():
    model = Convolutions()
    torch.nn.utils.parametrizations.weight_norm(model.first)
    result = prune(model, images(), pruning_ratio=0.5, calibration=[images(16)])
    assert result.report.data.proof.form == "module"


def test_a_network_of_fixed_batch_agrees_on_whole_batches():
    result = prune(FixedBatch(), images(2), pruning_ratio=0.5, calibration=[images(33)])
    assert 0 <= result.report.data.agreement <= 1


@pytest.mark.parametrize(
    "data",
    [
        [images(8)[:, :2]],
        [images(8).double()],
        [images(8)[..., :6]],
        [{"x": images(8)}],
    ],
    ids=["channels", "dtype", "size", "structure"],
)
def test_calibration_data_unlike_the_example_inputs_is_shown_beside_them(data):
    with pytest.raises(InputError, match=r"calibration has samples of .*float32\[\d, 3, 8, 8\]"):
        prune(Convolutions(), images(), pruning_ratio=0.5, calibration=data)


def test_a_seed_that_is_no_number_is_refused():
    with pytest.raises(StrategyError, match="seed is 'a'"):
        prune(Convolutions(), images(), pruning_ratio=0.5, seed="a")


def test_scores_that_are_no_tensor_are_refused():
    with pytest.raises(StrategyError, match="gave a list for group 'first'"):
        prune(Convolutions(), images(), pruning_ratio=0.5, importance=lambda _, g: [0] * g.units)


def test_the_report_names_no_strategy_where_a_plan_decided():
    plan = prune(tiny.make("residual"), X, pruning_ratio=0.5).plan
    choices = prune(tiny.make("residual"), X, plan=plan).report.data.choices
    assert (choices["importance"], choices["allocation"]) == ("a plan was given",) * 2


def test_a_plan_that_cuts_an_ignored_layer_is_refused():
    plan = prune(tiny.make("mlp"), tiny.example("mlp"), pruning_ratio=0.5).plan
    with pytest.raises(PlanError, match="which ignored_layers or scope leave out"):
        prune(tiny.make("mlp"), tiny.example("mlp"), plan=plan, ignored_layers="*")


class Baked(nn.Module):
    """Has a number of channels written into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).relu()
        return self.last(y.reshape(y.shape[0], 8, *y.shape[2:])).mean((2, 3))


def test_a_report_names_the_sizes_that_a_graph_form_holds():
    notes = prune(Baked(), torch.randn(2, 3, 6, 6), pruning_ratio=0.5).report.data.notes
    assert "takes x[any, 3, 6, 6]" in " ".join(notes)


def test_a_graph_form_says_why_the_class_does_not_serve():
    model = prune(Baked(), torch.randn(2, 3, 6, 6), pruning_ratio=0.5).model
    assert "of Baked" in repr(model)
    assert "its own class does not serve: " in repr(model)


class Grouped(nn.Module):
    """A grouped convolution, whose groups lose one channel each at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 2, 1)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.grouped(self.first(x).relu()).relu()).mean((2, 3))


def test_a_share_below_one_unit_per_group_names_the_nearest():
    notes = prune(Grouped(), torch.randn(2, 3, 8, 8), pruning_ratio=0.9).report.data.notes
    assert "0.75 of its 4 units (asked 0.9" in " ".join(notes)


def test_a_multiple_larger_than_all_groups_of_its_kind_is_refused():
    with pytest.raises(BudgetError, match="give round_to=2 or less"):
        prune(Grouped(), torch.randn(2, 3, 8, 8), pruning_ratio=0.5, round_to={"channels": 64})

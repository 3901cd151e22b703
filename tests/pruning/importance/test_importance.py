"""What holds for every importance, and what each promises beyond."""

import dataclasses
import math
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.errors import InputError, StrategyError
from penjing.graph.network import Network
from penjing.plan import Group, Slice
from penjing.pruning import importance
from penjing.pruning.gradients import SampleGradients
from penjing.pruning.importance import Magnitude, Random, Taylor, l1, l2, resolve
from penjing.task import Calibration
from penjing.testing import check_importance, tiny


def parameters_of_unit(model, group, unit):
    """Every parameter element that one unit cuts, slice by slice, the slow and plain way."""
    named = dict(model.named_parameters())
    for piece in group.slices:
        if piece.tensor in named:
            index = torch.tensor(piece.positions(unit))
            yield (
                piece.tensor,
                piece.dim,
                index,
                named[piece.tensor].detach().index_select(piece.dim, index),
            )


NAMES = [name for name in importance.__all__ if name.islower()]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bn_scale"])
def test_every_importance_keeps_the_contract(name):
    check_importance(getattr(importance, name))


@pytest.mark.parametrize("name", NAMES)
def test_every_short_name_finds_an_importance(name):
    assert resolve(name) is getattr(importance, name)


def test_an_unknown_importance_lists_the_known():
    with pytest.raises(StrategyError, match=r"'l1', 'l2', 'linf', .*'taylor'"):
        resolve("magnitude")


@pytest.mark.parametrize(
    "name", ["plain", "residual_a", "concat", "depthwise", "grouped", "flatten"]
)
@pytest.mark.parametrize(
    ("strategy", "norm"), [(l1, torch.abs), (l2, torch.square)], ids=["l1", "l2"]
)
def test_a_magnitude_is_the_sum_over_all_that_a_unit_cuts(name, strategy, norm):
    model = tiny.make(name)
    for group in Network.of(model, tiny.example(name)).groups:
        units = range(group.units)
        expected = [
            sum(norm(w).sum() for *_, w in parameters_of_unit(model, group, u)) for u in units
        ]
        torch.testing.assert_close(strategy(model, group), torch.stack(expected))


@pytest.mark.parametrize("name", ["residual_a", "flatten"])
def test_an_infinite_power_is_the_largest_value_that_a_unit_cuts(name):
    model = tiny.make(name)
    for group in Network.of(model, tiny.example(name)).groups:
        expected = [
            max(float(w.abs().max()) for *_, w in parameters_of_unit(model, group, u))
            for u in range(group.units)
        ]
        torch.testing.assert_close(Magnitude(p=math.inf)(model, group), torch.tensor(expected))


def test_any_power_is_summed_over_all_that_a_unit_cuts():
    model = tiny.make("concat")
    for group in Network.of(model, tiny.example("concat")).groups:
        expected = [
            sum(float(w.double().abs().pow(1.5).sum()) for *_, w in cuts)
            for cuts in (parameters_of_unit(model, group, u) for u in range(group.units))
        ]
        torch.testing.assert_close(Magnitude(p=1.5)(model, group), torch.tensor(expected))


def test_running_statistics_do_not_count():
    model = tiny.make("plain")
    group = next(iter(Network.of(model, tiny.example("plain")).groups))
    before = l2(model, group)
    model[1].running_var.mul_(100)
    assert torch.equal(l2(model, group), before)


def test_a_group_of_buffers_alone_scores_zero():
    group = Group("norm", units=8, slices=(Slice("1.running_mean", 0),))
    assert l2(tiny.make("plain"), group).tolist() == [0.0] * 8


def test_a_tensor_that_is_not_there_is_named():
    group = Group("conv", units=2, slices=(Slice("conv9.weight", 0),))
    with pytest.raises(KeyError, match=r"conv9\.weight"):
        l2(tiny.make("plain"), group)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    model = nn.Linear(3, 2)
    model.weight.data[0, 0] = value
    with pytest.raises(InputError, match="'weight' has NaN or infinite"):
        l1(model, Group("fc", units=2, slices=(Slice("weight", 0),)))


def test_magnitudes_of_4096_units_take_little_time():
    model = nn.Sequential(nn.Linear(64, 4096), nn.Linear(4096 * 9, 8))
    index = tuple(tuple(range(9 * u, 9 * u + 9)) for u in range(4096))
    group = Group(
        "wide", 4096, (Slice("0.weight", 0), Slice("0.bias", 0), Slice("1.weight", 1, index))
    )
    start = time.process_time()
    l2(model, group)
    assert time.process_time() - start < 2


def test_random_scores_depend_on_the_seed():
    group = Group("conv", units=8, slices=())
    assert not torch.equal(
        Random(seed=0)(nn.Identity(), group), Random(seed=1)(nn.Identity(), group)
    )


def test_random_scores_of_two_groups_differ():
    one, two = (Random()(nn.Identity(), Group(name, units=8, slices=())) for name in "ab")
    assert not torch.equal(one, two)


@pytest.fixture(scope="module")
def case():
    model = tiny.make("concat")
    inputs = tiny.example("concat", batch=10)
    labels = torch.arange(10) % 4
    batches = [(inputs[:6], labels[:6]), (inputs[6:], labels[6:])]
    return model, Network.of(model, tiny.example("concat")), Calibration.of(batches)


def terms_by_hand(model, group, inputs, labels):
    """Sum of gradient times weight over all that each unit cuts, a row per sample."""
    found = torch.zeros(len(inputs), group.units)
    for row, x, y in zip(found, inputs.split(1), labels.split(1), strict=True):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        for unit in range(group.units):
            cuts = parameters_of_unit(model, group, unit)
            row[unit] = sum((grads[n].index_select(d, i) * w).sum() for n, d, i, w in cuts)
    model.zero_grad()
    return found


def test_taylor_with_a_loss_is_the_mean_square_of_the_summed_first_order_term(case):
    model, network, data = case
    prepared = Taylor(loss=F.cross_entropy).prepare(network, data)
    inputs, labels = torch.cat(data.inputs), torch.cat(data.labels)
    for group in network.groups:
        expected = terms_by_hand(model, group, inputs, labels).square().mean(0)
        torch.testing.assert_close(prepared(model, group), expected)


def test_taylor_of_order_two_is_the_expected_change_with_the_curvature_of_the_samples(case):
    model, network, data = case
    prepared = Taylor(loss=F.cross_entropy, order=2).prepare(network, data)
    inputs, labels = torch.cat(data.inputs), torch.cat(data.labels)
    for group in network.groups:
        terms = terms_by_hand(model, group, inputs, labels)
        expected = (terms.square() / 2 - terms).mean(0).abs()
        torch.testing.assert_close(prepared(model, group), expected)


@pytest.mark.parametrize("taylor", [Taylor(), Taylor(loss=F.cross_entropy)], ids=["own", "loss"])
def test_taylor_gives_the_same_one_sample_at_a_time(case, taylor, monkeypatch):
    model, network, data = case
    batched = taylor.prepare(network, data)

    def refuse(*_):
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(SampleGradients, "_vmapped", refuse)
    looped = taylor.prepare(network, data)
    for group in network.groups:
        torch.testing.assert_close(looped(model, group), batched(model, group))


def test_taylor_looks_at_no_more_samples_than_asked(case):
    model, network, data = case
    first = Calibration.of([(data.inputs[0][:4], data.labels[0][:4])])
    few = Taylor(loss=F.cross_entropy, samples=4).prepare(network, data)
    same = Taylor(loss=F.cross_entropy).prepare(network, first)
    assert all(torch.equal(few(model, g), same(model, g)) for g in network.groups)


def test_label_free_taylor_is_in_expectation_the_squared_change_of_a_linear_output():
    model = tiny.randomise(
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)), 0
    )
    inputs = torch.tensor([[1.0, -0.5, 0.7, 0.2]]).repeat(4000, 1)
    network = Network.of(model, inputs[:1])
    (group,) = network.groups
    prepared = Taylor(outputs="values", samples=4000).prepare(network, Calibration.of([inputs]))
    parts = (model[0].weight @ inputs[0]) * model[1].weight  # (outputs, units)
    expected = (2 * parts).square().sum(0).detach()  # both linear layers count the unit once
    torch.testing.assert_close(prepared(model, group), expected, rtol=0.15, atol=0)  # 4000 draws


def test_label_free_taylor_is_in_expectation_twice_the_divergence_of_a_small_change():
    model = tiny.randomise(
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)), 1
    )
    model[1].weight.data.mul_(0.02)  # small enough for the second order to hold
    inputs = torch.tensor([[1.0, -0.5, 0.7, 0.2]]).repeat(4000, 1)
    network = Network.of(model, inputs[:1])
    (group,) = network.groups
    scores = Taylor(samples=4000).prepare(network, Calibration.of([inputs]))(model, group)
    before = model(inputs[:1]).detach()
    for unit in range(group.units):
        part = (model[0].weight[unit] @ inputs[0]) * model[1].weight[:, unit]
        after = (before - 2 * part).detach()
        divergence = F.kl_div(
            after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="sum"
        )
        assert float(scores[unit]) == pytest.approx(2 * float(divergence), rel=0.2)  # 4000 draws


def test_taylor_with_a_loss_needs_labels(case):
    _, network, data = case
    with pytest.raises(StrategyError, match="ranks by labels and batch 0"):
        Taylor(loss=F.cross_entropy).prepare(network, Calibration.of(data.inputs))


def test_taylor_without_data_says_what_it_needs(case):
    model, network, _ = case
    with pytest.raises(StrategyError, match="needs calibration data"):
        Taylor()(model, next(iter(network.groups)))


def test_prepared_taylor_refuses_a_group_of_another_network(case):
    model, network, data = case
    with pytest.raises(StrategyError, match="prepared for another network"):
        Taylor().prepare(network, data)(model, Group("elsewhere", units=2, slices=()))


@pytest.mark.parametrize(
    "setting",
    [{"samples": 0}, {"outputs": "probabilities"}, {"memory_mb": 0}],
    ids=lambda s: next(iter(s)),
)
def test_taylor_refuses_settings_out_of_range(setting):
    with pytest.raises(StrategyError, match=next(iter(setting))):
        Taylor(**setting)


def test_strategies_with_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Random().seed = 1

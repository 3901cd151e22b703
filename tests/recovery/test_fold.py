"""Folding: what a unit that goes gave its readers comes from the unit most like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.recovery import Fold
from penjing.recovery.fold import fold
from penjing.task import Calibration
from penjing.verbs.prune import prune
from penjing.verbs.sparsify import sparsify


def convolutions() -> nn.Module:
    """Channel 5 of the first layer is twice channel 1, and channel 4 half of channel 0."""
    layers = [nn.Conv2d(2, 6, 3, padding=1, padding_mode="zeros"), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5)).eval()
    with torch.no_grad():
        for parameter in (net[0].weight, net[0].bias):
            parameter[5], parameter[4] = 2 * parameter[1], 0.5 * parameter[0]
        net[3].running_mean.uniform_(-1, 1)
    return net


def neurons() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[0].weight[7], net[0].bias[7] = net[0].weight[2], net[0].bias[2]
    return net


SCENES = {
    "convolution": (convolutions, torch.randn(32, 2, 6, 6), (4, 5)),
    "linear": (neurons, torch.randn(64, 4), (7,)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_units_that_repeat_others_are_folded_without_any_loss(scene):
    make, x, gone = SCENES[scene]
    model = make()
    plan = Network.of(model, x[:1]).plan({"0": gone})
    folded = prune(model, x[:1], plan=plan, calibration=[x], repair=Fold(recalibrate=False))
    with torch.no_grad():
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_partner_and_the_factor_are_the_best_of_all_pairs():
    model, x = neurons(), torch.randn(64, 4)
    network = Network.of(model, x[:1])
    tensors, _ = fold(network.cut(network.plan({"0": (3,)})), Calibration.of([x]), Fold())
    with torch.no_grad():
        seen = torch.tanh(model[0](x)).double()
    kept = [unit for unit in range(8) if unit != 3]
    errors = {}
    for unit in kept:  # by least squares with an intercept, one pair after the other
        columns = torch.stack([seen[:, unit], torch.ones(64).double()], 1)
        fit = torch.linalg.lstsq(columns, seen[:, 3:4]).solution
        errors[unit] = float((columns @ fit - seen[:, 3:4]).square().sum()), fit[:, 0]
    best = min(errors, key=lambda unit: errors[unit][0])
    slope, intercept = errors[best][1]
    weight = model[2].weight.detach().double()
    want = weight[:, kept].clone()
    want[:, kept.index(best)] += slope * weight[:, 3]
    torch.testing.assert_close(tensors["2.weight"].double(), want, rtol=1e-5, atol=1e-6)
    bias = model[2].bias.detach().double() + intercept * weight[:, 3]
    torch.testing.assert_close(tensors["2.bias"].double(), bias, rtol=1e-5, atol=1e-6)


def test_it_leaves_less_error_than_dropping_does():
    torch.manual_seed(1)
    model, x = convolutions(), torch.randn(64, 2, 6, 6)
    plan = prune(model, x[:1], pruning_ratio=0.5).plan

    def wrong(repair):
        made = prune(model, x[:1], plan=plan, calibration=[x], repair=repair).model
        with torch.no_grad():
            return float((made(x) - model(x)).square().mean())

    assert wrong(Fold(recalibrate=False)) < wrong(None)


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(StrategyError, match="both are above 0"):
        Fold(largest=0)
    with pytest.raises(StrategyError, match="sparsify cuts none"):
        sparsify(
            neurons(),
            torch.randn(1, 4),
            sparsity=0.5,
            calibration=[torch.randn(8, 4)],
            repair="fold",
        )


def test_a_transposed_convolution_with_strides_gets_the_mean_of_what_went_once():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, stride=2)).eval()
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, 3  # constant, like nothing that stays
    x = torch.randn(16, 2, 5, 5)
    network = Network.of(net, x[:1])
    group = next(g for g in network.groups if g.units == 4)
    cut = network.cut(network.plan({group.name: (0,)}))
    values, _ = fold(cut, Calibration.of([x]), Fold())
    want = net[2].bias + 3 * net[2].weight[0].mean((1, 2))
    torch.testing.assert_close(values["2.bias"], want, rtol=1e-5, atol=1e-5)

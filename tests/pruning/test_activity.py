"""Sparse activations: how many become zero, where, and what is left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import StrategyError
from penjing.graph.capture import capture
from penjing.pruning.activity import _spread, curve, quiet, zero_shares
from penjing.task import Calibration


def network() -> nn.Module:
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 5)).eval()


def images(samples: int = 32) -> torch.Tensor:
    return torch.randn(samples, 2, 6, 6)


def test_a_threshold_makes_the_share_zero_that_was_asked_for_or_what_there_was():
    model, x = network(), images()
    quieted = quiet(model, [x], sparsity={"2": 0.3, "5": 0.8})
    assert quieted.before["2"] > 0.3  # the ReLU makes more zeros than that
    assert quieted.after["2"] == quieted.before["2"]
    assert quieted.after["5"] == pytest.approx(0.8, abs=0.005)
    assert quieted.before["5"] == 0


def test_shares_are_those_counted_on_the_values_themselves():
    model, x = network(), images()
    with torch.no_grad():
        seen = model[:5](x)
    bound = float(seen.abs().flatten().sort().values[int(0.6 * seen.numel()) - 1])
    quieted = quiet(model, [x], sparsity=0.6, layers="5")
    assert quieted.rules["5"].bound == pytest.approx(bound)
    with torch.no_grad():
        want = model[5](torch.where(seen.abs() > bound, seen, torch.zeros(())))
        torch.testing.assert_close(quieted.model(x), want)


def test_top_k_keeps_the_same_number_of_channels_everywhere():
    model, x = network(), images()
    quieted = quiet(model, [x], sparsity=0.75, layers=[nn.Conv2d], rule="topk")
    assert quieted.rules["2"].keep == 2
    quieted.model[2].register_forward_pre_hook(
        lambda _layer, inputs: counts.append((inputs[0] != 0).sum(1))
    )
    counts: list[torch.Tensor] = []
    quieted.model(x)
    assert int(counts[0].max()) == 2


def test_the_network_is_left_alone_and_the_result_can_be_captured_and_trained():
    model, x = network(), images()
    quieted = quiet(model, [x], sparsity=0.5, layers=model[5])
    assert zero_shares(model, ["5"], Calibration.of([x])) == {"5": 0}
    program = capture(quieted.model, x[:1])
    with torch.no_grad():
        torch.testing.assert_close(program.run([x])[0], quieted.model(x))
    quieted.model(x).square().sum().backward()
    assert float(quieted.model[0].weight.grad.abs().sum()) > 0


def test_the_curve_falls_from_full_agreement():
    found = curve(network(), [images(64)], [0.0, 0.95], layers="5")
    assert found[0.0] == 1.0
    assert found[0.95] <= 1.0


def test_what_makes_no_sense_is_refused():
    model, x = network(), images(2)
    with pytest.raises(StrategyError, match="share of activations"):
        quiet(model, [x], sparsity=90)
    with pytest.raises(StrategyError, match="rule is 'soft'"):
        quiet(model, [x], sparsity=0.5, rule="soft")
    with pytest.raises(StrategyError, match="no linear or convolutional"):
        quiet(model, [x], sparsity=0.5, layers=nn.ReLU)


def test_a_threshold_is_read_from_places_that_a_large_layer_has():
    many = 2**25  # the last place has no float32
    found = _spread(torch.arange(many), 2**20)
    assert torch.equal(found, torch.arange(2**20) * 32)


def test_all_linear_and_convolutional_layers_are_meant_where_none_is_named():
    assert set(quiet(network(), [images()], sparsity=0.5).after) == {"0", "2", "5"}

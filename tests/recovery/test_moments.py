"""Moments: what is matched has the mean and variance that it should, and zeros stay zeros."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.recovery import Reconstruct, reconstruct
from penjing.task import Calibration
from penjing.testing import tiny


class Pair(nn.Module):
    """A layer that is cut, one that reads it, and a norm if wanted."""

    def __init__(self, normed, bias=True):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if normed else nn.Identity()
        tiny.randomise(self, 0)

    def forward(self, x):
        return self.norm(self.second(F.relu(self.first(x))))


def matched(model, x, **settings):
    """Outputs of the original, of the cut network and of the matched one, and the row."""
    network = Network.of(model.eval(), x[:2])
    group = max(network.groups, key=lambda g: g.units)
    cut = network.cut(network.plan({group.name: list(range(0, group.units, 2))}))
    new, rows = reconstruct(cut, Calibration.of([x]), Reconstruct(**settings))
    before, after = (cut.program.run([x], t)[0].detach() for t in (None, new))
    return model(x).detach(), before, after, {row.layer: row for row in rows}["second"]


def moments(y):
    return torch.stack(
        [f(y.movedim(1, 0).flatten(1).double(), dim=1) for f in (torch.mean, torch.std)]
    )


def images():
    return torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("normed", [False, True])
def test_mean_and_variance_of_every_channel_are_those_of_the_original(normed):
    wanted, before, after, row = matched(Pair(normed), images(), fit="variance")
    assert row.reason == ""
    torch.testing.assert_close(moments(after), moments(wanted), rtol=1e-4, atol=1e-4)
    assert (moments(before) - moments(wanted)).abs().max() > 0.1  # there was something to do


def test_bias_correction_moves_the_mean_alone():
    wanted, before, after, _ = matched(Pair(normed=False), images(), fit="bias")
    torch.testing.assert_close(moments(after)[0], moments(wanted)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments(after)[1], moments(before)[1], rtol=1e-5, atol=1e-6)


def test_without_bias_and_norm_the_size_alone_is_matched():
    x = images()
    wanted, before, after, row = matched(Pair(normed=False, bias=False), x, fit="variance")
    sizes = [y.square().mean((0, 2, 3)) for y in (wanted, before, after)]
    torch.testing.assert_close(sizes[2], sizes[0], rtol=1e-4, atol=1e-4)
    assert (sizes[1] - sizes[0]).abs().max() > 0.1
    assert row.reason == ""


def test_running_statistics_are_those_of_the_matched_layer():
    model, x = Pair(normed=True), images()
    pruned = pj.prune(model, x[:1], pruning_ratio=0.5, calibration=[x], repair="variance").model
    seen = pruned.second(F.relu(pruned.first(x))).movedim(1, 0).flatten(1)
    torch.testing.assert_close(pruned.norm.running_mean, seen.mean(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        pruned.norm.running_var, seen.var(1, correction=0), rtol=1e-3, atol=1e-3
    )


def test_a_layer_too_wide_for_a_gram_matrix_is_matched_and_the_report_says_so():
    wanted, before, after, row = matched(Pair(normed=False), images(), largest=3)
    assert "too large (72 unknowns of 3)" in row.note
    assert row.error_after < row.error_before
    assert (after - wanted).square().sum() < (before - wanted).square().sum()


def test_zeros_stay_zeros_when_moments_are_matched():
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    sparse = pj.sparsify(net, x[:1], sparsity=0.75, calibration=[x], repair="variance")
    assert int(sparse.model[2].weight.count_nonzero()) <= 32 * 32 // 4
    assert sparse.report.data.choices["repair"] == "variance"


def test_channels_without_signal_are_not_made_louder():
    model = Pair(normed=False)
    with torch.no_grad():
        model.second.weight[0, 1::2] = 0  # only what is cut feeds this channel
    _, _, after, _ = matched(model, images(), fit="variance")
    assert after.isfinite().all()


def test_an_unknown_fit_is_refused_with_what_is_known():
    with pytest.raises(
        StrategyError, match=r"fit is 'mean'; known are 'least_squares', 'variance'"
    ):
        Reconstruct(fit="mean")

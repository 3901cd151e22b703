"""Running statistics against those computed by hand."""

import torch
from torch import nn

from penjing.graph.capture import capture
from penjing.recovery import recalibrate
from penjing.task import Calibration


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    ).eval()


def test_the_first_norm_gets_the_exact_moments_of_its_input():
    model, x = net(), torch.randn(37, 3, 8, 8)
    new = recalibrate(capture(model, x[:2]), {}, Calibration.of([x]))
    seen = model[0](x).detach()
    torch.testing.assert_close(new["1.running_mean"], seen.mean((0, 2, 3)))
    torch.testing.assert_close(new["1.running_var"], seen.var((0, 2, 3)))


def test_later_norms_are_measured_behind_recalibrated_ones():
    model, x = net(), torch.randn(37, 3, 8, 8)
    new = recalibrate(capture(model, x[:2]), {}, Calibration.of([x]))
    model.load_state_dict({**model.state_dict(), **new})
    seen = model[:4](x).detach()
    torch.testing.assert_close(new["4.running_mean"], seen.mean((0, 2, 3)))


def test_given_tensors_take_the_place_of_the_programs_own():
    model, x = net(), torch.randn(10, 3, 8, 8)
    zero = {"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.full((4,), 2.0)}
    new = recalibrate(capture(model, x[:2]), zero, Calibration.of([x]))
    torch.testing.assert_close(new["1.running_mean"], torch.full((4,), 2.0))


def test_a_single_value_per_channel_changes_nothing():
    model, x = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval(), torch.randn(2, 3)
    assert recalibrate(capture(model, x), {}, Calibration.of([x[:1]])) == {}

"""`measure` gives every figure with how it was had."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import UnavailableError
from penjing.verbs.measure import measure
from penjing.verbs.quantize import quantize

X = torch.randn(1, 3, 6, 6)


@pytest.fixture(scope="module")
def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


@pytest.fixture(scope="module")
def figures(network):
    return measure(network, X, n=5)


def test_counts_are_those_of_the_hand(figures):
    assert (figures.params, figures.macs) == (8 * 27 + 8 + 640 + 5, 16 * 8 * 27 + 640)


def test_memory_is_that_of_the_hand(figures):
    assert figures.ram_bytes == 4 * (3 * 36 + 8 * 16)


def test_latency_is_the_median_of_its_measurement(figures):
    assert figures.latency_ms == figures.latency.median_ms > 0


def test_every_figure_says_how_it_was_had(figures):
    names = {"params", "nonzero", "macs", "size_bytes", "ram_bytes", "latency_ms"}
    assert set(figures.how) == names


def test_the_file_is_larger_than_its_weights(figures):
    assert figures.size_bytes > 4 * figures.params


def test_without_latency_the_size_is_that_of_the_tensors(network):
    assert measure(network, X, latency=False).size_bytes == 4 * (8 * 27 + 8 + 640 + 5)


def test_against_another_network_there_is_a_ratio(network):
    larger = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten())
    assert measure(network, X, n=5, against=larger).latency.ratio > 0


def test_a_network_without_an_onnx_file_says_so():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    how = measure(Odd(), torch.eye(3).repeat(2, 1, 1)).how
    assert how["latency_ms"].startswith("not measured: torch.onnx cannot express")


def test_the_network_keeps_its_mode(network):
    network.train()
    measure(network, X, n=1)
    assert network.training


def test_a_device_is_not_in_this_version(network):
    with pytest.raises(UnavailableError, match="stm32"):
        measure(network, X, device="stm32h743")


def test_a_quantized_network_is_measured_as_integers():
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    samples = [torch.randn(32, 16, generator=torch.Generator().manual_seed(0))]
    quantized = quantize(net, torch.ones(1, 16), calibration=samples).model
    figures = measure(quantized, torch.ones(1, 16), n=3, against=net)
    assert figures.params == sum(p.numel() for p in net.parameters())
    assert figures.macs == 16 * 32 + 32 * 4
    assert figures.latency.ratio > 0

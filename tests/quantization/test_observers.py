"""Observers choose ranges from distributions."""

from __future__ import annotations

import pytest
import torch

from penjing.errors import StrategyError
from penjing.quantization.observers import NAMES, Histogram, resolve
from penjing.quantization.observers.histogram import BINS


def _histogram(values: torch.Tensor) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, torch.histc(values, BINS, low, high).double())


def _normal(seed: int = 0, count: int = 50000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["normal", "relu", "spike"])
def test_a_range_lies_within_what_was_seen(name: str, kind: str) -> None:
    x = _normal()
    x = {"normal": x, "relu": x.relu(), "spike": torch.cat([x, torch.tensor([50.0])])}[kind]
    histogram = _histogram(x)
    low, high = resolve(name)(histogram)
    assert histogram.minimum - 1e-9 <= low < high <= histogram.maximum + 1e-9


@pytest.mark.parametrize("name", ["percentile", "entropy"])
def test_an_outlier_is_clipped(name: str) -> None:
    _, high = resolve(name)(_histogram(torch.cat([_normal(), torch.tensor([50.0])])))
    assert high < 30


def test_min_max_keeps_the_outlier() -> None:
    assert resolve("min_max")(_histogram(torch.cat([_normal(), torch.tensor([50.0])])))[1] == 50


def test_mse_is_no_worse_than_min_max() -> None:
    histogram = _histogram(_normal() ** 3)
    chosen, whole = resolve("mse")(histogram), resolve("min_max")(histogram)
    assert histogram.squared_error(*chosen) <= histogram.squared_error(*whole)


def test_an_unknown_observer_is_refused() -> None:
    with pytest.raises(StrategyError, match="known are 'min_max'"):
        resolve("median")

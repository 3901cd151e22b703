"""Timing on ONNX Runtime: what is reported, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penjing.errors import ExportError, InputError
from penjing.exporters import write
from penjing.latency.onnxruntime import Timing, time_onnx, time_pair

QUICK = Timing(n=7, warmup=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("latency") / "small.onnx"
    return write(nn.Linear(4, 4), torch.randn(2, 4), path).path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("latency") / "large.onnx"
    return write(nn.Conv2d(16, 16, 3), torch.randn(2, 16, 96, 96), path).path


def test_the_figures_are_in_order(small):
    timed = time_onnx(small, QUICK)
    assert 0 < timed.min_ms <= timed.median_ms <= timed.p95_ms


def test_the_figures_say_how_they_were_had(small):
    timed = time_onnx(small, Timing(n=6, batch=3))
    assert (timed.n, timed.batch, timed.threads, timed.ratio) == (6, 3, 1, None)


def test_a_smaller_network_is_faster_than_a_larger_one(small, large):
    assert time_pair(small, large, QUICK)[0].ratio > 1


def test_the_ratio_is_that_of_the_two_medians_nearly(small, large):
    mine, theirs = time_pair(large, small, Timing(n=21))
    assert mine.ratio == pytest.approx(theirs.median_ms / mine.median_ms, rel=0.9)


def test_the_original_of_the_same_rounds_goes_with_the_ratio(small, large):
    mine, theirs = time_pair(small, large, QUICK)
    assert mine.original == theirs


def test_timing_stops_when_its_time_is_over(small):
    assert time_onnx(small, Timing(n=10**9, seconds=0.0)).n == 5


def test_integers_and_several_inputs_are_made(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)

        def forward(self, tokens, x):
            return self.embed(tokens).sum(1) + x

    done = write(Two(), (torch.tensor([[1, 4, 0]]), torch.randn(1, 4)), tmp_path / "net.onnx")
    assert time_onnx(done.path, QUICK).n == 7


def test_a_missing_input_is_named(small):
    with pytest.raises(InputError, match="needs input 'input'"):
        time_onnx(small, QUICK, {"other": torch.ones(1, 4).numpy()})


def test_a_batch_that_the_file_does_not_take_is_refused(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 4) + 1

    done = write(Fixed(), torch.randn(2, 4), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="takes batch 2 alone, not 3"):
        time_onnx(done.path, QUICK, {"x": torch.ones(3, 4).numpy()})


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ExportError, match="no file"):
        time_onnx(tmp_path / "net.onnx")


def test_a_file_that_is_not_onnx_is_an_error(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(ExportError, match="cannot run"):
        time_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("setting", ["threads", "batch", "n"])
def test_numbers_below_one_are_refused(setting):
    with pytest.raises(InputError, match="at least 1"):
        Timing(**{setting: 0})

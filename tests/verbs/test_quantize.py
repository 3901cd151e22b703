"""`quantize`, as a person calls it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import InputError, StrategyError
from penjing.testing.tiny import example, make


@pytest.fixture(scope="module")
def quantized() -> pj.Quantized:
    return pj.quantize(make("plain"), example("plain"), calibration=[example("plain", batch=64)])


def test_the_result_answers_nearly_as_the_original(quantized: pj.Quantized) -> None:
    x = example("plain", batch=16, seed=1)
    with torch.no_grad():
        wanted = make("plain")(x)
    assert float((quantized.model(x) - wanted).norm() / wanted.norm()) < 0.05


def test_the_report_says_what_runs_in_integers(quantized: pj.Quantized) -> None:
    assert "3 of 3 layers" in quantized.report.data.notes[0]


def test_the_report_compares_bytes(quantized: pj.Quantized) -> None:
    assert quantized.report.ratios["size_bytes"] > 2


def test_a_report_of_integers_is_drawn(quantized: pj.Quantized) -> None:
    assert "plain" in quantized.report.to_html() or quantized.report.title in str(quantized.report)


def test_the_original_is_left_alone() -> None:
    model = make("plain").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pj.quantize(model, example("plain"), calibration=[example("plain", batch=8)])
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).relu()))


def test_a_shared_layer_is_ignored_under_its_second_name() -> None:
    done = pj.quantize(
        Twice().eval(), torch.ones(1, 4), calibration=[torch.randn(16, 4)], ignored_layers="second"
    )
    assert list(done.model.network.weights) == ["last.weight"]


def test_ignored_layers_stay_in_floats() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    done = pj.quantize(
        model, torch.ones(1, 4), calibration=[torch.randn(16, 4)], ignored_layers="2"
    )
    assert done.model.network.fallbacks == {"linear_1": "ignored_layers has it"}


def test_a_quantized_network_is_not_quantized_again(quantized: pj.Quantized) -> None:
    with pytest.raises(InputError, match="quantized already"):
        pj.quantize(quantized.model, example("plain"), calibration=[example("plain", batch=4)])


def test_nan_in_the_calibration_data_is_named() -> None:
    bad = example("plain", batch=4)
    bad[2] = float("nan")
    with pytest.raises(InputError, match="the first in sample 2"):
        pj.quantize(make("plain"), example("plain"), calibration=[bad])


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ({"scheme": "int3"}, "'int8'"),
        ({"observer": "max"}, "'mse'"),
        ({"rounding": "up"}, "'gptq'"),
    ],
)
def test_an_unknown_name_lists_those_known(argument: dict[str, str], text: str) -> None:
    with pytest.raises(StrategyError, match=text):
        pj.quantize(make("plain"), example("plain"), calibration=[example("plain")], **argument)  # type: ignore[arg-type]


def test_integers_are_measured_as_integers(quantized: pj.Quantized) -> None:
    figures = pj.measure(quantized.model, example("plain"), against=make("plain"), n=5)
    assert figures.latency is not None
    assert figures.latency.ratio is not None


def test_integers_are_not_pruned(quantized: pj.Quantized) -> None:
    with pytest.raises(
        pj.PenjingError, match=r"^a network in integers .*take integers as they are$"
    ):
        pj.find_groups(quantized.model, example("plain"))


@pytest.fixture(scope="module")
def timed() -> pj.Report:
    x = example("residual", batch=64)
    return pj.quantize(make("residual"), x[:1], calibration=[x], latency=True).report


def test_every_layer_is_timed_in_floats_and_in_integers(timed: pj.Report) -> None:
    layers = {row.layer for row in timed.data.layer_latency}
    assert {"stem", "block1.conv1", "block2.project", "fc"} <= layers
    assert all(row.floats_ms > 0 and row.integers_ms > 0 for row in timed.data.layer_latency)


def test_the_ops_of_the_runtime_are_told(timed: pj.Report) -> None:
    assert any("ops in integers, 0 in floats" in note for note in timed.data.notes)


def test_slower_integers_are_never_a_win(timed: pj.Report) -> None:
    latency = timed.data.after.latency if timed.data.after else None
    assert latency is not None
    assert latency.ratio is not None
    slower = any("slower than floats" in note for note in timed.data.notes)
    assert slower == (latency.ratio < 1)


def test_latency_layer_by_layer_is_drawn(timed: pj.Report) -> None:
    assert "Latency layer by layer" in timed.to_html()


def test_what_onnx_cannot_hold_is_not_timed() -> None:
    x = example("plain", batch=8)
    options = {"calibration": [x], "scheme": "int8x16", "latency": True}
    done = pj.quantize(make("plain"), x[:1], **options)  # type: ignore[arg-type]
    assert "latency was not measured" in done.report.data.notes[-1]

"""`quantize(max_drop=...)`: as few layers higher as the bound needs, and a table of blame."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import BudgetError, InfeasibleError, InputError
from penjing.quantization.control import KEPT


class Fragile(nn.Module):
    """Three layers; the middle one has channels too far apart for one grid of 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fragile, self.last = nn.Linear(8, 8), nn.Linear(8, 9), nn.Linear(9, 4)
        with torch.no_grad():
            self.fragile.weight[8] = 3000.0 * self.fragile.weight[0]
            self.last.weight.copy_(torch.eye(4, 9))
            for layer in (self.fragile, self.last):
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fragile(torch.relu(self.first(x))))


def _net() -> Fragile:
    torch.manual_seed(0)
    return Fragile()


def _data(n: int = 256) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(1))


def _quantize(max_drop: float | str, **settings: object) -> pj.Quantized:
    return pj.quantize(_net(), _data(1), calibration=[_data()], max_drop=max_drop, **settings)  # type: ignore[arg-type]


@cache
def _controlled() -> pj.Quantized:
    return _quantize(0.1, observer="min_max")


def test_without_a_bound_the_fragile_layer_spoils_the_answers() -> None:
    done = pj.quantize(_net(), _data(1), calibration=[_data()], observer="min_max")
    assert done.report.data.agreement is not None
    assert done.report.data.agreement < 0.7


def test_the_bound_holds_on_samples_held_back() -> None:
    assert _controlled().report.data.agreement >= 0.9  # type: ignore[operator]


def test_the_layers_to_blame_are_kept_in_floats_with_the_reason() -> None:
    assert KEPT in _controlled().model.network.fallbacks.values()
    kept = [r.layer for r in _controlled().report.data.sensitivity if r.kept]
    assert kept == ["fragile", "last"]  # both write or read the values that no grid holds


def test_the_table_says_what_is_lost_through_each_layer() -> None:
    table = {r.layer: r for r in _controlled().report.data.sensitivity}
    assert table["fragile"].alone > 10 * table["first"].alone
    assert table["fragile"].without < 0.5 * table["first"].without


def test_the_report_shows_the_table_and_the_budget() -> None:
    page = _controlled().report.to_html()
    assert "What integers cost, layer by layer" in page
    assert "budget max_drop" in str(_controlled().report)


def test_the_choice_is_the_same_every_time() -> None:
    again = _quantize(0.1, observer="min_max")
    assert again.report.data.sensitivity == _controlled().report.data.sensitivity


def test_coarse_weights_are_given_eight_bits_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    done = pj.quantize(net, _data(1), calibration=[_data()], scheme="ternary", max_drop=0.05)
    assert {r.kept for r in done.report.data.sensitivity} <= {"", "8-bit weights"}
    assert 8 in {g.bits for g in done.model.network.weights.values()}


def test_a_bound_out_of_reach_carries_the_nearest() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 1))
    task = pj.Task(kind="values")
    with pytest.raises(InfeasibleError, match="cannot be met") as caught:
        pj.quantize(net, _data(1), calibration=[_data()], max_drop=0.0, task=task)
    assert 0 < caught.value.nearest["max_drop"] < 0.01


def test_validation_labels_judge_where_the_task_has_them() -> None:
    with torch.no_grad():
        labels = _net()(_data()).argmax(1)
    task = pj.Task(val=[(_data(), labels)], metrics={"accuracy": _accuracy})
    data = _quantize(0.1, observer="min_max", task=task).report.data
    assert data.metrics_before["accuracy"] == 1
    assert 0.9 <= data.metrics_after["accuracy"] <= 1


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("value", [-0.1, 1.0, "2", "much", float("nan")])
def test_a_bound_that_is_no_share_is_refused(value: float | str) -> None:
    with pytest.raises(BudgetError, match="so one point is"):
        _quantize(value)


def test_too_few_samples_to_hold_some_back_are_refused() -> None:
    with pytest.raises(InputError, match="holds a quarter"):
        pj.quantize(_net(), _data(1), calibration=[_data(7)], max_drop=0.1)

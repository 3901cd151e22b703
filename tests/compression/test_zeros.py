"""Zeros among the candidates of `compress`: where the runtime leaves them out, and only there."""

import shutil

import pytest
import torch
from tests.compression.toys import EXAMPLE, FakeWatch, Net, ZeroWatch, equal, rows, scans, task
from torch import nn

from penjing.compression import compress
from penjing.compression.compiled import CompiledStopwatch
from penjing.counts.figures import program_figures
from penjing.errors import StrategyError
from penjing.graph.capture import capture

FAST = {"latency_ms": "50%"}


def fit(constraints=FAST, **given):
    data = {} if "task" in given else {"calibration": [scans()]}
    settings = {"runtime": "c", "progress": False, **data, **given}
    return compress(Net(), EXAMPLE, constraints=constraints, **settings)


def zeros(model):
    """Share of zeros in the kernels of the convolutions."""
    kernels = [p for p in model.parameters() if p.dim() == 4]
    return sum(int((p == 0).sum()) for p in kernels) / sum(p.numel() for p in kernels)


def with_zeros(result):
    return [row for row in result.pareto if " zeros" in row.name]


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as patches:
        ZeroWatch().install(patches)
        return fit()


def test_networks_with_zeros_win_where_zeros_cost_nothing(whole):
    result = whole
    assert zeros(result.model) > 0.1
    assert result.report.after.nonzero < 0.6 * result.report.before.nonzero
    assert result.report.data.choices["zeros"].endswith("tried, one chosen")
    assert result.report.data.sparsity


def test_networks_with_zeros_are_tried_and_lose_where_zeros_gain_nothing(monkeypatch):
    FakeWatch().install(monkeypatch)
    result = fit()
    assert with_zeros(result)
    assert zeros(result.model) == 0
    assert result.report.data.choices["zeros"].endswith("tried, none chosen")


def test_zeros_are_never_tried_for_a_runtime_that_multiplies_by_them(monkeypatch):
    ZeroWatch().install(monkeypatch)
    result = fit(runtime="onnxruntime")
    assert not with_zeros(result)
    assert "zeros" not in result.report.data.choices


@pytest.mark.parametrize("bounds", [{"macs": "60%"}, {"params": "60%", "max_drop": 0.5}])
def test_zeros_are_never_tried_where_no_bound_gains_by_them(monkeypatch, bounds):
    ZeroWatch().install(monkeypatch)
    result = fit(bounds)
    assert not with_zeros(result)
    assert result.report.data.choices["zeros"] == "not tried"


def test_a_scope_without_weights_is_kept_to(monkeypatch):
    ZeroWatch().install(monkeypatch)
    assert not with_zeros(fit(scope={"inner", "residual"}))


def test_the_fastest_within_a_drop_is_chosen(monkeypatch):
    ZeroWatch().install(monkeypatch)
    result = fit({"max_drop": 0.1}, task=task(), recovery=None, scope={"inner", "weights"})
    best = min(row.latency_ms for row in result.pareto if row.meets)
    assert next(row.latency_ms for row in result.pareto if row.kept) == best


def test_why_no_network_has_zeros_is_said(monkeypatch):
    ZeroWatch().install(monkeypatch)
    told = fit(importance="l2").report.data.choices["zeros"]
    assert told.startswith("no network with zeros was tried: scope holds 'weights', and importance")


def test_fine_tuning_keeps_the_zeros_of_a_scope_with_weights_alone(monkeypatch):
    ZeroWatch().install(monkeypatch)
    scope = {"inner", "residual", "weights"}
    result = fit(task=task(), recovery="finetune", epochs=2, scope=scope)
    assert len(with_zeros(result)) == sum(row.name != "original" for row in result.pareto)
    assert result.report.data.epochs
    found = sum(s.weights - s.nonzero for s in result.report.data.sparsity)
    kernels = dict(result.model.named_parameters())
    left = sum(int((kernels[f"{s.layer}.weight"] == 0).sum()) for s in result.report.data.sparsity)
    assert left >= found > 0


def test_a_search_with_zeros_goes_on_where_it_was(monkeypatch, tmp_path, whole):
    watch = ZeroWatch(dies_at=5).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(workdir=tmp_path)
    watch.dies_at = None
    again = fit(workdir=tmp_path)
    assert rows(again) == rows(whole)
    assert equal(again.model, whole.model)


def test_zeros_that_gain_nothing_are_refused(monkeypatch):
    ZeroWatch().install(monkeypatch)
    scope = {"inner", "weights"}
    with pytest.raises(StrategyError, match="nothing that is bounded gains by zeros"):
        fit(runtime="onnxruntime", scope=scope)
    with pytest.raises(StrategyError, match="nothing that is bounded gains by zeros"):
        fit({"macs": "50%"}, scope=scope)
    with pytest.raises(StrategyError, match=r"scope is \['weights'\] alone; zeros without a cut"):
        fit(scope="weights")
    with pytest.raises(StrategyError, match="runtime is 'tflite'; known are onnxruntime, c"):
        fit(runtime="tflite")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_a_compiled_network_with_zeros_is_timed_against_the_dense_one():
    dense, thin = nn.Linear(256, 256), nn.Linear(256, 256)
    with torch.no_grad():
        thin.weight[:, torch.arange(256) % 16 != 0] = 0
    example = torch.zeros(1, 256)
    watch = CompiledStopwatch(dense, example, threads=1)
    figures = program_figures(capture(thin, example))
    measured = watch.add(thin, figures, None)
    assert measured.latency.runtime == "penjing's C"
    assert measured.latency.ratio > 1  # a sixteenth of the weights is read
    assert measured.size_bytes < 4 * 256 * 256

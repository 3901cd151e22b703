"""Networks whose batch is not in dimension 0: judged, cut, repaired and measured like others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import capture
from penjing.pruning.saliency import Snip
from penjing.task import Calibration


class Net(nn.Module):
    """A recurrent layer over (time, batch, features), and a table beside it when asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.over, self.beside, self.read = nn.GRU(5, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.over(x)[0][-1]
        return self.read(h if y is None else torch.relu(h + self.beside(y)))


GENERATOR = torch.Generator().manual_seed(1)
X, Y = torch.randn(7, 8, 5, generator=GENERATOR), torch.randn(8, 4, generator=GENERATOR)
DATA = [torch.randn(7, 32, 5, generator=GENERATOR) for _ in range(4)]
BOTH = [{"x": x, "y": torch.randn(32, 4, generator=GENERATOR)} for x in DATA]
INPUTS = {"one input": (X, DATA), "two inputs": ({"x": X, "y": Y}, BOTH)}


NEEDS_BATCH_FIRST = ["taylor", "fisher", "apoz", "chip", "ablation", "sensitivity"]


@pytest.mark.parametrize("name", NEEDS_BATCH_FIRST)
def test_what_looks_for_samples_in_dimension_0_says_so(name: str) -> None:
    with pytest.raises(StrategyError, match="samples in dimension 0, and the network has its"):
        pj.prune(Net().eval(), X, pruning_ratio=0.5, importance=name, calibration=DATA)


def test_a_search_that_measures_says_so_too() -> None:
    with pytest.raises(StrategyError, match="samples in dimension 0, and the network has its"):
        pj.prune(Net().eval(), X, pruning_ratio=0.5, allocation="genetic", calibration=DATA)


def test_a_mean_loss_is_taken_over_samples_and_not_over_time() -> None:
    model, labels = Net().eval(), torch.arange(32) % 3
    data = Calibration.of([(batch, labels) for batch in DATA], dims=(1,))
    program = capture(model, X)
    weights = {"read.weight": model.read.weight.detach()}
    found = Snip().elements(program, weights, data)["read.weight"]
    whole = [F.cross_entropy(model(x), y) for b in DATA for x, y in _eights(b, labels)]
    (gradient,) = torch.autograd.grad(torch.stack(whole).mean(), [model.read.weight])
    torch.testing.assert_close(found, (gradient * model.read.weight).abs().detach())


def _eights(batch: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(batch.split(8, dim=1), labels.split(8), strict=True))


def called(model: nn.Module, batch: object) -> Tensor:
    with torch.no_grad():
        return model(**batch) if isinstance(batch, dict) else model(batch)


@pytest.mark.parametrize(("example", "data"), INPUTS.values(), ids=list(INPUTS))
def test_every_sample_is_read(example: object, data: list[object]) -> None:
    pruned = pj.prune(Net().eval(), example, pruning_ratio=0.5, calibration=data)
    assert pruned.report.data.choices["calibration samples"] == "128"


@pytest.mark.parametrize(("example", "data"), INPUTS.values(), ids=list(INPUTS))
def test_repair_brings_the_outputs_nearer(example: object, data: list[object]) -> None:
    model, errors = Net().eval(), []
    for repair in (None, "auto"):
        pruned = pj.prune(model, example, pruning_ratio=0.5, calibration=data, repair=repair)
        gaps = [called(pruned.model, batch) - called(model, batch) for batch in data]
        errors.append(float(torch.cat(gaps).square().mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("repair", ["recalibrate", "tune"])
def test_other_repairs_take_them_too(repair: str) -> None:
    how = {"repair": repair} if repair != "tune" else {"repair": pj_tune()}
    pruned = pj.prune(Net().eval(), X, pruning_ratio=0.5, calibration=DATA, **how)
    assert called(pruned.model, DATA[0]).shape == (32, 3)


def pj_tune() -> object:
    from penjing.recovery.tune import Tune

    return Tune(steps=4, batch=8)


def test_zeros_are_judged_on_them() -> None:
    sparse = pj.sparsify(Net().eval(), X, sparsity=0.5, calibration=DATA, keep_dense=())
    assert sparse.report.data.agreement > 0.5


def test_calibration_of_another_length_shows_both_shapes() -> None:
    with pytest.raises(InputError, match=r"float32\[5, 1, 5\].*float32\[7, 8, 5\]"):
        pj.prune(Net().eval(), X, pruning_ratio=0.5, calibration=[DATA[0][:5]])


def test_gradients_of_single_samples_are_refused_with_what_serves() -> None:
    with pytest.raises(StrategyError, match="use importance 'obs' or 'l2'"):
        pj.prune(Net().eval(), X, pruning_ratio=0.5, calibration=DATA, importance="taylor")


def test_all_that_is_counted_is_of_the_whole_example() -> None:
    figures = pj.measure(Net().eval(), X, latency=False)
    assert figures.macs == 7 * 8 * 3 * 12 * (5 + 12) + 8 * 12 * 3


def test_the_report_says_where_the_batch_is() -> None:
    notes = pj.prune(Net().eval(), X, pruning_ratio=0.5).report.data.notes
    assert any("dimension 1" in note and "batch of 8" in note for note in notes)

"""Quantization-aware training: prepared, trained by the one loop, converted."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import CaptureError, InputError, StrategyError
from penjing.graph.capture import capture
from penjing.quantization.aware import QuantizationAware, Steps
from penjing.quantization.steps import LearnedGrid
from penjing.testing.tiny import NETWORKS, example, make
from penjing.training import Callback, Run

SCHEMES = ("int8", "int4", "ternary", "binary", "int8x16", "int8-shift")


def prepared(name: str = "plain", **options: object) -> QuantizationAware:
    call = {"calibration": [example(name, batch=32, seed=1)], **options}
    return pj.prepare(make(name), example(name), **call).model  # type: ignore[arg-type]


def shaken(model: QuantizationAware, x: Tensor, steps: int = 3) -> QuantizationAware:
    """After some steps of training."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("steps", ["learned", "observed"])
def test_integers_compute_what_the_trained_network_does(name: str, steps: str) -> None:
    x = example(name, batch=16, seed=2)
    trained = shaken(prepared(name, steps=steps), x)
    with torch.no_grad():
        assert torch.equal(pj.convert(trained).model(x), trained(x))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_trained(scheme: str) -> None:
    x = example("residual", batch=16, seed=2)
    trained = shaken(prepared("residual", scheme=scheme), x)
    with torch.no_grad():
        assert torch.equal(pj.convert(trained).model(x), trained(x))


class Shares(nn.Module):
    """Attention, whose softmax has a grid of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixed = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.mixed(x).chunk(3, 2))


@pytest.mark.parametrize("steps", ["learned", "observed"])
def test_a_softmax_keeps_the_grid_that_its_integer_form_has(steps: str) -> None:
    x = torch.randn(32, 5, 8)
    start = pj.prepare(Shares().eval(), x[:1], calibration=[x], steps=steps).model  # type: ignore[arg-type]
    network = pj.convert(shaken(start, x)).model.network
    (name,) = (n for n in network.activations if n.endswith("softmax"))
    assert float(network.activations[name].scale) == 1 / 256


def test_training_moves_weights_biases_and_steps() -> None:
    start = prepared()
    trained = shaken(start, example("plain", batch=16))
    before = dict(start.named_parameters())
    still = [n for n, p in trained.named_parameters() if torch.equal(p, before[n])]
    assert still == []


def test_grids_of_a_frozen_network_stay() -> None:
    start = prepared(steps="observed")
    start.freeze()
    trained = shaken(start, example("plain", batch=16))
    grids = zip(start.grids(), trained.grids(), strict=True)
    assert all(a.grid.same(b.grid) for a, b in grids)


@cache
def digits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (256,), generator=generator)
    return torch.randn(256, 12, generator=generator) + 2 * F.one_hot(y, 12), y


@cache
def dense() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
    return pj.finetune(net, task(labels=True), epochs=8, lr=0.01, progress=False).model


def task(*, labels: bool) -> pj.Task:
    x, y = digits()
    batches = [(a, b) if labels else a for a, b in zip(x.split(32), y.split(32), strict=True)]
    return pj.Task(train=batches, loss=F.cross_entropy if labels else None)


def off(model: nn.Module) -> float:
    """How far outputs are from those of the dense network."""
    with torch.no_grad():
        return float((model(digits()[0]) - dense()(digits()[0])).square().mean())


@pytest.fixture(scope="module")
def ternary() -> QuantizationAware:
    x, _ = digits()
    return pj.prepare(dense(), x[:1], calibration=[x], scheme="ternary").model


@pytest.fixture(scope="module")
def tuned(ternary: QuantizationAware) -> pj.Tuned:
    return pj.finetune(ternary, task(labels=False), epochs=12, lr=0.01, progress=False)


def test_the_parent_teaches_by_default(ternary: QuantizationAware, tuned: pj.Tuned) -> None:
    assert tuned.report.data.choices["teacher"] == "Sequential"
    assert off(pj.convert(tuned.model).model) < 0.8 * off(ternary)


def test_a_network_in_training_does_not_copy_its_parent(tuned: pj.Tuned) -> None:
    assert isinstance(tuned.model, QuantizationAware)
    assert tuned.model.origin.parent is dense()


def test_training_does_not_tear_apart_a_layer_that_reads_bytes() -> None:
    x = 256 * digits()[0]
    net = copy.deepcopy(dense())
    with torch.no_grad():
        net[0].weight.div_(256)  # type: ignore[index]
    start = pj.prepare(net, x[:1], calibration=[x], scheme="int4").model
    call = {"epochs": 12, "lr": 0.001, "progress": False}
    done = pj.finetune(start, pj.Task(train=x.split(32)), **call).model  # type: ignore[arg-type]
    with torch.no_grad():
        before, after = ((m(x) - net(x)).square().mean() for m in (start, done))
    assert after < 2 * before  # 12 times as much where all weights have one rate


def test_the_median_tensor_has_the_rate_of_the_run(ternary: QuantizationAware) -> None:
    rates = ternary.relative_rates()
    assert rates.keys() == {n for n, p in ternary.named_parameters() if p.dim() > 1}
    assert 1 in rates.values()


def test_zeros_do_not_slow_a_weight_down() -> None:
    x, _ = digits()
    sparse = copy.deepcopy(dense())
    with torch.no_grad():
        sparse[0].weight[:, ::2] = 0  # type: ignore[index]
        sparse[0].weight[:, 1::2] = 3  # type: ignore[index]
        sparse[1].running_var.fill_(1 - sparse[1].eps)  # type: ignore[index]
        sparse[1].weight.fill_(1)  # type: ignore[index]
        sparse[3].weight.fill_(3)  # type: ignore[index]
    rates = pj.prepare(sparse, x[:1], calibration=[x]).model.relative_rates()
    assert list(rates.values()) == pytest.approx([1, 1], rel=1e-5)


def test_grids_stay_in_the_last_part_of_a_run(ternary: QuantizationAware) -> None:
    seen: list[list[Tensor]] = []

    class Watch(Callback):
        def on_epoch(self, run) -> None:  # type: ignore[no-untyped-def]
            ratios = [m.ratio for m in run.model.modules() if isinstance(m, LearnedGrid)]
            seen.append([r.detach().clone() for r in ratios])

    pj.finetune(ternary, task(labels=False), epochs=5, callbacks=[Watch()], progress=False)
    moved = [
        any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))
        for one, other in pairwise(seen)
    ]
    assert moved == [True, True, True, False]


def test_zeros_stay_zero_in_training() -> None:
    x, _ = digits()
    sparse = pj.sparsify(dense(), x[:1], sparsity=0.5, calibration=[x], keep_dense=()).model
    start = pj.prepare(sparse, x[:1], calibration=[x]).model
    done = pj.finetune(start, task(labels=False), epochs=2, weight_decay=0.1, progress=False)
    network = pj.convert(done.model).model.network
    for name, weight in sparse.named_parameters():
        if weight.dim() > 1:
            assert bool((network.integers(name)[weight == 0] == 0).all())


def test_a_conversion_is_saved_and_loaded(tuned: pj.Tuned, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = pj.convert(tuned.model).model
    again = pj.load(pj.save(done, tmp_path))
    assert torch.equal(again(digits()[0]), done(digits()[0]))


def test_an_optimizer_without_the_steps_is_refused(ternary: QuantizationAware) -> None:
    def only_matrices(parameters):  # type: ignore[no-untyped-def]
        return torch.optim.SGD([p for p in parameters if p.dim() > 1], lr=0.1)

    with pytest.raises(InputError, match=r"does not have \d+ of \d+ learned steps"):
        pj.finetune(ternary, task(labels=False), optimizer=only_matrices, progress=False)


def test_steps_that_a_loop_of_ones_own_forgot_are_spoken_of(ternary: QuantizationAware) -> None:
    model = copy.deepcopy(ternary).train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD(matrices, lr=0.1)
    model(digits()[0]).square().mean().backward()
    optimizer.step()
    notes = pj.convert(model).report.data.notes
    assert any("the optimizer did not have the steps" in note for note in notes)


def test_a_teacher_with_other_classes_is_refused(ternary: QuantizationAware) -> None:
    with pytest.raises(InputError, match=r"\[32, 7\]|\(32, 7\)"):
        pj.finetune(ternary, task(labels=False), teacher=nn.Linear(12, 7), progress=False)


@pytest.mark.parametrize("teacher", ["parnt", [nn.Linear(12, 4)]], ids=["a word", "a list"])
def test_a_teacher_that_is_no_network_is_refused(teacher: object) -> None:
    with pytest.raises(InputError, match="give a network"):
        pj.finetune(dense(), task(labels=True), teacher=teacher)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["quantize", "prepare"])
def test_a_prepared_network_is_not_put_on_grids_again(verb: str) -> None:
    x = example("plain")
    with pytest.raises(InputError, match=r"pj\.convert makes integers"):
        getattr(pj, verb)(prepared(), x, calibration=[x])


def test_a_prepared_network_is_not_captured() -> None:
    with pytest.raises(CaptureError, match="before `prepare`"):
        capture(prepared(), example("plain"))


def test_only_a_prepared_network_is_converted() -> None:
    with pytest.raises(InputError, match="was not prepared"):
        pj.convert(make("plain"))


@pytest.mark.parametrize(
    ("options", "error"), [({"steps": "lsq"}, StrategyError), ({"freeze_at": 1.5}, InputError)]
)
def test_unknown_settings_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"learned|share of the run"):
        prepared(**options)


class Kill(Callback):
    """Ends the process, as it were, after some steps of one epoch."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def on_step(self, run: Run, /) -> None:
        if run.step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", ["learned", "observed"])
@pytest.mark.parametrize("at", [9, 26], ids=["while grids move", "after they are frozen"])
def test_a_killed_run_goes_on_exactly(steps: Steps, at: int, tmp_path: Path) -> None:
    x, _ = digits()

    def run(kill: int | None, folder: Path) -> nn.Module:
        start = pj.prepare(dense(), x[:1], calibration=[x], scheme="int4", steps=steps).model
        call = {"epochs": 4, "workdir": folder, "save_seconds": 0, "progress": False}
        return pj.finetune(start, task(labels=False), callbacks=[Kill(kill)], **call).model  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        run(at, tmp_path / "killed")
    resumed, whole = run(None, tmp_path / "killed"), run(None, tmp_path / "whole")
    assert torch.equal(resumed(x), whole(x))

"""Tuning brings a changed network nearer, keeps zeros, and is dropped where it does not help."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import InputError, StrategyError
from penjing.graph.capture import capture
from penjing.recovery import Reconstruct, Tune, tune
from penjing.recovery.repair import Valued
from penjing.task import Calibration

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
SEEN, HELD = Calibration.of([X[:160]]), Calibration.of([X[160:]])
QUICK = Tune(steps=60, batch=32, lr=3e-3)


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 4),
    ).eval()  # fmt: skip


def disturbed(model, share=0.4):
    """The network with a third of the middle weights zero and the others moved."""
    program = capture(model, X[:2])
    weight = program.tensors["3.weight"].detach()
    generator = torch.Generator().manual_seed(1)
    noise = share * torch.randn(weight.shape, generator=generator) * weight.std()
    kept = torch.rand(weight.shape, generator=generator) > 0.3
    tensors = {**program.tensors, "3.weight": (weight + noise) * kept}
    return Valued(program, replace(program, tensors=tensors))


def test_held_out_outputs_come_nearer():
    _, row = tune(disturbed(make()), SEEN, HELD, QUICK)
    assert row.error_after < 0.5 * row.error_before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zeros_stay_zero(precision):
    changed = disturbed(make())
    new, _ = tune(changed, SEEN, HELD, replace(QUICK, precision=precision))
    gone = changed.program.tensors["3.weight"] == 0
    assert (new["3.weight"][gone] == 0).all()


def test_bfloat16_comes_as_near():
    rows = [
        tune(disturbed(make()), SEEN, HELD, replace(QUICK, precision=precision))[1]
        for precision in ("fp32", "bf16")
    ]
    assert rows[1].error_after < 1.1 * rows[0].error_after


def test_new_values_lie_in_memory_as_torch_lays_them():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2)).eval()
    images = torch.randn(40, 2, 5, 5, generator=torch.Generator().manual_seed(2))
    program = capture(model, images[:2])
    moved = {name: tensor + 0.1 for name, tensor in program.tensors.items()}
    samples = Calibration.of([images[:30]]), Calibration.of([images[30:]])
    new, _ = tune(
        Valued(program, replace(program, tensors=moved)), *samples, replace(QUICK, steps=10)
    )
    assert [tensor.is_contiguous() for tensor in new.values()] == [True] * 4


def test_a_network_that_is_right_already_is_left_alone():
    program = capture(make(), X[:2])
    new, row = tune(Valued(program, program), SEEN, HELD, QUICK)
    assert (new, row.reason) == ({}, "tuning brought held-out samples no nearer")


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu())


def test_a_weight_of_two_layers_stays_one():
    torch.manual_seed(0)
    program = capture(Tied().eval(), X[:2])
    weight = program.tensors["first.weight"].detach()
    moved = weight + 0.2 * weight.std() * torch.randn_like(weight)
    tensors = {**program.tensors, "first.weight": moved, "second.weight": moved}
    new, _ = tune(Valued(program, replace(program, tensors=tensors)), SEEN, HELD, QUICK)
    assert torch.equal(new["first.weight"], new["second.weight"])


class Summing(nn.Module):
    """An op that takes one dtype only."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        sums = torch.zeros(x.shape[0], 8, device=x.device)
        return self.last(sums.index_add(1, torch.arange(8) // 2, self.first(x)))


def summing():
    torch.manual_seed(0)
    program = capture(Summing().eval(), X[:2])
    tensors = {name: 1.1 * tensor.detach() for name, tensor in program.tensors.items()}
    return Valued(program, replace(program, tensors=tensors))


def test_a_network_that_does_not_run_in_bfloat16_is_tuned_without(monkeypatch):
    module = sys.modules["penjing.recovery.tune"]  # the function hides it
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda _: True)
    _, row = tune(summing(), SEEN, HELD, QUICK)
    assert row.error_after < row.error_before


def test_bfloat16_that_a_network_does_not_run_in_is_refused():
    with pytest.raises(StrategyError, match=r"does not run in precision 'bf16': index_add"):
        tune(summing(), SEEN, HELD, replace(QUICK, precision="bf16"))


def test_the_same_seed_gives_the_same_values():
    one, two = (tune(disturbed(make()), SEEN, HELD, QUICK)[0] for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_random_state_is_left_alone():
    changed, before = disturbed(make()), torch.get_rng_state()
    noisy = replace(QUICK, augment=lambda x: x + torch.rand(1))
    tune(changed, SEEN, HELD, noisy)
    assert torch.equal(before, torch.get_rng_state())


def test_both_networks_see_the_changed_inputs():
    seen = []

    def noted(x):
        seen.append(x.shape)
        return x

    tune(disturbed(make()), SEEN, HELD, replace(QUICK, steps=3, augment=noted))
    assert seen == [(32, 6)] * 3


@pytest.mark.parametrize("verb", ["prune", "sparsify"])
def test_the_verbs_tune_after_the_least_squares(verb):
    given = {"pruning_ratio": 0.4} if verb == "prune" else {"sparsity": 0.6, "keep_dense": ()}
    result = getattr(pj, verb)(make(), X[:2], calibration=[X], repair=QUICK, **given)
    assert result.report.data.repair[-1].layer == "outputs, tuned"


class EightAtATime(nn.Module):
    """A network that takes eight samples, no more and no less."""

    def __init__(self):
        super().__init__()
        self.inner = make()

    def forward(self, x):
        return self.inner(x.reshape(8, 6))


def test_whole_batches_are_held_out_where_a_network_takes_no_others():
    result = pj.sparsify(
        EightAtATime(), X[:8], sparsity=0.6, keep_dense=(), calibration=[X[:40]], repair=QUICK
    )
    assert result.report.data.repair[-1].layer == "outputs, tuned"


def test_a_single_batch_of_a_network_that_takes_no_others_is_too_little():
    with pytest.raises(InputError, match="fixed batch of 8 and the calibration data has 12"):
        pj.sparsify(
            EightAtATime(), X[:8], sparsity=0.6, keep_dense=(), calibration=[X[:12]], repair=QUICK
        )


def test_tuning_gets_nearer_than_least_squares_alone():
    errors = []
    for repair in (Reconstruct(), QUICK):
        model = make()
        result = pj.sparsify(
            model, X[:2], calibration=[X], repair=repair, sparsity=0.7, keep_dense=()
        )
        with torch.no_grad():
            errors.append(float((result.model(X) - model(X)).square().mean()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 0},
        {"features": -1.0},
        {"hold_out": 1.0},
        {"minutes": 0.0},
        {"precision": "fp16"},
    ],
)
def test_settings_out_of_range_are_refused(given):
    with pytest.raises(StrategyError, match=f"tune: {next(iter(given))}"):
        Tune(**given)


def frozen(model, *layers):
    for layer in layers:
        model[layer].requires_grad_(False)
    return model


def test_frozen_parameters_stay_as_they_are_to_the_bit():
    changed = disturbed(frozen(make(), 0, 1))
    new, row = tune(changed, SEEN, HELD, QUICK)
    assert row.error_after < row.error_before
    assert not {"0.weight", "0.bias", "1.weight", "1.bias"} & set(new)


def test_a_prune_with_tuning_leaves_the_layers_alone_that_are_frozen():
    model = frozen(make(), 5)
    done = pj.prune(model, X[:2], pruning_ratio=0.5, calibration=[X], repair=QUICK)
    kept = done.plan.kept("3")
    assert torch.equal(done.model[5].weight, model[5].weight[:, list(kept)])
    assert torch.equal(done.model[5].bias, model[5].bias)


def test_a_network_that_is_frozen_altogether_has_nothing_to_tune():
    model = make().requires_grad_(False)
    done = pj.prune(model, X[:2], pruning_ratio=0.5, calibration=[X], repair=QUICK)
    assert any("nothing is left to tune" in note for note in done.report.data.notes)

"""What every method of sparse training promises, and what each is about."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import InputError, StrategyError
from penjing.sparse_training import (
    STR,
    Alternating,
    Evolving,
    Gradual,
    Movement,
    Rewinding,
    Sparsifier,
    SparsitySchedule,
)
from penjing.testing import tiny

METHODS = {
    "gradual": Gradual(schedule=0.8, every=0.05),
    "uniform": Gradual(schedule=0.8, allocation="uniform", every=0.05),
    "rigl": Evolving(sparsity=0.8, every=0.1),
    "set": Evolving(sparsity=0.8, grow="random", every=0.1),
    "from noise": Evolving(sparsity=0.8, start="random", every=0.1),
    "ac/dc": Alternating(sparsity=0.8, phases=2),
    "movement": Movement(schedule=0.8, every=0.05),
    "str": STR(schedule=0.8),
    "lottery": Rewinding(sparsity=0.8),
    "rate": Rewinding(sparsity=0.8, rewind="rate"),
}
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=1e-2),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 4


def run(method, steps=40, optimizer="momentum", model=None, **how):
    model = net() if model is None else model
    sparsifier = Sparsifier.on(model, X[:1], method, total_steps=steps, **how)
    made = OPTIMIZERS[optimizer](model.parameters())
    seen = []
    for _ in range(steps):
        made.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        sparsifier.before_step()
        made.step()
        sparsifier.step(made)
        seen.append(sparsifier.sparsity)
    return sparsifier, made, seen


def zeros(sparsifier):
    weights = sparsifier.masks.weights.values()
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_the_weights_themselves_end_with_the_zeros_wanted(name, optimizer):
    sparsifier, _, _ = run(METHODS[name], optimizer=optimizer)
    assert zeros(sparsifier) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_and_the_last_layer_stay_dense(name):
    sparsifier, _, _ = run(METHODS[name], steps=20)
    assert list(sparsifier.masks.kept) == ["3.weight", "5.weight"]


@pytest.mark.parametrize("name", METHODS)
def test_the_optimizer_remembers_nothing_of_what_is_zero(name):
    sparsifier, optimizer, _ = run(METHODS[name])
    for weight in sparsifier.masks.weights.values():
        assert not optimizer.state[weight]["momentum_buffer"][weight == 0].any()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_network(name):
    first, second = (run(METHODS[name], steps=15)[0].masks.weights for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_gradual_follows_its_schedule():
    schedule = SparsitySchedule(sparsity=0.8, shape="linear", end=0.5)
    _, _, seen = run(Gradual(schedule=schedule, every=0.025), steps=40)
    assert seen == pytest.approx([min(0.8, 0.8 * (s + 1) / 20) for s in range(40)], abs=0.01)


def test_evolving_keeps_its_number_of_zeros_and_moves_them():
    sparsifier, _, seen = run(METHODS["rigl"], steps=40)
    assert max(seen) - min(seen) < 1e-9
    assert sparsifier.masks.changes > 2


def test_rigl_lets_the_largest_gradients_grow():
    model = net()
    sparsifier = Sparsifier.on(model, X[:1], Evolving(sparsity=0.5, every=0.01), total_steps=100)
    for _ in range(2):
        model.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        before = {n: m.clone() for n, m in sparsifier.masks.kept.items()}
        dense = {n: w.grad.abs().clone() for n, w in sparsifier.masks.weights.items()}
        sparsifier.before_step()
        sparsifier.step()
    for name, mask in sparsifier.masks.kept.items():
        grown, left = mask & ~before[name], ~mask & ~before[name]
        assert grown.any()
        assert dense[name][grown].min() >= dense[name][left].max()


def test_alternating_has_dense_phases_between_sparse_ones():
    _, _, seen = run(METHODS["ac/dc"], steps=60)
    changes = sum(a != b for a, b in itertools.pairwise(seen))
    assert changes == 5
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("pattern", ["2:4", "block:1x4", "kernel"])
def test_patterns_hold_all_along(pattern):
    sparsifier, _, _ = run(METHODS["gradual"], pattern=pattern)
    weight = sparsifier.masks.weights["5.weight"]
    by_run = (weight.movedim(1, 3).reshape(-1, 4) != 0).sum(1)
    allowed = {"2:4": {2}, "block:1x4": {0, 4}, "kernel": set(range(5))}[pattern]
    assert set(by_run.tolist()) <= allowed
    if pattern == "kernel":
        assert set((weight != 0).sum((2, 3)).flatten().tolist()) <= {0, 9}


@pytest.mark.parametrize("name", ["set", "movement", "str", "lottery"])
def test_a_run_goes_on_where_it_was(name):
    whole, _, _ = run(METHODS[name], steps=30)
    half = net()
    optimizer = OPTIMIZERS["momentum"](half.parameters())
    sparsifier = Sparsifier.on(half, X[:1], METHODS[name], total_steps=30)
    for step in range(30):
        if step == 15:
            state = sparsifier.state_dict()
            sparsifier = Sparsifier.on(half, X[:1], METHODS[name], total_steps=30, seed=9)
            sparsifier.load_state_dict(state)
        optimizer.zero_grad()
        F.cross_entropy(half(X), Y).backward()
        sparsifier.before_step()
        optimizer.step()
        sparsifier.step(optimizer)
    masks = sparsifier.masks.weights
    assert all(torch.equal(w, masks[n]) for n, w in whole.masks.weights.items())


def gradient(model):
    """Of the loss at the weights as they are."""
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_movement_scores_are_what_autograd_learns_through_the_mask():
    model = net()
    sparsifier = Sparsifier.on(model, X[:1], METHODS["movement"], total_steps=10)
    expected = {name: torch.zeros_like(w) for name, w in sparsifier.masks.weights.items()}
    for _ in range(6):
        dense = sparsifier.moment.memory
        for name, slope in gradient(model).items():
            if name in expected:
                weight = dense.get(f"weight {name}", model.get_parameter(name).detach())
                expected[name] -= slope * weight  # d loss / d mask, straight through
        sparsifier.before_step()
        sparsifier.step()
    assert all(torch.allclose(dense[f"score {n}"], e) for n, e in expected.items())


def test_weights_that_movement_drops_keep_the_value_that_they_had():
    model = net()
    before = model[5].weight.detach().clone()
    sparsifier = Sparsifier.on(model, X[:1], METHODS["movement"], total_steps=10)
    for _ in range(6):
        gradient(model)
        sparsifier.before_step()
        sparsifier.step()
    assert (model[5].weight == 0).any()
    assert torch.equal(sparsifier.moment.memory["weight 5.weight"], before)


def test_str_learns_the_proportion_of_thresholds_as_autograd_does():
    model = net()
    sparsifier = Sparsifier.on(model, X[:1], STR(schedule=0.5, lr=0.1), total_steps=10)
    for _ in range(3):
        gradient(model)
        sparsifier.before_step()
        sparsifier.step()
    memory = {name: t.clone() for name, t in sparsifier.moment.memory.items()}
    log = torch.zeros((), requires_grad=True)
    latent, threshold = memory["weight 3.weight"], memory["threshold 3.weight"]
    shrunk = latent.sign() * F.relu(latent.abs() - threshold * log.exp())
    outputs = torch.func.functional_call(model, {"3.weight": shrunk}, (X,))
    F.cross_entropy(outputs, Y).backward()
    gradient(model)
    sparsifier.before_step()
    learned = sparsifier.moment.memory["log 3.weight"] - memory["log 3.weight"]
    assert torch.allclose(learned, -0.1 * log.grad, rtol=1e-4)


def test_str_shrinks_what_it_keeps_by_the_threshold_of_the_layer():
    sparsifier, _, _ = run(METHODS["str"])
    weight, memory = sparsifier.masks.weights["5.weight"], sparsifier.moment.memory
    shrunk = memory["weight 5.weight"].abs() - weight.abs()
    kept = weight != 0
    assert torch.allclose(shrunk[kept], memory["threshold 5.weight"].expand_as(shrunk)[kept])


def test_str_refuses_patterns_that_it_cannot_shrink():
    with pytest.raises(StrategyError, match="single weights"):
        run(METHODS["str"], steps=1, pattern="2:4")


def test_a_lottery_ticket_is_the_early_network_under_the_mask():
    model = net()
    method = Rewinding(sparsity=0.8, rounds=1, to=0.5)
    sparsifier = Sparsifier.on(model, X[:1], method, total_steps=20)
    made = OPTIMIZERS["adamw"](model.parameters())
    for step in range(1, 11):  # step 10 opens the second pass; half of the first are five steps
        gradient(model)
        sparsifier.before_step()
        if step == 5:
            early = {name: p.detach().clone() for name, p in model.state_dict().items()}
        made.step()
        sparsifier.step(made)
    masks = sparsifier.masks.kept
    assert sparsifier.sparsity == pytest.approx(0.8, abs=0.01)
    assert all(
        torch.equal(p, early[n] * masks[n] if n in masks else early[n])
        for n, p in model.state_dict().items()
    )
    assert not any(v.any() for s in made.state.values() for v in s.values())


def test_a_rewound_rate_begins_every_later_pass_where_it_was():
    rate = Rewinding(sparsity=0.8, rounds=2, to=0.25).restarted(lambda progress: progress)
    assert [rate(p) for p in (0, 0.25, 1 / 3, 0.5, 1)] == pytest.approx([0, 0.75, 0.25, 0.625, 1])


def test_a_mask_of_another_shape_is_refused_with_both():
    sparsifier, _, _ = run(METHODS["gradual"], steps=1)
    with pytest.raises(InputError, match=r"shape \(2, 2\), the weight \(16, 8, 3, 3\)"):
        sparsifier.masks.put("3.weight", torch.ones(2, 2, dtype=torch.bool))


def test_a_moving_average_of_ones_own_gets_the_zeros():
    sparsifier, _, _ = run(METHODS["gradual"], steps=10)
    average = torch.optim.swa_utils.AveragedModel(net())
    sparsifier.masks.apply(average.module)
    sizes = {name: weight.count_nonzero() for name, weight in sparsifier.masks.weights.items()}
    assert {n: average.module.get_parameter(n).count_nonzero() for n in sizes} == sizes


def test_a_network_of_other_names_gets_no_zeros():
    sparsifier, _, _ = run(METHODS["gradual"], steps=1)
    with pytest.raises(InputError, match="no such weight; give the network itself"):
        sparsifier.masks.apply(torch.optim.swa_utils.AveragedModel(net()))


def test_a_network_without_layers_that_may_be_sparse_is_refused_with_the_reasons():
    with pytest.raises(InputError, match=r"0\.weight: it is the last layer"):
        Sparsifier.on(nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4), METHODS["gradual"])


def test_steps_must_be_known_somehow():
    sparsifier = Sparsifier.on(net(), X[:1], METHODS["gradual"])
    with pytest.raises(InputError, match="total_steps"):
        sparsifier.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gradual(schedule=0.5, every=0),
        lambda: Evolving(sparsity=0.5, grow="weights"),
        lambda: Evolving(sparsity=0.5, share=1.0),
        lambda: Alternating(sparsity=0.5, start=0.8, end=0.2),
        lambda: SparsitySchedule(sparsity=0.5, start=0.8, end=0.2),
        lambda: Movement(schedule=0.5, every=2),
        lambda: STR(schedule=0.5, lr=0),
        lambda: Rewinding(sparsity=0.5, rounds=0),
        lambda: Rewinding(sparsity=0.5, rewind="all"),
    ],
)
def test_settings_outside_their_range_are_refused(make):
    with pytest.raises(StrategyError):
        make()


def test_zeros_are_not_chosen_by_weights_that_are_no_numbers():
    model, x = tiny.make("mlp"), tiny.example("mlp")
    sparsifier = Sparsifier.on(model, x, METHODS["gradual"], total_steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"1 of 96 scores of '2\.weight' are NaN.*diverged"):
        sparsifier.step(optimizer)


def test_a_training_that_diverges_goes_back_to_its_last_good_state():
    def loss(outputs, labels):  # finite, and its gradient is not
        return F.cross_entropy(outputs, labels) + (outputs * 0).abs().sum().sqrt()

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    job = pj.Task(train=[(torch.ones(4, 4), torch.tensor([0, 1, 0, 1]))], loss=loss)
    trained = pj.train(net, job, sparsity=0.5, epochs=2, progress=False)
    assert all(map(torch.equal, trained.model.parameters(), net.parameters()))

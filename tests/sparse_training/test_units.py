"""Whole units that become zero while a network trains, and are cut at the end."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import BudgetError, InputError, StrategyError
from penjing.sparse_training import (
    STR,
    Alternating,
    Evolving,
    Gradual,
    GroupLasso,
    Movement,
    Rewinding,
    Sparsifier,
    SparsitySchedule,
    attach,
    vanished,
)

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4
FLAT = X[:, 0, 0, :4]
METHODS = {
    "gradual": Gradual(schedule=0.5, every=0.05),
    "uniform": Gradual(schedule=0.5, allocation="uniform", every=0.05),
    "erk": Gradual(schedule=0.5, allocation="erk", every=0.05),
    "lamp": Gradual(schedule=0.5, allocation="lamp", every=0.05),
    "movement": Movement(schedule=0.5, every=0.05),
    "lottery": Rewinding(sparsity=0.5),
}


class Residual(nn.Module):
    """A stem, a branch and a sum: two groups, one of them cut in two dimensions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.down = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head((x + self.down(F.relu(self.up(x)))).mean((2, 3)))


def job():
    return pj.Task(train=[(X, Y)] * 5, loss=F.cross_entropy)


def run(method, model=None, steps=20, inputs=X, **how):
    model = Residual() if model is None else model
    sparsifier = Sparsifier.on(model, inputs[:1], method, total_steps=steps, pattern="unit", **how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), Y).backward()
        sparsifier.before_step()
        optimizer.step()
        sparsifier.step(optimizer)
    return model.eval(), sparsifier


@pytest.mark.parametrize("name", METHODS)
def test_units_of_zeros_are_cut_and_nothing_is_lost(name):
    model, sparsifier = run(METHODS[name])
    plan = vanished(model, pj.find_groups(model, X[:1]))
    cut = pj.prune(model, X[:1], plan=plan, repair=None).model
    assert sparsifier.masks.zeros == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(cut(X), model(X), rtol=1e-4, atol=1e-5)


def test_uniform_takes_the_same_share_of_every_group():
    model, _ = run(METHODS["uniform"])
    drop = vanished(model, pj.find_groups(model, X[:1])).drop
    assert {name: len(units) for name, units in drop.items()} == {"stem": 4, "up": 8}


def test_the_smallest_units_go():
    model = Residual()
    with torch.no_grad():
        for part in (model.up.weight[:5], model.down.weight[:, :5]):
            part *= 1e-3
    schedule = SparsitySchedule(sparsity=5 / 16, shape="one_shot", end=0.0)
    run(Gradual(schedule=schedule), model, steps=1, ignored_layers=["head"])
    assert (model.up.weight.abs().sum((1, 2, 3)) == 0).nonzero().flatten().tolist() == [*range(5)]


def test_train_gives_back_a_smaller_network_and_its_plan():
    model = Residual()
    tuned = pj.train(model, job(), pruning_ratio=0.5, epochs=4, progress=False)
    again = pj.prune(model, X[:1], plan=tuned.plan).model
    shapes = [p.shape for p in tuned.model.parameters()]
    assert shapes == [p.shape for p in again.parameters()]
    assert sum(s.numel() for s in shapes) < 0.4 * sum(p.numel() for p in model.parameters())


def test_train_cuts_in_place_when_asked():
    model = Residual()
    tuned = pj.train(model, job(), pruning_ratio=0.5, epochs=4, progress=False, inplace=True)
    assert tuned.model is model
    assert model.up.out_channels < 16


def test_layers_that_are_ignored_keep_their_units():
    how = {"pattern": "unit", "ignored_layers": ["head"]}
    sparsifier = Sparsifier.on(Residual(), X[:1], METHODS["uniform"], **how)
    assert sparsifier.dense == {"stem": "it is among ignored_layers"}


def test_units_that_a_norm_runs_over_stay_with_the_reason():
    x = torch.randn(2, 5, 8)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Linear(8, 8), net, nn.Linear(8, 2)).eval()
    sparsifier = Sparsifier.on(net, x, METHODS["gradual"], pattern="unit")
    assert "a norm runs over its units" in "".join(sparsifier.dense.values())


@pytest.mark.parametrize(
    "method", [Evolving(sparsity=0.5), Alternating(sparsity=0.5), STR(schedule=0.5)]
)
def test_methods_that_bring_weights_back_are_refused(method):
    with pytest.raises(StrategyError, match="take 'gradual', 'movement' or 'lottery'"):
        Sparsifier.on(Residual(), X[:1], method, pattern="unit")


def test_a_network_without_groups_is_refused():
    with pytest.raises(InputError, match="no group may lose units"):
        Sparsifier.on(nn.Linear(3, 2), torch.ones(1, 3), METHODS["gradual"], pattern="unit")


@pytest.mark.parametrize(
    "how",
    [
        {"pruning_ratio": 0.5, "sparsity": 0.5},
        {"sparsity": 0.5, "pattern": "unit"},
        {"pruning_ratio": 0.5, "sparsity": 0.5, "pattern": "unit"},
        {"pruning_ratio": 0.5, "pattern": "2:4"},
    ],
)
def test_shares_of_units_and_of_weights_are_not_mixed(how):
    with pytest.raises(BudgetError, match="pruning_ratio"):
        pj.train(Residual(), job(), **how)


def test_a_share_of_units_may_name_their_pattern_too():
    tuned = pj.train(Residual(), job(), pruning_ratio=0.5, pattern="unit", epochs=1, progress=False)
    assert tuned.plan is not None


def test_a_run_goes_on_where_it_was():
    whole, _ = run(METHODS["movement"])
    half = Residual()
    optimizer = torch.optim.AdamW(half.parameters(), lr=0.01, weight_decay=0.01)
    how = {"total_steps": 20, "pattern": "unit"}
    sparsifier = Sparsifier.on(half, X[:1], METHODS["movement"], **how)
    for step in range(20):
        if step == 10:
            state = sparsifier.state_dict()
            sparsifier = Sparsifier.on(half, X[:1], METHODS["movement"], **how)
            sparsifier.load_state_dict(state)
        optimizer.zero_grad()
        F.cross_entropy(half(X), Y).backward()
        sparsifier.before_step()
        optimizer.step()
        sparsifier.step(optimizer)
    assert all(map(torch.equal, half.parameters(), whole.parameters()))


def test_what_group_lasso_has_made_zero_can_be_cut():
    model = Residual().eval()
    groups = pj.find_groups(model, X[:1])
    with torch.no_grad():
        for part in (model.up.weight[:3], model.down.weight[:, :3]):
            part *= 1e-4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(GroupLasso(groups=groups, strength=1e-2), optimizer, model)
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    assert vanished(model, groups).drop == {"up": (0, 1, 2)}


def test_a_group_of_zeros_alone_keeps_one_unit():
    model = Residual()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    plan = vanished(model, pj.find_groups(model, X[:1]))
    assert [len(plan.kept(name)) for name in plan.drop] == [1, 1]


def test_zeros_of_single_weights_stay_while_units_go():
    sparse = pj.sparsify(Residual().eval(), X[:1], sparsity=0.5, keep_dense=()).model
    tuned = pj.train(sparse, job(), pruning_ratio=0.5, epochs=2, progress=False)
    weights = [p for p in tuned.model.parameters() if p.dim() > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert tuned.model.up.out_channels < 16
    assert zeros > 0.3


def test_a_network_that_was_cut_in_training_is_saved_and_loaded(tmp_path):
    tuned = pj.train(Residual(), job(), pruning_ratio=0.5, epochs=2, progress=False)
    pj.save(tuned.model, tmp_path / "net")
    again = pj.load(tmp_path / "net", Residual())
    torch.testing.assert_close(again.eval()(X), tuned.model.eval()(X))


def test_a_layer_that_is_ignored_keeps_units_that_were_zero_before():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        for part in (model[2].weight[:2], model[2].bias[:2], model[4].weight[:, :2]):
            part.zero_()
    task = pj.Task(train=[(FLAT, Y)], loss=F.cross_entropy)
    how = {"pruning_ratio": 0.5, "epochs": 2, "progress": False, "ignored_layers": ["4"]}
    assert set(pj.train(model, task, **how).plan.drop) == {"0"}


@pytest.mark.parametrize(
    "wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_units_of_a_weight_norm_go_by_their_lengths(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 4))
    run(Gradual(schedule=0.5), model, inputs=FLAT)
    assert (model[0].weight.abs().sum(1) == 0).sum() == 4


def test_a_network_of_which_nothing_went_has_no_plan():
    tuned = pj.train(Residual(), job(), pruning_ratio=0.0, epochs=1, progress=False)
    assert tuned.plan is None


class Summed(nn.Module):
    """Two groups: weights read the units of one, a sum those of the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.read, self.summed, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(1, 4)

    def forward(self, x):
        return self.head(torch.sigmoid(self.summed(F.relu(self.read(x)))).sum(-1, keepdim=True))


def test_units_whose_zeros_a_sum_would_count_stay():
    sparsifier = Sparsifier.on(Summed(), FLAT[:1], METHODS["gradual"], pattern="unit")
    assert [part.name for part in sparsifier.masks.parts] == ["read"]
    assert "an op without weights" in sparsifier.dense["summed"]

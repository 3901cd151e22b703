import itertools

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import StrategyError
from penjing.sparse_training import L1, GroupLasso, Growing, Penalised, Slimming, attach
from penjing.task import Task
from penjing.training import Fit, fit

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def groups(model):
    return pj.find_groups(model.eval(), X)


PENALTIES = {
    "l1": lambda _model: L1(strength=0.1),
    "elastic": lambda _model: L1(strength=0.1, l2=0.5),
    "slimming": lambda _model: Slimming(strength=0.1),
    "group lasso": lambda model: GroupLasso(groups=groups(model), strength=0.05),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_proximal_step_lowers_its_own_term(name):
    model = net()
    penalty = PENALTIES[name](model)
    before = penalty.term(model)
    penalty.shrink(model, 0.1)
    assert penalty.term(model) < before


@pytest.mark.parametrize("name", PENALTIES)
def test_a_small_proximal_step_is_a_gradient_step(name):
    model, other = net(), net()
    penalty = PENALTIES[name](model)
    penalty.term(model).backward()
    penalty.shrink(other, 1e-4)
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(1e-4 * (0 if p.grad is None else p.grad))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_group_lasso_makes_whole_units_zero():
    model = net()
    found = groups(model)
    model[0].weight.data[:3] *= 0.01
    model[0].bias.data[:3] *= 0.01
    model[1].weight.data[:3] *= 0.01
    model[3].weight.data[:, :3] *= 0.01
    GroupLasso(groups=found, strength=1.0).shrink(model, 0.1)
    gone = (model[0].weight == 0).all(1)
    assert gone.tolist() == [True] * 3 + [False] * 5
    assert torch.equal(gone, (model[3].weight == 0).all(0))


def test_growing_draws_only_the_chosen_units():
    model = net()
    (group,) = groups(model)
    penalty = Growing(groups=[group], drop={group.name: (2, 5)}, strength=100.0)
    before = model[0].weight.detach().clone()
    job = Task(
        train=[(X, torch.zeros(16, dtype=torch.long))] * 10, loss=nn.functional.cross_entropy
    )
    fit(model, job, Fit(epochs=3, optimizer="sgd", lr=0.1, progress=False), [Penalised(penalty)])
    chosen = model[0].weight[[2, 5]].norm() / before[[2, 5]].norm()
    others = model[0].weight[[0, 1, 3, 4, 6, 7]].norm() / before[[0, 1, 3, 4, 6, 7]].norm()
    assert chosen < 0.01
    assert others > 0.5


def test_growing_in_ones_own_loop_grows_with_the_steps():
    model, still = net(), net()
    (group,) = groups(model)
    penalty = Growing(groups=[group], drop={group.name: (2, 5)}, strength=10.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(penalty, optimizer, model, total_steps=2)
    sizes = [model[0].weight[2].norm()]
    for _ in range(2):
        optimizer.step()
        sizes.append(model[0].weight[2].norm())
    shares = [(b / a).item() for a, b in itertools.pairwise(sizes)]
    assert shares == pytest.approx([1 / 1.5, 1 / 2])
    assert torch.equal(model[0].weight[3], still[0].weight[3])


@pytest.mark.parametrize(
    "use",
    [
        lambda penalty, model: penalty.term(model),
        lambda penalty, model: penalty.shrink(model, 0.1),
        lambda penalty, model: attach(penalty, torch.optim.SGD(model.parameters()), model),
    ],
)
def test_growing_that_does_not_know_where_the_run_is_is_refused(use):
    model = net()
    (group,) = groups(model)
    with pytest.raises(StrategyError, match="total_steps"):
        use(Growing(groups=[group], drop={group.name: (2,)}), model)


def test_growing_refuses_units_of_groups_that_it_does_not_have():
    with pytest.raises(StrategyError, match="none of the groups"):
        Growing(groups=groups(net()), drop={"9": (0,)})


def test_an_optimizer_of_ones_own_takes_a_penalty_and_gives_it_back():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    handle = attach(L1(strength=10.0), optimizer, model)
    model(X).sum().backward()
    optimizer.step()
    assert not model[0].weight.any()
    handle.remove()
    optimizer.step()
    assert model[0].weight.any()


def test_slimming_needs_norms():
    with pytest.raises(StrategyError, match="no norm with a scale"):
        Slimming().term(nn.Linear(2, 2))


def test_a_penalty_without_strength_is_refused():
    with pytest.raises(StrategyError, match="above 0"):
        L1(strength=0)


def test_growing_refuses_a_unit_that_a_group_does_not_have():
    with pytest.raises(StrategyError, match="unit 8 of '0', whose units are 0 to 7"):
        Growing(groups=groups(net()), drop={"0": (8,)})


def test_group_lasso_leaves_directions_of_a_weight_norm():
    weight_norm = torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2))
    GroupLasso(groups=groups(model), strength=1e3).shrink(model, 1.0)
    assert torch.equal(model[0].weight, torch.zeros(8, 6))

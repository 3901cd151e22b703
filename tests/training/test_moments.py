"""An optimizer goes on with a pruned network as if it had always been that small."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing import find_groups, prune
from penjing.errors import InputError
from penjing.training.moments import cut_moments

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def steps(model, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


def pruned(kind):
    """(network, its optimizer after some steps, what pruning gave, its groups)."""
    model = net().eval()  # batch statistics would change with the units
    optimizer = OPTIMIZERS[kind](model.parameters())
    steps(model, optimizer, 4)
    result = prune(model, X[:1], pruning_ratio=0.5, importance="l2", repair=None)
    return model, optimizer, result, find_groups(model, X[:1])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_remembered_is_cut_as_the_weights_are(kind):
    model, optimizer, result, groups = pruned(kind)
    masked_names = {piece.tensor for group in groups for piece in group.slices}
    expected = {
        name: optimizer.state[p] for name, p in model.named_parameters() if name in masked_names
    }
    before = {name: {k: v.clone() for k, v in s.items()} for name, s in expected.items()}
    cut_moments(optimizer, model, result.model, groups, result.plan)
    rows = [u for u in range(8) if u not in result.plan.drop["0"]]
    columns = [u for u in range(8) if u not in result.plan.drop["3"]]
    name = "exp_avg" if kind == "adamw" else "momentum_buffer"
    kept = optimizer.state[result.model[3].weight][name]
    assert torch.equal(kept, before["3.weight"][name][columns][:, rows])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_with_the_pruned_network(kind):
    model, optimizer, result, groups = pruned(kind)
    cut_moments(optimizer, model, result.model, groups, result.plan)
    loss = F.cross_entropy(result.model(X), Y).item()
    steps(result.model, optimizer, 10)
    assert F.cross_entropy(result.model(X), Y).item() < loss


def test_the_optimizer_holds_the_parameters_of_the_pruned_network_and_no_others():
    model, optimizer, result, groups = pruned("adamw")
    cut_moments(optimizer, model, result.model, groups, result.plan)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in result.model.parameters()} == {id(p) for p in optimizer.state}


def test_an_optimizer_of_another_network_is_refused_and_left_alone():
    model, _optimizer, result, groups = pruned("adamw")
    other = torch.optim.AdamW(net().parameters())
    with pytest.raises(InputError, match="does not have"):
        cut_moments(other, model, result.model, groups, result.plan)
    assert len(other.param_groups[0]["params"]) == 8


def test_a_network_that_the_plan_does_not_lead_to_is_refused():
    model, optimizer, _, groups = pruned("adamw")
    smaller = prune(model, X[:1], pruning_ratio=0.25, importance="l2", repair=None)
    larger = prune(model, X[:1], pruning_ratio=0.5, importance="l2", repair=None)
    with pytest.raises(InputError, match="the plan leaves"):
        cut_moments(optimizer, model, smaller.model, groups, larger.plan)


def test_after_a_cut_in_place_the_parameters_from_before_are_enough():
    model = net().eval()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    steps(model, optimizer, 2)
    groups, held = find_groups(model, X[:1]), dict(model.named_parameters())
    done = prune(model, X[:1], pruning_ratio=0.5, importance="l2", repair=None, inplace=True)
    assert "cut_moments" in " ".join(done.report.data.notes)
    cut_moments(optimizer, held, model, groups, done.plan)
    mine = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in mine} == {id(p) for p in model.parameters()}
    assert optimizer.state[model[0].weight]["exp_avg"].shape == model[0].weight.shape


def test_parameters_that_an_optimizer_did_not_hold_do_not_join_it():
    model = net().eval()
    optimizer = torch.optim.SGD(model[6].parameters(), 0.1)
    groups = find_groups(model, X[:1])
    result = prune(model, X[:1], pruning_ratio=0.5, importance="l2", repair=None)
    cut_moments(optimizer, model, result.model, groups, result.plan)
    held = optimizer.param_groups[0]["params"]
    assert {id(p) for p in held} == {id(p) for p in result.model[6].parameters()}

"""Structured OBS against brute force."""

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.pruning.importance import OBS
from penjing.pruning.importance._obs import Term, removal_order
from penjing.task import Calibration
from penjing.testing import tiny


def least_error(x, y, kept, damping):
    """Least damped squared error of y from the kept columns of x, per row, towards the full fit."""
    gram = x.T @ x / len(x) + damping * torch.eye(x.shape[1]).double()
    gone = [i for i in range(x.shape[1]) if i not in kept]
    inverse = torch.linalg.inv(gram)[gone][:, gone]
    w = y[:, gone]
    return float((w @ torch.linalg.inv(inverse) * w).sum())


def problem(units=5, width=2, outputs=3):
    x = (
        torch.randn(200, units * width).double()
        @ torch.randn(units * width, units * width).double()
    )
    weight = torch.randn(outputs, units * width).double()
    columns = torch.arange(units * width).view(units, width)
    return x, weight, columns


def test_the_greedy_order_is_that_of_brute_force():
    x, weight, columns = problem()
    gram = x.T @ x / len(x)
    order, _ = removal_order([Term(torch.linalg.inv(gram)[None], weight[None].clone(), columns)])
    alive, wanted = set(range(5)), []
    while alive:
        costs = {
            u: least_error(x, weight, [int(c) for v in alive - {u} for c in columns[v]], 0.0)
            for u in alive
        }
        wanted.append(min(costs, key=costs.get))
        alive.remove(wanted[-1])
    assert order.tolist() == wanted


def test_the_curve_is_the_error_after_the_best_compensation():
    x, weight, columns = problem()
    gram = x.T @ x / len(x)
    order, curve = removal_order(
        [Term(torch.linalg.inv(gram)[None], weight[None].clone(), columns)]
    )
    kept = columns[order[2:]].flatten()
    residual = x @ weight.T - x[:, kept] @ torch.linalg.lstsq(x[:, kept], x @ weight.T).solution
    assert float(curve[2]) == pytest.approx(float(residual.square().sum() / len(x)), rel=1e-6)


def test_two_readers_add_their_errors():
    terms = []
    for _ in range(2):
        x, weight, columns = problem()
        terms.append((torch.linalg.inv(x.T @ x / len(x))[None], weight[None], columns))
    first = [float(Term(*(t.clone() for t in term)).costs(torch.arange(5))[0]) for term in terms]
    _, curve = removal_order([Term(*(t.clone() for t in term)) for term in terms])
    both = sum(Term(*(t.clone() for t in term)).costs(torch.arange(5)) for term in terms)
    assert float(curve[1]) == pytest.approx(float(both.min()))
    assert float(both[0]) == pytest.approx(sum(first))


def test_units_that_go_together_end_at_the_same_error_as_one_by_one():
    x, weight, columns = problem(units=140, width=1)
    gram = x.T @ x / len(x)
    _, curve = removal_order([Term(torch.linalg.inv(gram)[None], weight[None].clone(), columns)])
    whole = float(((weight @ gram) * weight).sum())
    assert float(curve[-1]) == pytest.approx(whole, rel=1e-3)  # the inverse loses digits on the way


def prepared(model, x):
    network = Network.of(model, x[:2])
    return network, OBS().prepare(network, Calibration.of([x]))


def test_a_unit_that_another_can_replace_goes_first():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 3 * model[0].weight[5], 3 * model[0].bias[5]
    network, obs = prepared(model, torch.randn(40, 3, 8, 8))
    assert int(obs(model, network.groups.groups[0]).argmin()) in (2, 5)


@pytest.mark.parametrize(
    "name", ["plain", "residual", "concat", "depthwise", "grouped", "conv1d", "flatten", "mlp"]
)
def test_scores_sort_units_as_the_curve_assumes(name):
    model = tiny.make(name)
    network, obs = prepared(model, torch.randn(40, *tiny.example(name).shape[1:]))
    assert all(
        torch.equal(obs(model, g).argsort(), obs.orders[g.name])
        and (obs.errors(g).diff() >= 0).all()
        for g in network.groups
    )


def test_units_with_several_positions_are_judged_as_one():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[3].weight.view(3, 4, 4)[:, 1] = 0
    network, obs = prepared(model, torch.randn(60, 2, 4, 4))
    assert int(obs.orders[network.groups.groups[0].name][0]) == 1


def test_a_gram_that_is_too_large_is_judged_unit_by_unit_and_said_so():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    network = Network.of(model, torch.randn(2, 3))
    obs = OBS(largest=2).prepare(network, Calibration.of([torch.randn(30, 3)]))
    assert "one by one" in next(iter(obs.reasons.values()))


def test_without_data_it_refuses_and_says_what_to_give():
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    group = Network.of(model, torch.randn(2, 3)).groups.groups[0]
    with pytest.raises(StrategyError, match="calibration"):
        OBS()(model, group)


def test_another_networks_group_is_refused():
    _, obs = prepared(
        nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.randn(20, 3)
    )
    other = Network.of(
        nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)), torch.randn(2, 3)
    )
    with pytest.raises(StrategyError, match="prepare"):
        obs.errors(other.groups.groups[0])


class _SharedScale(nn.Module):
    """Two layers whose queries and keys are scaled by one stored tensor, as a rotation is."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.key = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.value = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for q, k, v in zip(self.query, self.key, self.value, strict=True):
            scores = torch.cos(q(x) * self.scale) @ torch.cos(k(x) * self.scale).mT
            x = x + v(scores.softmax(-1) @ x)
        return self.head(x)


def test_units_that_several_layers_share_are_tried_out_behind_the_last_of_them():
    torch.manual_seed(0)
    model, batches = _SharedScale(), [torch.randn(6, 5, 8) for _ in range(3)]

    pruned = pj.prune(model, batches[0], pruning_ratio=0.5, calibration=batches, repair=None)

    assert len(pruned.plan.drop["query.0"]) > 0

"""What outputs lose, measured: fixed batches, classes masked out, norms of weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.pruning.masked import Losses, divergence, zeroed
from penjing.task import Calibration
from penjing.testing import tiny

BATCH = 4
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(24, 6, generator=RANDOM)


class Fixed(nn.Module):
    """Writes its batch into its forward."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.two(self.one(x).relu().view(BATCH, -1))


def reference(model, unit, inputs):
    """Mean divergence without one hidden unit, by the plain formula."""
    with torch.no_grad():
        want = model.two(model.one(inputs).relu()).double().softmax(1)
        hidden = model.one(inputs).relu()
        hidden[:, unit] = 0
        now = model.two(hidden).double().softmax(1)
    return float((want * (want / now).log()).sum(1).mean())


def losses_of(model, batches):
    network = Network.of(model, X[:BATCH])
    (group,) = network.groups
    losses = Losses(network.program, Calibration.of(batches))
    return losses.of([zeroed(network.program, group, [u]) for u in range(group.units)]), group


def test_a_fixed_batch_is_measured_in_whole_batches():
    model = tiny.randomise(Fixed(), 0)
    found, group = losses_of(model, [X[:10], X[10:20]])
    inputs = torch.cat([X[:8], X[10:18]])  # 10 are two batches of 4 and a rest
    expected = [reference(model, unit, inputs) for unit in range(group.units)]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-5, atol=1e-8)


def test_more_samples_in_a_batch_than_are_asked_for_are_no_hindrance():
    network = Network.of(tiny.randomise(Fixed(), 0), X[:BATCH])
    losses = Losses(network.program, Calibration.of([X]), samples=2)
    assert losses.of([{}]).tolist() == [0.0]


def test_batches_smaller_than_a_fixed_one_are_told_with_both_sizes():
    with pytest.raises(StrategyError, match=r"exactly 4, and the largest batch .* has 3"):
        losses_of(tiny.randomise(Fixed(), 0), [X[:3]])


@pytest.mark.parametrize("proxy", ["masked", "repaired"])
def test_a_search_measures_a_network_of_a_fixed_batch(proxy):
    search = pj.pruning.allocation.LocalSearch(evaluations=4, proxy=proxy)
    pruned = pj.prune(
        tiny.randomise(Fixed(), 0), X[:BATCH], pruning_ratio=0.5, allocation=search, calibration=X
    )
    assert pruned.model.one.out_features < 8


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_mean_loss_is_taken_over_whole_batches(name):
    data = [(X[:10], torch.arange(10) % 3)]
    model = tiny.randomise(Fixed(), 0)
    pruned = pj.prune(model, X[:BATCH], pruning_ratio=0.5, importance=name, calibration=data)
    assert pruned.model.one.out_features == 4


def test_classes_that_are_masked_out_lose_nothing():
    want = torch.tensor([[1.0, 2.0, -torch.inf]])
    got = torch.tensor([[2.0, 1.0, -torch.inf]])
    expected = divergence([want[:, :2]], [got[:, :2]], 1)
    assert divergence([want], [got], 1) == pytest.approx(expected)


def test_units_of_a_weight_norm_lose_what_their_channels_do():
    model = tiny.randomise(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 0)
    plain = Network.of(model, X[:2])
    normed = nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    normed[0].weight = model[0].weight.detach()
    normed[0].bias.data.copy_(model[0].bias.data)
    normed[2].load_state_dict(model[2].state_dict())
    lost = []
    for network in (plain, Network.of(normed.eval(), X[:2])):
        (group,) = network.groups
        losses = Losses(network.program, Calibration.of([X]))
        lost.append(losses.of([zeroed(network.program, group, [u]) for u in range(8)]))
    torch.testing.assert_close(lost[1], lost[0], rtol=1e-4, atol=1e-8)


class Divides(nn.Module):
    """Divides by the size of a unit's own vector: without the unit, nothing over nothing."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.one(x)
        return self.two(hidden / hidden.abs().sqrt())


def test_outputs_that_become_nan_are_refused():
    with pytest.raises(StrategyError, match="outputs are NaN for 8 of 8"):
        losses_of(tiny.randomise(Divides(), 0), [X])


def test_a_report_says_which_groups_were_judged_in_a_simpler_way():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(32, 3)
    )
    x = torch.randn(6, 3, 2, 2, generator=RANDOM)
    pruned = pj.prune(model.eval(), x, pruning_ratio=0.5, importance="apoz", calibration=x)
    (note,) = (n for n in pruned.report.data.notes if "did not judge every group" in n)
    assert "'apoz'" in note
    assert "only convolutions in groups do; ordered by magnitude" in note

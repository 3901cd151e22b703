"""Saliencies against autograd on the module itself, and in both verbs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.capture import capture
from penjing.graph.network import Network
from penjing.pruning.importance import Elementwise
from penjing.pruning.saliency import Fisher, Grasp, Movement, Snip, SynFlow
from penjing.task import Calibration
from penjing.testing import tiny

SAMPLES = 10


@pytest.fixture(scope="module")
def case():
    model = tiny.make("concat")
    inputs = tiny.example("concat", batch=SAMPLES)
    labels = torch.arange(SAMPLES) % 4
    data = Calibration.of([(inputs[:6], labels[:6]), (inputs[6:], labels[6:])])
    program = capture(model, inputs[:1])
    weights = {n: p.detach() for n, p in model.named_parameters()}
    return model, inputs, labels, data, program, weights


def gradients(model, inputs, labels, *, curved=False):
    named = dict(model.named_parameters())
    loss = F.cross_entropy(model(inputs), labels)
    found = torch.autograd.grad(loss, list(named.values()), create_graph=curved)
    return dict(zip(named, found, strict=True))


def test_snip_is_the_size_of_the_mean_gradient_times_the_weight(case):
    model, inputs, labels, data, program, weights = case
    found = Snip().elements(program, weights, data)
    wanted = {n: (g * weights[n]).abs() for n, g in gradients(model, inputs, labels).items()}
    torch.testing.assert_close(found, wanted)


def test_movement_is_what_the_loss_rises_by_without_the_weight(case):
    model, inputs, labels, data, program, weights = case
    found = Movement().elements(program, weights, data)
    wanted = {n: -g * weights[n] for n, g in gradients(model, inputs, labels).items()}
    torch.testing.assert_close(found, wanted)


def test_fisher_is_half_the_mean_squared_gradient_times_the_squared_weight(case):
    model, inputs, labels, data, program, weights = case
    found = Fisher(loss=F.cross_entropy).elements(program, weights, data)
    each = [gradients(model, inputs[i : i + 1], labels[i : i + 1]) for i in range(SAMPLES)]
    for name, weight in weights.items():
        squares = torch.stack([g[name].double().square() for g in each]).mean(0)
        torch.testing.assert_close(
            found[name], squares * weight.double() ** 2 / 2, rtol=1e-4, atol=1e-12
        )  # gradients are float32


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(case):
    model, inputs, labels, data, program, weights = case
    found = Grasp().elements(program, weights, data)
    g = gradients(model, inputs, labels, curved=True)
    slope = sum((v * v.detach()).sum() for v in g.values())
    named = dict(model.named_parameters())
    curved = torch.autograd.grad(slope, list(named.values()))
    for (name, weight), hg in zip(weights.items(), curved, strict=True):
        torch.testing.assert_close(found[name], hg * weight, rtol=1e-4, atol=1e-6)  # float32


def test_removing_what_grasp_values_least_raises_the_gradient_most():
    model = tiny.randomise(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), 0).double()
    inputs, labels = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 2
    data = Calibration.of([(inputs, labels)])
    program = capture(model, inputs[:1])
    weights = {n: p.detach() for n, p in model.named_parameters()}
    values = Grasp().elements(program, weights, data)
    step = 1e-6  # small enough for the first order

    def flow():
        return sum(float(g.square().sum()) for g in gradients(model, inputs, labels).values())

    before, weight = flow(), model[0].weight
    with torch.no_grad():
        weight[1, 2] *= 1 - step
    # the flow falls by 2 step w (Hg) when the weight shrinks by that share
    assert (before - flow()) / (2 * step) == pytest.approx(
        float(values["0.weight"][1, 2]), rel=1e-3
    )


def test_the_flow_of_two_linear_layers_is_the_sum_of_their_paths():
    model = tiny.randomise(
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)), 0
    )
    program = capture(model, torch.ones(1, 3))
    one, two = (model[i].weight.detach().double().abs() for i in (0, 2))
    found = SynFlow(steps=1).elements(program, dict(model.named_parameters()), None)
    batch = len(program.example[0])
    torch.testing.assert_close(found["0.weight"], batch * one * two.sum(0)[:, None])
    torch.testing.assert_close(found["2.weight"], batch * two * one.sum(1)[None])


def test_every_layer_carries_the_same_flow():
    model = tiny.randomise(
        nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))), 0
    )
    program = capture(model, torch.ones(1, 4, 5, 5))
    found = SynFlow(steps=1).elements(program, dict(model.named_parameters()), None)
    sums = [float(v.sum()) for v in found.values()]
    assert sums == pytest.approx([sums[0]] * 3)


def test_rounds_of_synflow_empty_no_layer_before_the_others():
    layers = [nn.Linear(32, 32, bias=False), nn.Linear(32, 2, bias=False)]
    model = tiny.randomise(nn.Sequential(*layers), 0)
    layers[1].weight.data.mul_(1e-3)  # the smallest weights, and the only way out
    program = capture(model, torch.ones(1, 32))
    times = SynFlow(steps=50).elements(program, dict(model.named_parameters()), None)
    last = torch.cat([t.flatten() for t in times.values()]).topk(40).values.min()
    assert all(bool((t >= last).any()) for t in times.values())


def test_every_time_of_synflow_is_its_own():
    model = tiny.make("plain")
    weights = {n: p.detach() for n, p in model.named_parameters() if p.dim() > 1}
    times = SynFlow(steps=10).elements(capture(model, tiny.example("plain")), weights, None)
    flat = torch.cat([t.flatten() for t in times.values()])
    assert len(flat.unique()) == len(flat)


@pytest.mark.parametrize("how", ["sum", "mean", "max", "prod", "first"])
def test_the_slices_of_a_unit_become_one_score_as_asked(case, how):
    model, _, _, data, program, weights = case
    network = Network(program)
    values = Snip().elements(program, weights, data)
    scores = Elementwise(saliency=Snip(), group_reduction=how).prepare(network, data)
    for group in network.groups:
        parts = torch.stack(
            [
                torch.stack(
                    [
                        values[p.tensor].index_select(p.dim, torch.tensor(p.positions(u))).sum()
                        for u in range(group.units)
                    ]
                )
                for p in group.slices
                if p.tensor in values
            ]
        )
        wanted = {
            "sum": parts.sum(0),
            "mean": parts.mean(0),
            "max": parts.amax(0),
            "prod": parts.prod(0),
            "first": parts[0],
        }[how]
        torch.testing.assert_close(scores(model, group), wanted, rtol=1e-4, atol=1e-12)


def test_an_unknown_reduction_lists_the_known():
    with pytest.raises(StrategyError, match="'median'; known are 'sum', 'mean'"):
        Elementwise(saliency=Snip(), group_reduction="median")


@pytest.mark.parametrize("name", ["snip", "grasp", "movement"])
def test_missing_labels_are_named(case, name):
    model, inputs, *_ = case
    with pytest.raises(StrategyError, match=f"{name} ranks by labels and batch 0"):
        pj.prune(model, inputs[:1], pruning_ratio=0.5, calibration=[inputs], importance=name)


def test_one_saliency_serves_both_verbs(case):
    model, inputs, labels, *_ = case
    how = {"calibration": [(inputs, labels)], "importance": Snip(), "repair": None}
    pruned = pj.prune(model, inputs[:1], pruning_ratio=0.5, allocation="uniform", **how)
    sparse = pj.sparsify(model, inputs[:1], sparsity=0.5, keep_dense=(), **how)
    figures = (pruned.report.data, sparse.report.data)
    assert all(f.after.nonzero < f.before.nonzero for f in figures)


class Recurrent(nn.Module):
    """A graph that makes constants of its own: the state before the first step."""

    def __init__(self):
        super().__init__()
        self.over, self.read = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.read(self.over(x)[0][:, -1])


def test_synflow_runs_through_constants_of_the_graph():
    model = tiny.randomise(Recurrent(), 0)
    pruned = pj.prune(model, torch.ones(2, 5, 3), pruning_ratio=0.5, importance="synflow")
    assert pruned.model.read.in_features == 4


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_outputs_that_are_no_class_scores_are_told(name):
    data = [(torch.randn(4, 5, 3), torch.zeros(4, 7, dtype=torch.long))]
    with pytest.raises(StrategyError, match="give a loss of your own"):
        pj.prune(
            Recurrent(), torch.ones(2, 5, 3), pruning_ratio=0.5, importance=name, calibration=data
        )


def test_synflow_needs_no_data():
    model = tiny.make("plain")
    pruned = pj.prune(model, tiny.example("plain"), pruning_ratio=0.5, importance="synflow")
    assert pruned.report.data.after.params < pruned.report.data.before.params


@pytest.mark.parametrize("saliency", [Snip, Grasp, Movement, Fisher], ids=lambda s: s.__name__)
def test_no_samples_are_refused(saliency):
    with pytest.raises(StrategyError, match="samples is 0"):
        saliency(samples=0)


def test_grasp_goes_twice_through_attention():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 3)).eval()
    data = [(torch.randn(8, 3, 8), torch.arange(8) % 3)]
    scores = pj.sparsify(net, data[0][0][:1], sparsity=0.5, importance="grasp", calibration=data)
    assert all(p.isfinite().all() for p in scores.model.parameters())

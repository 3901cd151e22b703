"""Importances by activations and by measurement, against plain references."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.pruning.importance import Ablation, Activations, NormScale, Sensitivity, fpgm, l1, l2
from penjing.task import Calibration
from penjing.testing import check_importance, tiny

SAMPLES = 40
LABELS = torch.arange(SAMPLES) % 3


class Net(nn.Module):
    """Two convolutions and a layer behind a flattened map."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.three = nn.Linear(4 * 9, 5)

    def maps(self, x):
        one = F.relu(self.norm(self.one(x)))
        return {"one": one, "two": F.relu(self.two(one))}

    def forward(self, x):
        return self.three(self.maps(x)["two"].flatten(1))


@pytest.fixture(scope="module")
def case():
    model = tiny.randomise(Net(), 0)
    inputs = torch.randn(SAMPLES, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    network = Network.of(model, inputs[:1])
    data = Calibration.of([(inputs[:25], LABELS[:25]), (inputs[25:], LABELS[25:])])
    with torch.no_grad():
        maps = {name: value.double() for name, value in model.maps(inputs).items()}
    return model, network, data, maps, inputs


def scored(case, importance):
    model, network, data, *_ = case
    prepared = importance.prepare(network, data)
    return {g.name: prepared(model, g).double() for g in network.groups}


def histogram_bits(values, bins):
    counts, _ = np.histogram(values.numpy(), bins, (float(values.min()), float(values.max())))
    shares = counts[counts > 0] / counts.sum()
    return -float((shares * np.log2(shares)).sum())


def independence(value):
    """Fall of the nuclear norm of every sample's matrix without each row, averaged."""
    falls = torch.zeros(len(value), value.shape[1], dtype=torch.float64)
    for b, sample in enumerate(value.flatten(2)):
        whole = torch.linalg.matrix_norm(sample, "nuc")
        for unit in range(len(sample)):
            rest = sample.clone()
            rest[unit] = 0
            falls[b, unit] = whole - torch.linalg.matrix_norm(rest, "nuc")
    return falls.mean(0)


def information(value, bins):
    means = value.mean((2, 3))
    found = []
    for unit in means.T:
        edges = np.linspace(float(unit.min()), float(unit.max()), bins + 1)
        rows = np.stack(
            [np.histogram(unit[label == LABELS].numpy(), edges)[0] for label in range(3)]
        )
        joint = rows / rows.sum()
        apart = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
        inside = joint > 0
        found.append(float((joint[inside] * np.log2(joint[inside] / apart[inside])).sum()))
    return torch.tensor(found, dtype=torch.float64)


REFERENCES = {
    "nonzero": lambda v: (v != 0).double().mean((0, 2, 3)),
    "mean": lambda v: v.abs().mean((0, 2, 3)),
    "entropy": lambda v: torch.tensor(
        [histogram_bits(u, 8) for u in v.mean((2, 3)).T], dtype=torch.float64
    ),
    "information": lambda v: information(v, 8),
    "independence": independence,
}


@pytest.mark.parametrize("statistic", REFERENCES)
def test_a_statistic_of_activations_is_that_of_the_maps(case, statistic):
    found = scored(case, Activations(statistic=statistic, bins=8))
    for name, value in case[3].items():
        # activations are float32
        torch.testing.assert_close(found[name], REFERENCES[statistic](value), rtol=1e-4, atol=1e-5)


def test_the_rank_of_a_map_is_averaged_over_samples(case):
    found = scored(case, Activations(statistic="rank"))["one"]
    wanted = [
        np.mean([np.linalg.matrix_rank(m.float().numpy()) for m in unit])
        for unit in case[3]["one"].transpose(0, 1)
    ]
    assert found.tolist() == pytest.approx(wanted)


def test_a_flattened_map_is_one_row(case):
    found = scored(case, Activations(statistic="rank"))["two"]
    assert bool((found <= 1).all())


def test_labels_are_named_where_information_needs_them(case):
    model, _, _, _, inputs = case
    with pytest.raises(StrategyError, match="information ranks by labels and batch 0"):
        pj.prune(
            model,
            inputs[:1],
            pruning_ratio=0.5,
            calibration=[inputs],
            importance="mutual_information",
        )


def test_too_few_samples_for_the_bins_are_counted(case):
    model, _, _, _, inputs = case
    with pytest.raises(StrategyError, match="needs at least 32 samples and looks at 20"):
        pj.prune(
            model, inputs[:1], pruning_ratio=0.5, calibration=[inputs[:20]], importance="entropy"
        )


def test_fpgm_is_the_sum_of_distances_to_all_others(case):
    model, network, *_ = case
    group = next(g for g in network.groups if g.name == "one")
    own = torch.cat(
        [
            model.one.weight.flatten(1),
            model.one.bias[:, None],
            model.norm.weight[:, None],
            model.norm.bias[:, None],
            model.two.weight.transpose(0, 1).flatten(1),
        ],
        1,
    ).detach()
    wanted = torch.stack([(own - row).norm(dim=1).sum() for row in own])
    torch.testing.assert_close(fpgm(model, group), wanted)


def test_the_scale_of_a_norm_is_the_size_of_its_gamma(case):
    model, network, *_ = case
    group = next(g for g in network.groups if g.name == "one")
    assert torch.equal(NormScale()(model, group), model.norm.weight.detach().abs())


def test_a_group_without_a_norm_is_named(case):
    model, _, _, _, inputs = case
    with pytest.raises(StrategyError, match=r"group 'two' cuts no batch norm"):
        pj.prune(model, inputs[:1], pruning_ratio=0.5, importance="bn_scale")


def test_the_scale_of_a_norm_with_a_stand_in_keeps_the_contract():
    check_importance(NormScale(otherwise=l1))


def without(model, name, unit):
    """The network whose map of one unit is zero."""

    def run(x):
        one = F.relu(model.norm(model.one(x)))
        if name == "one":
            one = one.index_fill(1, torch.tensor([unit]), 0)
        two = F.relu(model.two(one))
        if name == "two":
            two = two.index_fill(1, torch.tensor([unit]), 0)
        return model.three(two.flatten(1))

    return run


@torch.no_grad()
def test_ablation_is_the_divergence_without_the_unit(case):
    model, network, _, _, inputs = case
    found = scored(case, Ablation(samples=SAMPLES))
    log_p = model(inputs).log_softmax(1)
    for group in network.groups:
        for unit in range(group.units):
            log_q = without(model, group.name, unit)(inputs).log_softmax(1)
            lost = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
            assert float(found[group.name][unit]) == pytest.approx(float(lost), rel=1e-3, abs=1e-7)


@torch.no_grad()
def test_ablation_with_a_loss_is_its_rise(case):
    model, network, _, _, inputs = case
    found = scored(case, Ablation(samples=SAMPLES, loss=F.cross_entropy))
    rises = torch.tensor(
        [
            float(F.cross_entropy(without(model, g.name, u)(inputs), LABELS))
            for g in network.groups
            for u in range(g.units)
        ]
    )
    got = torch.cat([found[g.name] for g in network.groups])
    # the same up to one shift, which makes the lowest 0
    torch.testing.assert_close(
        got - got.min(), (rises - rises.min()).double(), rtol=1e-3, atol=1e-6
    )


@torch.no_grad()
def test_a_sensitivity_curve_is_the_divergence_without_the_lowest_units(case):
    model, network, data, _, inputs = case
    group = next(g for g in network.groups if g.name == "two")
    prepared = Sensitivity(order=l2, points=3, samples=SAMPLES).prepare(network, data)
    order = prepared(model, group).argsort().tolist()
    curve = prepared.errors(group)
    log_p = model(inputs).log_softmax(1)
    two = F.relu(model.two(model.maps(inputs)["one"]))
    log_q = model.three(two.index_fill(1, torch.tensor(order[:1]), 0).flatten(1)).log_softmax(1)
    wanted = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    assert float(curve[1]) == pytest.approx(float(wanted), rel=1e-3)


def test_a_statistic_that_does_not_exist_lists_those_that_do():
    with pytest.raises(StrategyError, match="'median'; known are 'nonzero', 'mean'"):
        Activations(statistic="median")


def test_the_mean_of_two_readers_counts():
    model = tiny.make("concat")
    network = Network.of(model, tiny.example("concat"))
    data = Calibration.of([tiny.example("concat", 20, 1)])
    found = Activations(statistic="mean").prepare(network, data)
    assert all(math.isfinite(float(found(model, g).sum())) for g in network.groups)

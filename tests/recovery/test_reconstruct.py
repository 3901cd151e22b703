"""Least squares through the graph, against explicit patch matrices and cuts that lose nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.errors import StrategyError
from penjing.graph.network import Network
from penjing.recovery import Reconstruct, Tune, reconstruct, tune
from penjing.task import Calibration
from penjing.testing import tiny

PLAIN = Reconstruct(rounds=0, rows_per_unknown=1e9, dampings=(1e-12,))


class Two(nn.Module):
    """Two layers, the second reads what is cut."""

    def __init__(self, first, second, flat=False):
        super().__init__()
        self.first, self.second, self.flat = first, second, flat

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.second(x.flatten(1) if self.flat else x)


class Branch(nn.Module):
    """A block whose output is normalised, added to its input and clipped."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1, bias=False)
        self.norm, self.out = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        tiny.randomise(self, 0)

    def forward(self, x):
        y = self.norm(self.two(F.relu(self.one(x))))
        return self.out(F.relu(x + y))


class Merged(nn.Module):
    """A layer that sees every channel of a sample as a sample."""

    def __init__(self):
        super().__init__()
        self.one, self.each, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 1, 3), nn.Conv2d(8, 4, 1)
        tiny.randomise(self, 0)

    def forward(self, x):
        y = F.relu(self.one(x))
        n, c, h, w = y.shape
        return self.two(self.each(y.reshape(n * c, 1, h, w)).reshape(n, c, h - 2, w - 2))


def test_a_layer_whose_rows_go_with_units_is_left_and_those_behind_it_are_repaired():
    network = Network.of(Merged().eval(), torch.randn(4, 3, 8, 8))
    cut = network.cut(network.plan({"one": (0, 3, 4)}))
    _, rows = reconstruct(cut, Calibration.of([torch.randn(16, 3, 8, 8)] * 3))
    told = {row.layer: row.reason for row in rows}
    assert told == {
        "each": "some of its rows, one for each unit of a sample, go with the units",
        "two": "",
    }


def test_a_cut_network_with_a_layer_whose_rows_go_with_units_is_tuned():
    network = Network.of(Merged().eval(), torch.randn(4, 3, 8, 8))
    cut = network.cut(network.plan({"one": (0, 3, 4)}))
    samples = Calibration.of([torch.randn(16, 3, 8, 8)] * 3)
    _, row = tune(cut, samples, samples, Tune(steps=2))
    assert row.layer == "outputs, tuned"


CONSUMERS = {
    "conv1d": (lambda: Two(nn.Conv1d(3, 6, 3), nn.Conv1d(6, 4, 3)), (60, 3, 9)),
    "conv2d": (lambda: Two(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, 2, 1)), (60, 3, 8, 8)),
    "grouped": (lambda: Two(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, groups=2)), (60, 3, 8, 8)),
    "linear": (lambda: Two(nn.Linear(5, 8), nn.Linear(8, 3)), (200, 5)),
    "flatten": (lambda: Two(nn.Conv2d(3, 6, 3), nn.Linear(24, 3), flat=True), (200, 3, 4, 4)),
    "transposed": (
        lambda: Two(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 3, 2, 1)),
        (60, 3, 8, 8),
    ),
}


def cut_of(model, x, drop=2, group=0):
    network = Network.of(model, x[:2])
    name = network.groups.groups[group].name
    return network.cut(network.plan({name: list(range(drop))}))


def outputs(program, x, tensors=None):
    return program.run([x], tensors)[0].detach()


def relative(a, b):
    return float((a - b).square().sum() / (b - b.mean(0)).square().sum())


@pytest.mark.parametrize("name", CONSUMERS)
def test_every_kind_of_consumer_is_repaired(name):
    make, shape = CONSUMERS[name]
    model, x = make().eval(), torch.randn(shape)
    cut = cut_of(model, x)
    new, rows = reconstruct(cut, Calibration.of([x]), Reconstruct())
    before = relative(outputs(cut.program, x), outputs(cut.network.program, x))
    after = relative(outputs(cut.program, x, new), outputs(cut.network.program, x))
    assert rows
    assert after < 0.8 * before


def test_the_solution_is_that_of_an_explicit_least_squares():
    model, x = (
        Two(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, 1, 1)).double().eval(),
        torch.randn(40, 3, 6, 6).double(),
    )
    cut = cut_of(model, x)
    new, _ = reconstruct(cut, Calibration.of([x]), PLAIN)
    hidden = F.relu(
        F.conv2d(x, cut.program.tensors["first.weight"], cut.program.tensors["first.bias"])
    )
    rows = F.unfold(hidden, 3, padding=1).transpose(1, 2).reshape(-1, 4 * 9)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    wanted = outputs(cut.network.program, x).permute(0, 2, 3, 1).reshape(-1, 4)
    solution = torch.linalg.lstsq(rows, wanted).solution
    torch.testing.assert_close(
        new["second.weight"].flatten(1), solution[:-1].T, rtol=1e-6, atol=1e-8
    )


def test_redundant_units_are_repaired_to_equality():
    model = Two(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)).double().eval()
    with torch.no_grad():
        for stored in (model.first.weight, model.first.bias):
            stored[0], stored[1] = stored[4], 2 * stored[5]
    x = torch.randn(40, 3, 8, 8).double()
    cut = cut_of(model, x)
    new, _ = reconstruct(cut, Calibration.of([x]), PLAIN)
    torch.testing.assert_close(
        outputs(cut.program, x, new), outputs(cut.network.program, x), rtol=1e-6, atol=1e-8
    )


def test_the_other_operand_of_an_addition_is_corrected():
    model = tiny.make("residual")
    x = torch.randn(60, *tiny.example("residual").shape[1:])
    network = Network.of(model, x[:2])
    plan = network.plan(
        {g.name: list(range(g.units // 2)) for g in network.groups if g.scope == "inner"}
    )
    cut = network.cut(plan)
    dense = outputs(network.program, x)
    new, _ = reconstruct(cut, Calibration.of([x]), Reconstruct())
    assert relative(outputs(cut.program, x, new), dense) < relative(outputs(cut.program, x), dense)


def test_norm_statistics_are_the_moments_after_the_repair():
    model, x = Branch().eval(), torch.randn(60, 3, 8, 8)
    cut = cut_of(model, x, drop=3)
    new, _ = reconstruct(cut, Calibration.of([x]), Reconstruct(rows_per_unknown=1e9))
    tensors = {**cut.program.tensors, **new}
    hidden = F.relu(F.conv2d(x, tensors["one.weight"], tensors["one.bias"], padding=1))
    seen = F.conv2d(hidden, tensors["two.weight"], padding=1)
    torch.testing.assert_close(
        tensors["norm.running_var"], seen.var((0, 2, 3)), rtol=1e-3, atol=1e-6
    )


def test_train_mode_agrees_with_eval_mode_after_the_repair():
    model, x = Branch().eval(), torch.randn(60, 3, 8, 8)
    cut = cut_of(model, x, drop=3)
    new, _ = reconstruct(cut, Calibration.of([x]), Reconstruct(rows_per_unknown=1e9))
    repaired = copy.deepcopy(model)
    repaired.one, repaired.two = nn.Conv2d(3, 5, 3, 1, 1), nn.Conv2d(5, 3, 3, 1, 1, bias=False)
    repaired.load_state_dict({**model.state_dict(), **cut.program.tensors, **new})
    wanted = repaired.eval()(x).detach()
    assert relative(repaired.train()(x).detach(), wanted) < 1e-4


def test_fitting_behind_a_clipping_activation_beats_plain_least_squares():
    model, x = Branch().eval(), torch.randn(200, 3, 8, 8)
    with torch.no_grad():
        model.norm.bias -= 2  # most values are clipped, and need not be met
    cut = cut_of(model, x, drop=4)
    rows = [
        reconstruct(cut, Calibration.of([x]), Reconstruct(rounds=n, solve="cut")) for n in (0, 5)
    ]
    dense = outputs(cut.network.program, x)
    plain, behind = (relative(outputs(cut.program, x, new), dense) for new, _ in rows)
    assert behind < plain


def test_a_layer_that_cannot_be_bettered_is_left_alone_with_the_reason():
    model, x = Two(nn.Linear(5, 8), nn.Linear(8, 3)).eval(), torch.randn(30, 5)
    with torch.no_grad():
        model.second.weight[:, :2] = 0
    cut = cut_of(model, x)
    new, rows = reconstruct(cut, Calibration.of([x]), Reconstruct(dampings=(10.0,)))
    assert not new
    assert "held-out" in rows[0].reason


def test_a_gram_that_is_too_large_is_named():
    model, x = Two(nn.Linear(5, 8), nn.Linear(8, 3)).eval(), torch.randn(30, 5)
    _, rows = reconstruct(cut_of(model, x), Calibration.of([x]), Reconstruct(largest=3))
    assert "too large" in rows[0].note


def test_a_weight_used_twice_is_skipped_with_the_reason():
    model = tiny.make("shared")
    x = torch.randn(20, *tiny.example("shared").shape[1:])
    network = Network.of(model, x[:2])
    cut = network.cut(network.plan({g.name: [0] for g in network.groups}))
    _, rows = reconstruct(cut, Calibration.of([x]), Reconstruct())
    assert any("more than once" in row.reason for row in rows)


def test_the_networks_own_tensors_are_left_alone():
    model, x = Branch().eval(), torch.randn(20, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reconstruct(cut_of(model, x), Calibration.of([x]), Reconstruct())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_tensors():
    model, x = Branch().eval(), torch.randn(20, 3, 8, 8)
    runs = [reconstruct(cut_of(model, x), Calibration.of([x]), Reconstruct())[0] for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    "wrong", [{"solve": "most"}, {"dampings": ()}, {"rounds": -1}, {"rows_per_unknown": 0}], ids=str
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(StrategyError, match=next(iter(wrong))):
        Reconstruct(**wrong)

"""`sparsify` on small networks: where zeros are, that they stay, what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.errors import BudgetError, StrategyError
from penjing.recovery import Reconstruct

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 3, 8, 8, generator=GENERATOR)


class Net(nn.Module):
    """Plain, depthwise, grouped and transposed convolutions, a residual addition, a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(x + self.norm1(self.one(x)))
        x = F.relu(self.up(F.relu(self.grouped(self.depth(x)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net()
    for _ in range(5):
        net(X)
    return net.eval()


SPARSE = ("one", "grouped", "up")


def zeros(model, name):
    return int((model.get_submodule(name).weight == 0).sum())


def error(model, dense):
    with torch.no_grad():
        return float((model(X) - dense(X)).square().mean())


@pytest.mark.parametrize("pattern", ["element", "block:1x4", "block:2x2", "kernel"])
def test_the_asked_share_becomes_zero(net, pattern):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, pattern=pattern, calibration=[X])
    whole = sum(net.get_submodule(name).weight.numel() for name in SPARSE)
    gone = sum(zeros(sparse.model, name) for name in SPARSE)
    assert whole / 2 - 9 <= gone <= whole / 2 + 9  # a block less; dead inputs are solved to zero


@pytest.mark.parametrize("name", ["stem", "depth", "head"])
def test_first_last_and_depthwise_layers_stay_dense(net, name):
    sparse = pj.sparsify(net, X[:1], sparsity=0.8)
    assert zeros(sparse.model, name) == 0


def test_no_layer_is_kept_dense_when_none_is_asked_to(net):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, keep_dense=())
    assert all(zeros(sparse.model, name) for name in (*SPARSE, "stem", "depth", "head"))


def test_two_of_four_input_channels_stay_at_every_tap(net):
    sparse = pj.sparsify(net, X[:1], pattern="2:4", calibration=[X])
    kept = sparse.model.one.weight.permute(0, 2, 3, 1).reshape(-1, 4) != 0
    assert (kept.sum(1) == 2).all()


def test_least_squares_brings_the_output_nearer(net):
    bare, repaired = (
        pj.sparsify(net, X[:1], sparsity=0.7, calibration=[X], repair=repair, importance="wanda")
        for repair in (None, "least_squares")
    )
    assert error(repaired.model, net) < 0.7 * error(bare.model, net)


def test_repair_keeps_the_zeros_that_were_chosen(net):
    bare, repaired = (
        pj.sparsify(net, X[:1], sparsity=0.7, calibration=[X], repair=repair, importance="wanda")
        for repair in (None, "least_squares")
    )
    for name in SPARSE:
        gone = bare.model.get_submodule(name).weight == 0
        assert (repaired.model.get_submodule(name).weight[gone] == 0).all()


@pytest.mark.parametrize("repair", [None, "recalibrate", Reconstruct(rounds=0)])
def test_every_repair_runs(net, repair):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, calibration=[X], repair=repair)
    assert torch.isfinite(sparse.model(X)).all()


def test_nothing_zero_leaves_the_answers_as_they_were(net):
    sparse = pj.sparsify(net, X[:1], sparsity=0.0, calibration=[X])
    assert sparse.report.data.agreement == 1.0


def test_the_network_itself_is_left_alone(net):
    before = copy.deepcopy(net.state_dict())
    pj.sparsify(net, X[:1], sparsity=0.5, calibration=[X])
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_in_place_writes_into_the_network(net):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, inplace=True)
    assert sparse.model is net
    assert zeros(net, "one") > 0


def test_the_same_seed_gives_the_same_network(net):
    one, two = (
        pj.sparsify(net, X[:1], sparsity=0.5, calibration=[X], seed=3).model for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_bound_on_nonzero_parameters_is_met(net):
    sparse = pj.sparsify(net, X[:1], constraints={"nonzero": "50%"})
    data = sparse.report.data
    assert 0.49 < data.after.nonzero / data.before.nonzero <= 0.5


def test_a_bound_on_macs_counts_the_weights_that_are_left(net):
    sparse = pj.sparsify(net, X[:1], constraints={"macs": "60%"}, calibration=[X])
    whole, left = 0.0, 0.0
    for layer in sparse.report.data.before.layers:
        weight = sparse.model.get_submodule(layer.name).weight
        whole += layer.macs
        left += layer.macs * float((weight != 0).float().mean())
    assert 0.58 < left / whole <= 0.6


def test_a_bound_out_of_reach_is_refused(net):
    with pytest.raises(BudgetError, match="out of reach"):
        pj.sparsify(net, X[:1], constraints={"nonzero": 10})


def test_single_layers_have_their_own_sparsity(net):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, sparsity_dict={"up": 0.25})
    assert zeros(sparse.model, "up") == net.up.weight.numel() // 4


def test_an_ignored_layer_stays_dense(net):
    sparse = pj.sparsify(net, X[:1], sparsity=0.5, ignored_layers="up")
    assert zeros(sparse.model, "up") == 0


def test_a_pattern_that_does_not_divide_names_the_layers(net):
    with pytest.raises(StrategyError, match="'one': 8 input channels are no multiple of 16"):
        pj.sparsify(net, X[:1], pattern="1:16")


def test_layers_that_a_pattern_does_not_divide_are_skipped_when_asked(net):
    sparse = pj.sparsify(net, X[:1], pattern="1:16", indivisible="skip")
    assert (zeros(sparse.model, "one"), zeros(sparse.model, "up") > 0) == (0, True)


def test_short_runs_are_padded_when_asked(net):
    sparse = pj.sparsify(net, X[:1], pattern="1:16", indivisible="pad")
    assert zeros(sparse.model, "one") == net.one.weight.numel() * 7 // 8


class Recurrent(nn.Module):
    """A GRU between two linear layers."""

    def __init__(self):
        super().__init__()
        self.inner, self.rnn = nn.Linear(4, 6), nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(self.inner(x))[0][:, -1])


def test_recurrent_matrices_become_sparse():
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(20, 5, 4)
    sparse = pj.sparsify(model, x[:1], sparsity=0.75, calibration=[x], allocation="uniform")
    gone = [float((w == 0).float().mean()) for w in (sparse.model.rnn.weight_ih_l0,)]
    assert gone == [0.75]


def test_what_is_judged_without_data_is_said():
    model, x = Recurrent().eval(), torch.randn(20, 5, 4)
    sparse = pj.sparsify(model, x[:1], sparsity=0.5, calibration=[x], repair=None)
    assert "rnn.weight_ih_l0" in sparse.report.data.notes[0]


def test_a_weight_that_another_op_reads_too_stays_dense():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.one = nn.Embedding(7, 6), nn.Linear(6, 6)
            self.two, self.out = nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.out.weight = self.table.weight

        def forward(self, x):
            return self.out(self.two(F.relu(self.one(self.table(x)))))

    tied = Tied().eval()
    sparse = pj.sparsify(tied, torch.zeros(1, 2, dtype=torch.long), sparsity=0.5, keep_dense=())
    assert zeros(sparse.model, "out") == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "got none"),
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": 90}, r"\[0, 1\)"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "leave the sparsity out"),
        ({"sparsity": 0.9, "constraints": {"nonzero": 5}}, "not several"),
        ({"constraints": {"latency_ms": 5}}, "takes one of nonzero, macs"),
        ({"sparsity": 0.5, "max_sparsity": 0}, "max_sparsity"),
    ],
)
def test_goals_that_make_no_sense_are_refused(net, given, words):
    with pytest.raises(BudgetError, match=words):
        pj.sparsify(net, X[:1], **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"importance": "wanda"}, "needs data"),
        ({"repair": "least_squares"}, "needs data"),
        ({"importance": "magnitud"}, "did you mean"),
        ({"allocation": "best"}, "no allocation of sparsity"),
        ({"repair": "magic"}, "repair is 'magic'"),
        ({"keep_dense": ("middle",)}, "known are first, last, depthwise"),
        ({"indivisible": "ignore"}, "indivisible"),
        ({"ignored_layers": "nowhere"}, "matches no layer"),
        ({"sparsity_dict": {"stem": 0.5}}, "matches no layer that may be sparse"),
    ],
)
def test_strategies_that_cannot_work_are_refused(net, given, words):
    with pytest.raises(StrategyError, match=words):
        pj.sparsify(net, X[:1], sparsity=0.5, **given)


def test_a_network_of_ends_alone_says_how_to_go_on():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(BudgetError, match="keep_dense"):
        pj.sparsify(model, torch.ones(1, 4), sparsity=0.5)


def test_a_sparse_network_is_stored_small_and_exactly(net, tmp_path):
    sizes, folder = [], None
    for sparsity in (0.0, 0.9):
        sparse = pj.sparsify(net, X[:1], sparsity=sparsity).model
        folder = pj.save(sparse, tmp_path / str(sparsity), X[:1])
        sizes.append((folder / "model.safetensors").stat().st_size)
    again = pj.load(folder, model=Net)
    assert sizes[1] < 0.75 * sizes[0]
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in sparse.state_dict().items())

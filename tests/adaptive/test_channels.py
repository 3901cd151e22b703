"""Gated channels: each sample is computed with its own channels, as if the others were zero."""

import copy
from functools import cache

import pytest
import torch
from tests.adaptive.chains import X, chain, task
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.adaptive import ChannelDensity, ChannelGatedNetwork
from penjing.errors import CheckpointError, ExportError, InputError, StrategyError, UnavailableError

LAYERS = ["blocks.0.first", "blocks.2.first", "blocks.3.first"]
QUICK = {"epochs": 4, "lr": 0.02, "keep": "last", "progress": False}


@cache
def _fresh():
    return pj.gate_channels(chain(), X[:1]).model


def undecided(made, density=0.5):
    """Gates that tell inputs apart, in place; in float64, so that rounding decides nothing."""
    generator = torch.Generator().manual_seed(1)
    for gate in made.gates:
        last = [module for module in gate.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight, generator=generator)
    return made.double().set_density(density).eval()


def network(density=0.5):
    return undecided(copy.deepcopy(_fresh()), density)


def by_hand(made, x, kept):
    """The chain written out, the `kept` most salient of six channels of every block."""
    net = chain().double()
    gates = iter(made.gates)

    def block(one, stream):
        scores = next(gates).head(stream).relu()
        least = scores.sort(1, descending=True).values[:, kept - 1 : kept]
        saliency = torch.where(scores >= least, scores, 0)[:, :, None, None]
        return F.relu(stream + one.second(saliency * F.relu(one.norm(one.first(stream)))))

    stream = block(net.blocks[0], F.relu(net.stem(x)))
    stream = block(net.blocks[3], block(net.blocks[2], net.blocks[1](stream)))
    return net.end(stream.mean((2, 3)))


class Depthwise(nn.Module):
    """Wide inside, with a depthwise convolution there."""

    def __init__(self):
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project, self.end = nn.Conv2d(12, 3, 1), nn.Linear(3, 3)

    def forward(self, x):
        inside = F.hardswish(self.deep(F.relu6(self.norm(self.expand(x)))))
        return self.end((x + self.project(inside)).mean((2, 3)))


class Tokens(nn.Module):
    """A feed-forward layer of a transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class InPlace(Tokens):
    """What the layer and its gate read is changed behind the layer, and so is what it makes."""

    def forward(self, x):
        x = self.norm(x)
        inside = self.up(x)
        x = x.relu_()
        return x + self.down(inside.sigmoid_())


class Summed(Tokens):
    """Every channel adds up those before it."""

    def forward(self, x):
        return x + self.down(self.up(x).relu().cumsum(-1))


class Interleaved(nn.Module):
    """The layer that comes first is used last."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        self.up2, self.down2 = nn.Linear(4, 12), nn.Linear(12, 4)

    def forward(self, x):
        first = self.up(x)
        second = self.down2(self.up2(x).relu())
        return x + self.down(first.relu()) + second


FAMILIES = {
    "residual": (chain, X[:6]),
    "depthwise": (Depthwise, X[:6]),
    "tokens": (Tokens, torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(2))),
    "in place": (InPlace, torch.ones(6, 5, 8)),
}


def test_a_fresh_network_is_nearly_the_one_that_it_was():
    torch.testing.assert_close(_fresh()(X), chain()(X), rtol=0, atol=0.05)


def test_all_layers_inside_branches_have_gates():
    assert [site.name for site in _fresh().sites] == LAYERS


@pytest.mark.parametrize("kept", [1, 2, 3, 6])
def test_channels_are_chosen_as_by_hand(kept):
    x = torch.rand(7, 3, 8, 8, dtype=torch.float64)
    made = network(kept / 6)
    with torch.no_grad():
        torch.testing.assert_close(made(x), by_hand(made, x, kept))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_sample_with_its_channels_alone_is_the_masked_one(family):
    make, x = FAMILIES[family]
    torch.manual_seed(0)
    made = undecided(pj.gate_channels(make().eval(), x[:1]).model, 0.4)
    x = torch.rand_like(x, dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([made(one) for one in x.split(1)])
        torch.testing.assert_close(alone, made(x))


def test_inputs_choose_different_channels():
    assert len(network().infer(X.double()).opened.unique(dim=0)) > 2


def test_as_many_channels_run_as_the_density_says():
    assert network(0.5).shares(network(0.5).infer(X.double()).opened) == [0.5] * 3


def test_channels_that_run_without_a_say_count_as_run():
    made = network(0.5)
    for gate in made.gates:
        nn.init.constant_(gate.head[-1].bias, -1e6)
    assert made.shares(made.infer(X.double()).opened) == [0.5] * 3


def test_a_sample_costs_what_a_narrow_network_costs_and_the_gates():
    narrow = chain()
    for index in (0, 2, 3):
        block = narrow.blocks[index]
        block.first, block.norm = nn.Conv2d(6, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        block.second = nn.Conv2d(3, 6, 3, padding=1)
    gates = 3 * 6 * 6
    wanted = pj.measure(narrow, X[:1], latency=False).macs + gates
    assert network(0.5).macs_of(torch.zeros(1, 18, dtype=torch.bool)).tolist() == [wanted]


def test_a_gate_does_not_read_channels_that_another_one_has_chosen():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)
    )
    assert [site.name for site in pj.gate_channels(net, X[:1]).model.sites] == ["0"]


def test_channels_whose_order_counts_have_no_gate():
    with pytest.raises(InputError, match="no layer whose channels a gate can choose from"):
        pj.gate_channels(Summed(), torch.ones(1, 5, 8))


def test_what_ran_is_told_of_the_layer_where_it_ran():
    made = undecided(pj.gate_channels(Interleaved(), torch.ones(1, 4)).model, 0.25)
    opened = made.infer(torch.rand(5, 4, dtype=torch.float64)).opened
    assert [int(part.sum(1).max()) for part in opened.split([8, 12], 1)] == [2, 3]


def test_some_layers_can_be_asked_for():
    made = pj.gate_channels(chain(), X[:1], at="blocks.2").model
    assert [site.name for site in made.sites] == ["blocks.2.first"]


def test_training_ends_at_the_target():
    made = copy.deepcopy(_fresh())
    tuned = pj.train(made, task(), callbacks=[ChannelDensity(0.5)], **QUICK)
    assert tuned.model.density == 0.5
    assert tuned.report.data.epochs[-1].loss < tuned.report.data.epochs[0].loss


def test_gates_learn():
    tuned = pj.train(_fresh(), task(), callbacks=[ChannelDensity(0.5)], **QUICK).model
    weights = zip(tuned.gates.parameters(), _fresh().gates.parameters(), strict=True)
    assert not any(torch.equal(new, old) for new, old in weights)


def test_the_density_falls_over_its_share_of_the_run():
    callback = ChannelDensity(0.5, ramp=0.5)
    assert [callback.density(at) for at in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.75, 0.5, 0.5]


def test_a_run_that_was_stopped_ends_as_if_nothing_had_happened(tmp_path):
    class Dies(ChannelDensity):
        def on_step(self, run, /):
            super().on_step(run)
            if run.step == 5:
                raise KeyboardInterrupt

    how = {**QUICK, "workdir": tmp_path, "save_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        pj.train(_fresh(), task(), callbacks=[Dies(0.5)], **how)
    resumed = pj.train(_fresh(), task(), callbacks=[ChannelDensity(0.5)], **how).model
    whole = pj.train(_fresh(), task(), callbacks=[ChannelDensity(0.5)], **QUICK).model
    assert torch.equal(resumed(X), whole(X))


def test_a_checkpoint_gives_it_back(tmp_path):
    made = network(0.5)
    pj.save(made, tmp_path)
    loaded = pj.load(tmp_path)
    assert torch.equal(loaded(X.double()), made(X.double()))
    assert loaded.density == 0.5


def test_a_checkpoint_with_a_wrong_density_is_refused(tmp_path):
    spec = pj.save(network(0.5), tmp_path) / "spec.json"
    spec.write_text(spec.read_text().replace('"density": 0.5', '"density": 5'))
    with pytest.raises(CheckpointError, match="density is 5"):
        pj.load(tmp_path)


def test_the_file_gathers_rows_of_weights_and_gives_the_same(tmp_path):
    import onnx
    import onnxruntime

    made = network(0.5).float()
    done = pj.export(made, X[:1], tmp_path / "net.onnx")
    graph = onnx.load(done.path).graph
    weights = {one.name for one in graph.initializer}
    gathered = [n for n in graph.node if n.op_type == "Conv" and n.input[1] not in weights]
    session = onnxruntime.InferenceSession(done.path)
    got = session.run(None, {session.get_inputs()[0].name: X[5:6].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), made(X[5:6]).detach())
    assert len(gathered) == 6


@pytest.fixture(scope="module")
def measured():
    return pj.measure_gates(network(0.5).float(), task(), samples=5).report


def test_measuring_says_what_runs(measured, tmp_path):
    assert [row.taken for row in measured.data.gates] == [0.5] * 3
    assert "Gated channels" in measured.save(tmp_path / "report.html").read_text()


def test_measuring_says_when_gates_cost_more_than_they_save(measured):
    before, after = (one.latency.mean_ms for one in (measured.data.before, measured.data.after))
    told = any("it is slower than with everything run" in note for note in measured.data.notes)
    assert told == (after > before)


def test_other_formats_than_onnx_are_refused(tmp_path):
    with pytest.raises(ExportError, match=r"gated channels is written as \.onnx"):
        pj.export(network(), X[:1], tmp_path / "net.c")


def test_compiling_is_refused():
    with pytest.raises(UnavailableError, match="gated channels are not compiled"):
        pj.compile(network(), X[:1])


@pytest.mark.parametrize("density", [0.0, 1.5, -1.0])
def test_a_density_outside_its_range_is_refused(density):
    with pytest.raises(StrategyError, match="share of the channels in"):
        network().set_density(density)


@pytest.mark.parametrize(("target", "ramp"), [(0.0, 0.5), (2.0, 0.5), (0.5, 1.0), (0.5, -0.1)])
def test_a_schedule_outside_its_range_is_refused(target, ramp):
    with pytest.raises(StrategyError, match=r"it is a share of the (channels|run)"):
        ChannelDensity(target, ramp)


def test_a_name_that_is_no_layer_is_refused():
    with pytest.raises(InputError, match=r"no layer to gate at 'blocks\.1'; there are blocks"):
        pj.gate_channels(chain(), X[:1], at="blocks.1")


def test_a_network_without_inner_channels_is_refused():
    with pytest.raises(InputError, match="no layer whose channels a gate can choose from"):
        pj.gate_channels(nn.Linear(3, 2), torch.ones(1, 3))


def test_a_density_for_a_network_without_gates_is_refused():
    with pytest.raises(InputError, match="Chain has no gates of channels"):
        pj.train(chain(), task(), callbacks=[ChannelDensity(0.5)], **QUICK)


def test_other_heads_than_groups_are_refused():
    with pytest.raises(StrategyError, match="1 heads were given for 3 gates"):
        ChannelGatedNetwork(chain(), X[:1], LAYERS, [nn.Linear(6, 6)])

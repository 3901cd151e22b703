"""Gated blocks: what is skipped is not run, and what is run is the network that it was."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tests.adaptive.chains import X, accuracy, chain, task
from torch import nn
from torch.nn import functional as F

import penjing as pj
from penjing.adaptive import GatedNetwork, GateRate
from penjing.adaptive.gated import decide
from penjing.adaptive.gated_files import compare, conditional
from penjing.errors import (
    CheckpointError,
    ExportError,
    InputError,
    StrategyError,
    UnavailableError,
    VerificationError,
)
from penjing.graph.capture import capture
from penjing.graph.form import graph_form

QUICK = {"epochs": 30, "lr": 0.02, "keep": "last", "progress": False}
SECONDS = ["blocks.0.second", "blocks.2.second", "blocks.3.second"]


@cache
def _fresh():
    return pj.gate_blocks(chain(), X[:1]).model


def network(*biases):
    """A fresh network, its gates as they are or with these biases."""
    made = copy.deepcopy(_fresh())
    for gate, bias in zip(made.gates, biases, strict=False):
        nn.init.constant_(gate[-1].bias, bias)
    return made


def balanced(made, given):
    """Let every gate open for about half of some samples, in place."""
    generator = torch.Generator().manual_seed(1)
    for gate in made.gates:
        last = [module for module in gate.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight, generator=generator)
        nn.init.zeros_(last.bias)
        heard = []
        hook = gate.register_forward_hook(lambda _, __, out, heard=heard: heard.append(out))
        made.infer(given)
        hook.remove()
        nn.init.constant_(last.bias, -float(heard[0].quantile(0.45)))  # between two samples
    return made


@cache
def _halves():
    return balanced(network(), X)


def halves():
    """A network of which every gate lets in about half of the samples."""
    return copy.deepcopy(_halves())


@pytest.fixture(scope="module")
def trained():
    return pj.train(network(), task(), callbacks=[GateRate(0.5)], **QUICK).model


def by_hand(net, x, opened):
    """The chain, block by block, skipping those that are not opened."""
    x = F.relu(net.stem(x))
    for block, runs in zip([net.blocks[k] for k in (0, 2, 3)], opened, strict=True):
        x = block(x) if runs else F.relu(x)
        x = net.blocks[1](x) if block is net.blocks[0] else x
    return net.end(x.mean((2, 3)))


def test_fresh_gates_leave_the_network_as_it_is():
    made = network(9.0, 9.0, 9.0)
    assert torch.equal(made(X), chain()(X))


def test_every_block_that_keeps_its_shape_has_a_gate():
    assert [site.name for site in network().sites] == SECONDS


@pytest.mark.parametrize("opened", [(1, 0, 1), (0, 1, 0), (0, 0, 0)])
def test_a_shut_block_leaves_the_stream_alone(opened):
    made = network(*(9.0 if one else -9.0 for one in opened)).double()
    wanted = by_hand(chain().double(), X.double(), opened)
    torch.testing.assert_close(made(X.double()), wanted, rtol=1e-12, atol=1e-12)


def test_samples_take_different_blocks():
    opened = halves().infer(X).opened
    assert len(opened.unique(dim=0)) > 2


def test_each_sample_gets_what_its_own_blocks_give():
    made = halves().double()
    done = made.infer(X.double())
    for x, outputs, opened in zip(X.double(), done.outputs, done.opened, strict=True):
        wanted = by_hand(chain().double(), x[None], opened.tolist())[0]
        torch.testing.assert_close(outputs, wanted, rtol=1e-12, atol=1e-12)


def test_skipped_equals_masked():
    made = halves()
    masked = graph_form(capture(made, X[:2]))  # every block is run, and chosen afterwards
    torch.testing.assert_close(made(X), masked(X), rtol=1e-5, atol=1e-6)


def test_a_sample_takes_the_same_blocks_alone_and_in_a_batch():
    made = halves()
    alone = torch.cat([made.infer(x[None]).opened for x in X])
    assert torch.equal(alone, made.infer(X).opened)


def test_a_block_is_run_for_the_samples_alone_that_its_gate_lets_in():
    made, seen = halves(), []
    made.branches[1].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert [int(made.infer(X).opened[:, 1].sum())] == seen


def test_a_block_that_nobody_needs_is_not_run():
    made = network(9.0, -9.0, 9.0)
    made.branches[1].register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    assert not made.infer(X).opened[:, 1].any()


def test_macs_are_those_of_the_blocks_that_ran():
    made = network()
    block = 2 * 6 * 6 * 9
    positions = torch.tensor([64.0, 16.0, 16.0]).double()
    opened = torch.tensor([[1, 1, 1], [0, 1, 0]]).bool()
    skipped = made.macs - made.macs_of(opened)
    assert skipped.tolist() == [0, block * float(positions[0] + positions[2])]


def test_a_decision_is_hard_and_has_the_gradient_of_a_sigmoid():
    logits = torch.tensor([-1.0, 2.0], requires_grad=True)
    made = decide(logits, noisy=False)
    made.sum().backward()
    share = torch.sigmoid(logits.detach())
    torch.testing.assert_close(made.detach(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(logits.grad, share * (1 - share))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decision_is_exactly_open_or_shut(dtype):
    logits = torch.linspace(-3, 3, 1000).to(dtype)
    assert decide(logits, noisy=False).unique().tolist() == [0, 1]


def test_a_rate_counts_more_macs_than_float16_does():
    made = network().half()
    made.sites = tuple(replace(site, macs=100_000) for site in made.sites)
    batches = [(X[:16].half(), torch.zeros(16).long())]
    how = {**QUICK, "epochs": 1}
    tuned = pj.train(made, task(train=batches, val=None), callbacks=[GateRate(0.5)], **how).model
    assert bool(tuned.gates[0][-1].weight.isfinite().all())


def test_noisy_decisions_open_as_often_as_the_sigmoid_says():
    torch.manual_seed(0)
    drawn = decide(torch.full((20000,), 0.7), noisy=True)
    assert float(drawn.mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(0.7))), abs=0.02)


@pytest.mark.parametrize("target", [0.3, 0.7])
def test_training_reaches_the_rate(target):
    made = pj.train(network(), task(), callbacks=[GateRate(target)], **QUICK).model
    costs = torch.tensor([site.macs for site in made.sites]).double()
    work = made.infer(X[:64]).opened.double().mean(0) @ costs / costs.sum()
    assert float(work) == pytest.approx(target, abs=0.1)


def test_trained_gates_depend_on_the_input(trained):
    shares = trained.infer(X).opened.double().mean(0)
    assert bool(((shares > 0.05) & (shares < 0.95)).any())


def test_training_leaves_no_hooks(trained):
    assert not any(gate._forward_hooks for gate in trained.gates)


def test_gates_go_on_a_pruned_network():
    pruned = pj.prune(chain(), X[:1], pruning_ratio=0.5).model
    made = pj.gate_blocks(pruned, X[:1]).model
    torch.testing.assert_close(made.original()(X), pruned(X))


class Padded(nn.Module):
    """Tokens with a mask that every residual layer reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.end = nn.Linear(8, 4)

    def forward(self, tokens):
        mask = (tokens != 0)[..., None]
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + torch.relu(layer(x)) * mask
        return self.end(x.mean(1))


def test_a_mask_made_of_the_inputs_goes_along():
    net, tokens = Padded().eval(), torch.randint(0, 20, (9, 7))
    made = balanced(pj.gate_blocks(net, tokens).model, tokens)
    opened = made.infer(tokens).opened
    x, mask = net.embedding(tokens), (tokens != 0)[..., None]
    for layer, runs in zip(net.layers, opened.T, strict=True):
        x = x + torch.relu(layer(x)) * mask * runs[:, None, None]
    torch.testing.assert_close(made(tokens), net.end(x.mean(1)))


@pytest.mark.parametrize(
    ("at", "blocks"), [("blocks.2", SECONDS[1:2]), (["blocks.3", "blocks.0"], SECONDS[::2])]
)
def test_at_takes_names_of_modules(at, blocks):
    made = pj.gate_blocks(chain(), X[:1], at=at).model
    assert [site.name for site in made.sites] == blocks


def test_a_gate_of_ones_own():
    def gate(x, n):
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), n))

    assert pj.gate_blocks(chain(), X[:1], gate=gate).model(X).shape == (len(X), 3)


def test_a_gate_of_ones_own_follows_the_dtype_of_the_network():
    def gate(x, n):
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), n))

    made = pj.gate_blocks(chain().double(), X[:1].double(), gate=gate).model
    assert made(X.double()).dtype == torch.float64


class Branching(nn.Module):
    """A stream of which one branch does something unusual."""

    def __init__(self, branch):
        super().__init__()
        torch.manual_seed(0)
        self.usual, self.branch, self.end = nn.Linear(6, 6), branch, nn.Linear(6, 3)

    def forward(self, x):
        x = x + torch.tanh(self.usual(x))
        return self.end((x + self.branch(x)).to(x.dtype))


class Centred(nn.Linear):
    """A layer of the difference to the mean of the batch."""

    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class Widening(nn.Linear):
    """A layer that gives float32, whatever it takes."""

    def forward(self, x):
        return super().forward(x).float()


def of_batch():
    """A layer and a norm over the samples that happen to be there."""
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False))


@pytest.mark.parametrize(
    ("branch", "dtype"),
    [
        (of_batch, torch.float32),
        (lambda: Centred(6, 6), torch.float32),
        (lambda: Widening(6, 6), torch.bfloat16),
    ],
    ids=["a norm over the batch", "a mean over the batch", "another dtype"],
)
def test_a_block_that_cannot_be_left_out_for_some_samples_has_no_gate(branch, dtype):
    net = Branching(branch()).eval().to(dtype)
    made = pj.gate_blocks(net, VECTORS.to(dtype)).model
    assert [site.name for site in made.sites] == ["usual"]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"at": "nowhere"}, InputError, "the blocks are"),
        ({"at": []}, InputError, "at is empty"),
        ({"gate": "wide"}, StrategyError, "unknown head"),
        ({"gate": lambda *_: nn.Identity()}, InputError, "the network gives"),
    ],
)
def test_a_wrong_wish_is_refused(how, error, says):
    with pytest.raises(error, match=says):
        pj.gate_blocks(chain(), X[:1], **how)


def test_a_network_without_blocks_says_so():
    with pytest.raises(InputError, match="no block to skip"):
        pj.gate_blocks(nn.Linear(4, 2), torch.ones(2, 4))


@pytest.mark.parametrize("how", [{"target": 0.0}, {"target": 1.0}, {"target": 0.5, "weight": 0}])
def test_a_rate_that_makes_no_sense_is_refused(how):
    with pytest.raises(StrategyError):
        GateRate(**how)


def test_a_rate_needs_gates():
    with pytest.raises(InputError, match="has no gates"):
        pj.train(chain(), task(), callbacks=[GateRate(0.5)], **QUICK)


def test_measuring_needs_gates():
    with pytest.raises(InputError, match="has no gates"):
        pj.measure_gates(chain(), task())


def test_measuring_takes_inputs_as_the_network_does():
    called = task(forward=lambda model, inputs: model(inputs))
    with pytest.raises(InputError, match="a forward of its own"):
        pj.measure_gates(network(), called)


def test_inference_in_training_mode_is_refused():
    with pytest.raises(StrategyError, match="training mode"):
        network().train().infer(X)


def test_it_is_saved_and_loaded_without_pickle(tmp_path):
    made = halves()
    again = pj.load(pj.save(made, tmp_path / "net"))
    assert isinstance(again, GatedNetwork)
    assert torch.equal(again.infer(X).opened, made.infer(X).opened)
    assert torch.equal(again(X), made(X))


def test_a_loaded_network_is_trained_on(tmp_path):
    again = pj.load(pj.save(network(), tmp_path / "net"))
    how = {**QUICK, "epochs": 1}
    tuned = pj.train(again, task(), callbacks=[GateRate(0.5)], **how).model
    assert not torch.equal(tuned(X), again(X))


def test_a_damaged_description_is_refused(tmp_path):
    folder = pj.save(network(), tmp_path / "net")
    spec = folder / "spec.json"
    spec.write_text(spec.read_text().replace('"sites"', '"places"'))
    with pytest.raises(CheckpointError, match="gated blocks"):
        pj.load(folder)


def test_it_is_not_compiled():
    with pytest.raises(UnavailableError, match="one by one"):
        pj.compile(network(), X[:1])


def test_it_is_exported_to_onnx_alone():
    with pytest.raises(ExportError, match=r"written as \.onnx"):
        pj.export(network(), X[:1], "net.c")


class Stream(nn.Module):
    """Two residual layers on vectors: exported in a second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.end = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.end(x)


VECTORS = torch.randn(40, 6, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def stream():
    made = pj.gate_blocks(Stream().eval(), VECTORS).model
    for gate in made.gates:
        nn.init.zeros_(gate.bias)
    return made


@pytest.fixture(scope="module")
def written(stream, tmp_path_factory):
    return pj.export(stream, VECTORS, tmp_path_factory.mktemp("gates") / "net.onnx")


def test_one_file_with_conditions_does_what_the_network_does(stream, written):
    import onnx
    import onnxruntime as ort

    session = ort.InferenceSession(written.path)
    wanted = stream.infer(VECTORS)
    assert len(wanted.opened.unique(dim=0)) == 4
    for x, outputs in zip(VECTORS, wanted.outputs, strict=True):
        (said,) = session.run(None, {written.inputs[0]: x[None].numpy()})
        np.testing.assert_allclose(said[0], outputs.numpy(), rtol=1e-4, atol=1e-5)
    graph = onnx.load(written.path).graph
    assert [node.op_type for node in graph.node].count("If") == 2
    assert "Tanh" not in {node.op_type for node in graph.node}  # blocks are inside the branches


class Choosing(Stream):
    """With a choice of its own in front, and a second output of truths."""

    def forward(self, x):
        x = torch.where(x[:, :1] > 0, 2 * x, -x)
        return super().forward(x), x > 0


def shut(made):
    """Let all gates say 0, in place."""
    for gate in made.gates:
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)
    return made


@pytest.mark.parametrize(
    ("make", "dtype", "limit"),
    [
        (lambda: pj.gate_blocks(Choosing().eval(), VECTORS).model, torch.float32, 1e-5),
        (lambda: shut(pj.gate_blocks(Stream().eval(), VECTORS).model), torch.float32, 1e-5),
        (lambda: pj.gate_blocks(Stream().eval(), VECTORS).model.half(), torch.float16, 2e-2),
    ],
    ids=["choices of its own", "logits of 0", "float16"],
)
def test_it_is_exported(make, dtype, limit, tmp_path):
    made = make()
    assert pj.export(made, VECTORS.to(dtype), tmp_path / "net.onnx").difference < limit


def test_a_file_that_gives_no_numbers_is_refused(stream, written, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(written.path)
    for weight in model.graph.initializer:
        if weight.name.endswith("bias") and "trunk" in weight.name:
            nothing = np.full(tuple(weight.dims), np.nan, np.float32)
            weight.CopyFrom(numpy_helper.from_array(nothing, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(VerificationError, match="differs from the network"):
        compare(tmp_path / "broken.onnx", stream, capture(stream, VECTORS))


def test_what_is_measured_is_a_distribution(stream):
    labels = stream(VECTORS).argmax(1)
    judged = pj.Task(val=[(VECTORS, labels)], metrics={"accuracy": accuracy})
    done = pj.measure_gates(stream, judged, samples=8)
    data = done.report.data
    assert data.after.latency.n == 8
    assert data.after.macs == round(float(stream.macs_of(stream.infer(VECTORS).opened).mean()))
    assert [row.taken for row in data.gates] == pytest.approx(
        stream.infer(VECTORS).opened.double().mean(0).tolist()
    )


def test_the_report_shows_who_runs_what(trained, tmp_path):
    done = pj.measure_gates(trained, task(), latency=False)
    page = done.report.save(tmp_path / "gates.html").read_text().replace("<wbr>", "")
    assert "samples that run it" in page
    assert "blocks.2" in page


def choice(sizes):
    """A model that takes one of two values by one truth; the second has these sizes."""
    from onnx import TensorProto, helper

    node = helper.make_node("Where", ["truth", "first", "second"], ["taken"])
    kinds = {"truth": (TensorProto.BOOL, [1]), "first": (1, [1, 3]), "second": (1, sizes)}
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info("taken", 1, [1, 3])]
    return helper.make_model(helper.make_graph([node], "choice", inputs, outputs))


@pytest.mark.parametrize(("sizes", "op"), [([1, 3], "If"), ([1, 1], "Where")])
def test_a_choice_between_values_of_one_shape_is_a_condition(sizes, op):
    made = conditional(choice(sizes))
    assert [node.op_type for node in made.graph.node] == [op]


def test_a_cut_of_a_gated_network_says_that_nothing_is_left_out_any_more():
    made = pj.gate_blocks(chain(), X[:1]).model.eval()
    notes = pj.prune(made, X[:1], pruning_ratio=0.3).report.data.notes
    assert "nothing is saved" in " ".join(notes)


def test_zeros_go_into_a_gated_network_which_goes_on_skipping():
    made = pj.gate_blocks(chain(), X[:1]).model.eval()
    sparse = pj.sparsify(made, X[:1], sparsity=0.5).model
    assert sparse.infer(X[:4]).opened.shape == (4, len(made.branches))

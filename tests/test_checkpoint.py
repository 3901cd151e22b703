"""Checkpoints are exact, whole, and refuse what they do not know."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from penjing import checkpoint, files
from penjing.checkpoint import load, read, save
from penjing.errors import CheckpointError, InputError
from penjing.graph.capture import capture
from penjing.graph.form import graph_form
from penjing.graph.network import Network
from penjing.pruning.surgery import cut_module
from penjing.record import Record, attach, record_of
from penjing.verbs.prune import prune

X = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def make_network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = make_network()
    model(X)  # moves the running statistics
    return model.eval()


@pytest.fixture
def saved(network, tmp_path):
    return save(network, tmp_path / "net", X)


@pytest.fixture
def pruned(network):
    analysed = Network.of(network, X)
    group = next(group.name for group in analysed.groups if group.units == 8)
    plan = analysed.plan({group: (1, 4, 5)})
    model = cut_module(network, analysed.cut(plan)).eval()
    attach(model, Record.of(X, [plan]))
    return model


def state(model):
    return dict(model.state_dict())


def assert_same(one, other):
    torch.testing.assert_close(state(one), state(other), rtol=0, atol=0)


def test_the_graph_form_computes_the_same_bits(network, saved):
    assert torch.equal(load(saved)(X), network(X))


def test_the_graph_form_has_the_same_state(network, saved):
    assert_same(load(saved), network)


def test_the_own_class_gets_the_same_state(network, saved):
    assert_same(load(saved, make_network), network)


def test_the_own_class_may_be_given_as_an_instance(network, saved):
    assert_same(load(saved, make_network()), network)


def test_an_instance_that_was_given_is_left_alone(saved):
    given = make_network()
    before = {k: v.clone() for k, v in given.state_dict().items()}
    load(saved, given)
    torch.testing.assert_close(state(given), before, rtol=0, atol=0)


def test_a_pruned_network_is_saved_without_being_told_more(pruned, tmp_path):
    assert torch.equal(load(save(pruned, tmp_path))(X), pruned(X))


def test_a_pruned_network_comes_back_in_its_own_class(pruned, tmp_path):
    assert torch.equal(load(save(pruned, tmp_path), make_network)(X), pruned(X))


def test_a_pruned_network_comes_back_with_its_record(pruned, tmp_path):
    assert record_of(load(save(pruned, tmp_path), make_network)) == record_of(pruned)


def test_a_network_that_was_pruned_twice_comes_back_in_its_own_class(network, tmp_path):
    once = prune(network, X, pruning_ratio=0.4)
    twice = prune(once.model, X, pruning_ratio=0.4)
    loaded = load(save(twice.model, tmp_path), make_network)
    assert torch.equal(loaded(X), twice.model.eval()(X))


def test_a_plan_for_another_network_is_refused(pruned, tmp_path):
    folder = save(pruned, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load(folder, nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 4, 3)))


def test_a_graph_form_is_saved_and_loaded(network, tmp_path):
    form = graph_form(capture(network, X))
    assert torch.equal(load(save(form, tmp_path))(X), network(X))


def test_a_loaded_graph_form_is_saved_again_alike(saved, tmp_path):
    again = load(save(load(saved), tmp_path / "again"))
    assert_same(again, load(saved))


def test_a_graph_form_does_not_load_into_a_class(network, tmp_path):
    folder = save(graph_form(capture(network, X)), tmp_path)
    with pytest.raises(CheckpointError, match="without model="):
        load(folder, make_network)


def test_without_example_inputs_the_own_class_still_loads(network, tmp_path):
    assert_same(load(save(network, tmp_path), make_network), network)


def test_without_example_inputs_there_is_no_graph_form(network, tmp_path):
    folder = save(network, tmp_path)
    with pytest.raises(CheckpointError, match="saved without example inputs"):
        load(folder)


def test_tied_weights_are_stored_once(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert len(read(save(model, tmp_path, torch.ones(2, 3))).tensors) == 1


def test_tied_weights_come_back_tied(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    loaded = load(save(model, tmp_path, torch.ones(2, 3)))
    assert loaded.get_parameter("0.weight") is loaded.get_parameter("1.weight")


def test_bits_of_every_kind_are_kept(tmp_path):
    model = nn.Linear(4, 1, bias=False)
    values = torch.tensor([[float("nan"), float("-inf"), -0.0, 1e-45]])
    model.weight.data.copy_(values)
    bits = load(save(model, tmp_path), nn.Linear(4, 1, bias=False)).weight.view(torch.int32)
    assert torch.equal(bits, values.view(torch.int32))


def test_loaded_tensors_are_aligned_like_fresh_ones(tmp_path):
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3), nn.Linear(3, 3))
    loaded = load(save(model, tmp_path, torch.ones(2, 3)))
    assert {p.data_ptr() % 64 for p in loaded.parameters()} == {0}


def test_metrics_are_kept(network, tmp_path):
    assert read(save(network, tmp_path, metrics={"accuracy": 0.5})).metrics == {"accuracy": 0.5}


def test_metrics_may_be_tensors(network, tmp_path):
    folder = save(network, tmp_path, metrics={"accuracy": torch.tensor(0.5)})
    assert read(folder).metrics == {"accuracy": 0.5}


def test_a_metric_that_is_no_number_is_refused(network, tmp_path):
    with pytest.raises(InputError, match="metric 'accuracy' is 'high'"):
        save(network, tmp_path, metrics={"accuracy": "high"})


def test_a_full_disk_is_told_with_the_path(network, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"no space left on device.*model\.safetensors"):
        save(network, tmp_path)


def test_the_network_keeps_its_mode(network, tmp_path):
    save(network.train(), tmp_path, X)
    assert network[1].training


@pytest.mark.parametrize("stage", ["write_with", "write_json"])
def test_a_kill_while_writing_leaves_the_old_checkpoint(network, saved, monkeypatch, stage):
    def die(*_):
        raise KeyboardInterrupt

    before = load(saved)
    network[0].weight.data.zero_()
    monkeypatch.setattr(files, stage, die)
    with pytest.raises(KeyboardInterrupt):
        save(network, saved, X)
    assert_same(load(saved), before)


def test_a_checkpoint_is_replaced_again_and_again(network, saved):
    for value in (1.0, 2.0, 3.0):
        network[0].weight.data.fill_(value)
        save(network, saved, X)
    assert bool((load(saved).get_parameter("0.weight") == 3.0).all())


def test_a_replaced_checkpoint_leaves_no_old_weights(network, saved):
    save(network, saved, X)
    assert sorted(f.name for f in saved.iterdir()) == ["model.1.safetensors", "spec.json"]


def _edit(folder, change):
    spec = json.loads((folder / "spec.json").read_text())
    change(spec)
    (folder / "spec.json").write_text(json.dumps(spec))


def _flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _cut_off(name):
    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def _pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    digest = files.sha256(folder / "model.safetensors")
    _edit(folder, lambda s: s["weights"].update(sha256=digest))


SPOILT = {
    "a flipped bit": _flip,
    "weights cut off": _cut_off("model.safetensors"),
    "a spec cut off": _cut_off("spec.json"),
    "a pickle for weights": _pickle,
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "no spec": lambda f: (f / "spec.json").unlink(),
    "another file of weights": lambda f: _edit(f, lambda s: s["weights"].update(file="../../a")),
    "a newer version": lambda f: _edit(f, lambda s: s.update(version=99)),
    "another format": lambda f: _edit(f, lambda s: s.update(format="else")),
    "a list": lambda f: (f / "spec.json").write_text("[]"),
    "deep brackets": lambda f: (f / "spec.json").write_text("[" * 100_000),
    "no text": lambda f: (f / "spec.json").write_bytes(b"\xff\xfe\x00"),
    "no plans": lambda f: _edit(f, lambda s: s.pop("plans")),
    "a plan that is none": lambda f: _edit(f, lambda s: s.update(plans=["{}"])),
    "an example that is none": lambda f: _edit(f, lambda s: s.update(example={"x": 1})),
    "a graph that is none": lambda f: _edit(f, lambda s: s["graph"].update(nodes=3)),
    "a foreign op": lambda f: _edit(
        f, lambda s: s["graph"]["nodes"][-1].update(op="aten.from_file.default")
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_checkpoint_is_refused(saved, spoil):
    spoil(saved)
    with pytest.raises(CheckpointError):
        load(saved)


def test_a_huge_spec_is_refused_before_it_is_read(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_SPEC_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than the 100"):
        load(saved)


def test_a_tie_to_nothing_is_refused(saved):
    _edit(saved, lambda s: s["ties"].update(x="y"))
    with pytest.raises(CheckpointError):
        load(saved, make_network)


def test_a_network_of_other_shapes_is_refused(saved):
    other = make_network()
    other[5] = nn.Linear(16, 6)
    with pytest.raises(CheckpointError, match=r"'5\.\w+' is float32.*another network"):
        load(saved, other)


def test_a_network_with_fewer_tensors_is_refused(saved):
    with pytest.raises(CheckpointError, match="has no tensor '5"):
        load(saved, make_network()[:5])


def test_a_network_of_another_dtype_is_refused(saved):
    with pytest.raises(CheckpointError, match="another dtype"):
        load(saved, make_network().double())


def test_a_result_in_place_of_its_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"result\.model"):
        save(object(), tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save(network, tmp_path / "file")


def test_a_plan_needs_example_inputs(network, pruned, tmp_path):
    with pytest.raises(InputError, match="example_inputs"):
        save(network, tmp_path, plan=record_of(pruned).plans[0])

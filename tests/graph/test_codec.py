"""The graph form as JSON: exact both ways, deaf to hostile files."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from penjing.errors import CheckpointError
from penjing.graph.capture import capture
from penjing.graph.codec import aten_op, from_json, tensors_of, to_json
from penjing.graph.form import graph_form


class Network(nn.Module):
    """A bit of everything that a graph can hold."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.second.weight.requires_grad_(False)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x, *, extra):
        y = self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        y = y.masked_fill(y > 1e6, float("-inf")).to(torch.float32).reshape(x.shape[0], -1)
        y = self.second(self.first(y))[:, 1:] * torch.tensor([1.0, 2.0, 3.0])
        return {"a": y + self.shift, "b": (extra["e"], [torch.zeros(x.shape[0], 1)])}


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    return graph_form(capture(Network(), {"x": x, "extra": {"e": x}}))


@pytest.fixture
def content(original):
    return json.loads(json.dumps(to_json(original), allow_nan=False))


@pytest.fixture
def restored(original, content):
    return from_json(content, copy.deepcopy(tensors_of(original)))


def test_the_restored_form_computes_the_same_bits(original, restored):
    x = torch.randn(5, 3, 4, 4)
    expected = original(x=x, extra={"e": x})
    torch.testing.assert_close(restored(x=x, extra={"e": x}), expected, rtol=0, atol=0)


def test_the_restored_form_has_the_same_state_dict(original, restored):
    assert set(restored.state_dict()) == set(original.state_dict())


def test_tied_tensors_come_back_tied(restored):
    assert restored.first.weight is restored.second.weight


def test_a_frozen_parameter_comes_back_frozen(restored):
    assert not restored.first.weight.requires_grad


def test_the_restored_form_follows_its_mode(restored):
    x = torch.randn(5, 3, 4, 4)
    restored.train()(x=x, extra={"e": x})
    assert int(restored.norm.num_batches_tracked) == 1


def test_what_was_restored_is_written_alike(content, restored):
    assert to_json(restored) == content


def test_a_dataclass_output_becomes_a_dict():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], layer_type="basic"
    )
    x = torch.randn(2, 3, 16, 16)
    form = graph_form(capture(transformers.ResNetModel(config), {"pixel_values": x}))
    restored = from_json(to_json(form), tensors_of(form))
    assert set(restored(pixel_values=x)) == {"last_hidden_state", "pooler_output"}


def _call(content, op, args=()):
    content["nodes"].insert(-1, {"name": "evil", "op": op, "args": list(args)})


def _rename(content, name):
    content["nodes"][0]["name"] = name


HOSTILE = {
    "an op outside aten": lambda c: _call(c, "os.system", ["true"]),
    "a file": lambda c: _call(c, "aten.from_file.default", ["/etc/passwd"]),
    "a write": lambda c: _call(c, "aten.add_.Tensor"),
    "a storage": lambda c: _call(c, "aten.set_.source_Storage"),
    "an unknown op": lambda c: _call(c, "aten.no_such_op.default"),
    "a packet's own attribute": lambda c: _call(c, "aten.__class__.default"),
    "an attribute": lambda c: _call(c, "getattr", [{"node": "x"}, "__class__"]),
    "code for a name": lambda c: _rename(c, "x): import os; (y"),
    "a keyword for a name": lambda c: _rename(c, "import"),
    "a loop": lambda c: _call(c, "aten.relu.default", [{"node": "evil"}]),
    "two nodes of one name": lambda c: c["nodes"].append(c["nodes"][-1]),
    "a tensor that is not there": lambda c: c["tensors"].update(
        more={"kind": "buffer", "shape": [1], "dtype": "float32"}
    ),
    "another shape": lambda c: c["tensors"]["conv.weight"].update(shape=[1]),
    "a tensor over a method": lambda c: c["tensors"].update(
        forward={**c["tensors"]["conv.weight"], "same": "conv.weight"}
    ),
    "a path of quotes": lambda c: c["tensors"].update(
        {'a".b': {**c["tensors"]["conv.weight"], "same": "conv.weight"}}
    ),
    "a mode of nothing": lambda c: c["nodes"].append({"name": "m", "op": "mode", "of": "__dict__"}),
    "a keyword argument of code": lambda c: c["inputs"]["tuple"][1]["dict"].update({"a=1): (": 0}),
    "too many outputs": lambda c: c["result"].append(None),
    "no nodes": lambda c: c.pop("nodes"),
    "a newer version": lambda c: c.update(version=99),
    "no version": lambda c: c.pop("version"),
    "a deep value": lambda c: c.update(result=_nest(200)),
}


def _nest(depth):
    value = []
    for _ in range(depth):
        value = {"tuple": [value]}
    return value


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_spoilt_graph_is_refused(original, content, spoil):
    spoil(content)
    with pytest.raises(CheckpointError):
        from_json(content, tensors_of(original))


@pytest.mark.parametrize("content", [None, [], "x", 3, {}], ids=repr)
def test_other_json_is_refused(content):
    with pytest.raises(CheckpointError, match="not a graph"):
        from_json(content, {})


@pytest.mark.parametrize(
    "name", ["from_file.default", "resize_.default", "_cudnn_rnn.default", "relu_.default", "relu"]
)
def test_an_op_with_side_effects_is_not_allowed(name):
    with pytest.raises(CheckpointError):
        aten_op(name)

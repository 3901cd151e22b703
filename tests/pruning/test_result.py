"""The module that comes out: of the user's class where it can be, equal to the cut graph."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.graph.sketches import SKETCHES, network, random_drop, smallest_drop
from torch import nn

from penjing.errors import VerificationError
from penjing.graph.form import graph_form
from penjing.graph.network import Network
from penjing.pruning import result
from penjing.pruning.result import make
from penjing.testing import tiny

TINY = pytest.mark.parametrize("name", tiny.NETWORKS)
OWN_CLASS = [name for name in tiny.NETWORKS if name != "residual_a"]


def masked_outputs(model, cut, x):
    """What the original gives when the tensors of cut units are zero."""
    masked = copy.deepcopy(model)
    masked.load_state_dict({**model.state_dict(), **cut.masked()})
    return masked(x)


@TINY
@torch.no_grad()
def test_a_cut_network_equals_the_masked_one(name):
    model = tiny.make(name)
    net = Network.of(model, tiny.example(name))
    fresh = tiny.example(name, batch=5, seed=7)
    for drop in (random_drop(net, 0), random_drop(net, 1), smallest_drop(net)):
        cut = net.cut(net.plan(drop))
        made = make(model, cut).model
        # float32: kernels for other widths add up in another order
        torch.testing.assert_close(
            made(fresh), masked_outputs(model, cut, fresh), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", OWN_CLASS)
@torch.no_grad()
def test_the_users_class_equals_the_graph_form(name):
    model = tiny.make(name)
    net = Network.of(model, tiny.example(name))
    cut = net.cut(net.plan(random_drop(net, 3)))
    made, fresh = make(model, cut), tiny.example(name, batch=5, seed=7)
    assert made.proof.form == "module"
    assert type(made.model) is type(model)
    form = graph_form(cut.program)
    torch.testing.assert_close(made.model(fresh), form(fresh), atol=1e-6, rtol=1e-5)


def test_a_forward_that_bakes_sizes_in_comes_out_as_a_graph_with_a_reason():
    model = tiny.make("residual_a")
    net = Network.of(model, tiny.example("residual_a"))
    proof = make(model, net.cut(net.plan(smallest_drop(net)))).proof
    assert proof.form == "graph"
    assert "RuntimeError" in proof.reason


def test_a_forward_that_runs_but_computes_something_else_comes_out_as_a_graph():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.a(x)
            return self.b(y / y.shape[1])

    model = Scaled()
    net = Network.of(model, torch.ones(2, 4))
    proof = make(model, net.cut(net.plan({"a": [0, 1]}))).proof
    assert proof.form == "graph"
    assert "bakes in a size" in proof.reason


def test_a_head_of_training_alone_that_no_longer_fits_makes_it_a_graph():
    class Helped(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head, self.helper = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            y = self.trunk(x)
            return self.head(y) + self.helper(y) if self.training else self.head(y)

    model = Helped()
    net = Network.of(model, torch.ones(2, 4))
    proof = make(model, net.cut(net.plan({"trunk": [0, 1]}))).proof
    assert proof.form == "graph"
    assert proof.reason.startswith("in training mode, RuntimeError")


@pytest.mark.parametrize("error", [KeyError, ZeroDivisionError, NotImplementedError])
def test_a_forward_that_raises_after_the_cut_makes_it_a_graph(error):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.a(x)
            if y.shape[1] != 8:
                raise error("size")
            return self.b(y)

    model = Strict()
    net = Network.of(model, torch.ones(2, 4))
    assert make(model, net.cut(net.plan({"a": [0, 1]}))).proof.form == "graph"


@TINY
def test_names_and_attributes_fit_the_new_sizes(name):
    model = tiny.make(name)
    net = Network.of(model, tiny.example(name))
    made = make(model, net.cut(net.plan(smallest_drop(net)))).model
    assert list(made.state_dict()) == list(model.state_dict())
    for part in made.modules():
        if isinstance(part, nn.Linear):
            assert (part.out_features, part.in_features) == part.weight.shape
        if isinstance(part, nn.modules.batchnorm._NormBase):
            assert part.num_features == len(part.running_mean)


def test_a_grouped_convolution_knows_its_groups():
    model = tiny.make("grouped")
    net = Network.of(model, tiny.example("grouped"))
    made = make(model, net.cut(net.plan({"0": [0, 2]}))).model
    assert (made[3].groups, made[3].in_channels, made[3].out_channels) == (2, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_networks_of_other_dtypes_are_cut(dtype):
    model = tiny.make("residual").to(dtype)
    net = Network.of(model, tiny.example("residual").to(dtype))
    made = make(model, net.cut(net.plan(random_drop(net, 0))))
    assert made.proof.form == "module"
    assert {p.dtype for p in made.model.parameters()} == {dtype}


def test_tied_parameters_stay_tied():
    model = SKETCHES["weight_tied_to_its_transpose"].model()
    cut = network("weight_tied_to_its_transpose")
    made = make(model, cut.cut(cut.plan({"a": [0, 3]})))
    assert made.proof.form == "module"
    assert tuple(made.model.a.weight.shape) == (6, 6)


def test_two_names_of_one_parameter_stay_one_parameter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    model[2].weight = model[1].weight
    net = Network.of(model, torch.ones(2, 6))
    made = make(model, net.cut(net.plan({"0": [2, 5]}))).model
    assert made[1].weight is made[2].weight
    assert made[1].weight.shape == (6, 6)


def test_frozen_parameters_stay_frozen():
    model = tiny.make("plain")
    model[0].weight.requires_grad_(False)
    net = Network.of(model, tiny.example("plain"))
    made = make(model, net.cut(net.plan({"0": [0]}))).model
    assert [p.requires_grad for p in made.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_a_result_that_differs_on_the_real_weights_is_refused(monkeypatch):
    model = tiny.make("plain")
    net = Network.of(model, tiny.example("plain"))
    monkeypatch.setattr(result, "compare_forms", lambda *_: "")
    monkeypatch.setattr(result, "module_difference", lambda *_: 0.5)
    monkeypatch.setattr(result, "wide_difference", lambda *_: 0.5)
    with pytest.raises(VerificationError, match=r"5\.0e-01"):
        make(model, net.cut(net.plan({"0": [0]})))


@pytest.mark.parametrize("name", ["plain", "residual_a"])
def test_both_forms_train(name):
    model = tiny.make(name)
    net = Network.of(model, tiny.example(name))
    made = make(model, net.cut(net.plan(random_drop(net, 0)))).model.train()
    made(tiny.example(name, batch=4)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())


class FaintHeads(nn.Module):
    """Attention whose part of the output is too small for float32 to see."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.view(*t.shape[:-1], 2, -1).transpose(1, 2) for t in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1e-4)
        return self.head(x.sin() + self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)))


def test_a_forward_that_is_nearly_right_goes_to_the_graph_form():
    model = FaintHeads().eval()
    net = Network.of(model, torch.randn(2, 5, 8))
    drop = {g.name: range(g.units // 2) for g in net.groups if g.units == 2}
    assert make(model, net.cut(net.plan(drop))).proof.form == "graph"

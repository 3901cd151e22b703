"""Capture: inputs of every structure, in-place ops, a free batch, errors that name the fix."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from tests.graph.sketches import SKETCHES
from torch import nn
from torch.nn import functional as F

from penjing.errors import CaptureError, InputError
from penjing.graph.capture import call_args, capture


def runs_alike(model, example, program):
    """Whether the program gives what the network gives on the example."""
    args, kwargs = call_args(example)
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(model(*args, **kwargs))
        got = program.run(program.flatten_inputs(example))
    return all(torch.allclose(g, w, atol=1e-6) for g, w in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "two_inputs_and_outputs",
        "keyword_inputs",
        "plain_and_absent_inputs",
        "in_place_ops",
        "one_half_written_in_place",
        "weight_norm",
        "module_used_twice",
    ],
)
def test_the_program_computes_what_the_network_computes(name):
    model, example = SKETCHES[name].model(), SKETCHES[name].example()
    assert runs_alike(model, example, capture(model, example))


@pytest.mark.parametrize("name", ["plain", "two_inputs_and_outputs", "plain_and_absent_inputs"])
def test_the_batch_is_free_where_forward_takes_star_args(name):
    assert capture(SKETCHES[name].model(), SKETCHES[name].example()).dynamic_batch


def test_outputs_come_back_in_their_own_structure():
    example = SKETCHES["two_inputs_and_outputs"].example()
    program = capture(SKETCHES["two_inputs_and_outputs"].model(), example)
    outputs = program.unflatten_outputs(program.run(program.flatten_inputs(example)))
    assert set(outputs) == {"logits", "echo"}


def test_inputs_of_another_structure_are_refused():
    program = capture(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(InputError, match="structure"):
        program.flatten_inputs((torch.ones(1, 2), torch.ones(1, 2)))


def test_no_in_place_op_is_left():
    graph = capture(SKETCHES["in_place_ops"].model(), SKETCHES["in_place_ops"].example()).graph
    assert not any(node.target._schema.is_mutable for node in graph.nodes if node.op[:4] == "call")


def test_a_captured_network_is_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    generator = torch.get_rng_state()
    capture(model, torch.ones(2, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Branches(nn.Module):
    """Asks its input which way to go."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


def test_a_branch_on_data_is_named_with_its_place_and_its_fix():
    with pytest.raises(CaptureError, match=r"test_capture\.py.*torch\.where"):
        capture(Branches(), torch.ones(2, 3))


def test_a_network_that_does_not_export_keeps_its_mode():
    model = Branches().train()
    with pytest.raises(CaptureError):
        capture(model, torch.ones(2, 3))
    assert model.training


def test_an_input_of_the_wrong_shape_is_named_with_shapes():
    with pytest.raises(InputError, match=r"float32\[2, 3\].*Give inputs of the shape"):
        capture(nn.Linear(4, 2), torch.ones(2, 3))


def test_an_input_of_the_wrong_dtype_is_named_with_both_dtypes():
    with pytest.raises(InputError, match=r"torch\.float32 weights.*float64\[2, 4\]"):
        capture(nn.Linear(4, 2), torch.ones(2, 4, dtype=torch.float64))


def test_an_input_on_another_device_is_named_with_the_fix():
    with pytest.raises(InputError, match=r"example_inputs\.to\('cpu'\)"):
        capture(nn.Linear(4, 2), torch.ones(2, 4, device="meta"))


def test_a_functional_rewrite_keeps_batch_norm_whole():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(x)
            y[:, :2] = 0
            return F.relu(y)

    program = capture(Halves().eval(), torch.ones(2, 4, 3, 3))
    assert program.functional_rewrite
    assert any("batch_norm" in str(node.target) for node in program.graph.nodes)


def test_a_failed_export_prints_nothing(capfd):
    with pytest.raises(CaptureError):
        capture(Branches(), torch.ones(2, 4))
    assert capfd.readouterr() == ("", "")


@dataclass
class Scores:
    logits: torch.Tensor


class GivesDataclass(nn.Module):
    def forward(self, x):
        return Scores(x + 1)


def test_a_dataclass_that_torch_does_not_know_is_followed_and_given_back():
    program = capture(GivesDataclass(), torch.ones(2, 4))
    given = program.unflatten_outputs(program.run([torch.zeros(2, 4)]))
    assert isinstance(given, Scores)
    torch.testing.assert_close(given.logits, torch.ones(2, 4))


class Cache:
    """What no pytree knows."""


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x), Cache()


def test_a_cache_in_the_outputs_is_named_with_its_switch():
    with pytest.raises(CaptureError, match=r"returns a Cache.* use_cache=False"):
        capture(Cached(), torch.randn(2, 4))


class Keywords(nn.Module):
    """Takes its inputs by whatever names the call has."""

    def forward(self, **named):
        return named["first"] - named["second"]


def test_keywords_that_forward_catches_have_an_open_batch():
    net, x = Keywords(), torch.ones(4, 3)
    program = capture(net, {"second": x, "first": x})
    assert program.dynamic_batch
    assert "forward" not in vars(net)

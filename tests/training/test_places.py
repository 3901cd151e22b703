"""Inner tensors of graph forms: the places of a class are still there after a cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.distillation import AttentionTransfer
from penjing.errors import InputError
from penjing.graph.capture import capture
from penjing.graph.codec import from_json, tensors_of, to_json
from penjing.graph.form import graph_form
from penjing.task import Task
from penjing.testing.tiny import example, make
from penjing.training import Fit, Teacher, Teachers, fit
from penjing.training.matching import Listener, match
from penjing.training.places import place_names

X = example("residual_a", batch=8)
TASK = Task(train=[X] * 2)
STAGES = {"block1": "block1", "block2": "block2"}


def form() -> nn.Module:
    return graph_form(capture(make("residual_a"), X[:2]))


class Twice(nn.Module):
    """Two graph forms beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([form(), form()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts])


def heard(model: nn.Module, names: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    listener = Listener(model, names)
    model(X)
    listener.close()
    return listener.take()


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    """Its class cannot express the cut, so it is a graph form."""
    return pj.prune(make("residual_a"), X[:2], pruning_ratio=0.3, repair=None).model


@pytest.mark.parametrize("name", ["stem", "block1.bn1", "block1", "block2", "fc"])
def test_a_graph_form_is_heard_where_its_modules_were(name):
    (mine,), (theirs,) = heard(form(), (name,)), heard(make("residual_a"), (name,))
    torch.testing.assert_close(mine, theirs)


def test_a_graph_form_is_left_as_it_was():
    model = form()
    before = model.code, list(model.state_dict())
    heard(model, ("block1", "block2"))
    assert (model.code, list(model.state_dict())) == before


def test_a_pruned_graph_form_is_matched_by_the_names_of_its_parent(pruned):
    assert match(pruned, make("residual_a"), TASK) == STAGES


def test_places_survive_a_file():
    model = form()
    loaded = from_json(to_json(model), tensors_of(model))
    assert place_names(loaded) == place_names(model)


def test_a_form_that_was_captured_anew_is_matched_by_resolution():
    again = graph_form(capture(form(), X[:2]))
    assert list(match(again, make("residual_a"), TASK).values()) == ["block1", "block2"]


def test_a_prepared_network_is_heard_on_its_grids():
    net = make("residual_a")
    model = pj.prepare(net, X[:2], calibration=[X]).model
    assert match(model, net, TASK) == STAGES
    (value,) = heard(model, ("block2",))
    grid = model.quantized().activations["relu_4"]
    torch.testing.assert_close(grid.fake(value), value)


def test_two_teachers_listen_to_one_graph_form(pruned):
    teachers = [Teacher(make("residual_a", seed), AttentionTransfer()) for seed in (0, 1)]
    fitted = fit(pruned, TASK, Fit(epochs=2, lr=0.01, progress=False), [Teachers(teachers)])
    assert fitted.epochs[-1].loss < fitted.epochs[0].loss


def test_forms_that_are_parts_of_a_network_are_places():
    (value,) = heard(Twice(), ("parts.1",))
    torch.testing.assert_close(value, make("residual_a")(X))


def test_a_place_that_does_not_exist_is_named_with_its_neighbours(pruned):
    lesson = Teacher(make("residual_a"), AttentionTransfer(), {"blok1": "block1"})
    with pytest.raises(InputError, match="student has no module 'blok1'; near it: block1"):
        fit(pruned, TASK, Fit(epochs=1, progress=False), [lesson])

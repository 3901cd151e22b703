"""`compile=True`: the same training through torch.compile."""

from functools import partial

import pytest
import torch
from tests.training.toys import Net, equal, state, task
from torch import nn

from penjing.distillation import Relational
from penjing.errors import StrategyError
from penjing.sparse_training import Gradual, SparseTraining
from penjing.training import Fit, Teacher, fit

ROUNDING = 1e-5  # float32 sums in another order, after eight steps


class Steady(Net):
    """Without noise of its own: compiled dropout draws other numbers."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()


class Untraceable(nn.Module):
    """Its forward asks the compiler's own question, and fails inside."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 2))

    def forward(self, x):
        if torch.compiler.is_compiling():
            x = x.reshape(-1, 7)
        return x @ self.weight


def trained(model, callbacks=(), **more):
    usual = {"epochs": 2, "lr": 0.02, "progress": False, "keep": "last"}
    fit(model, task(), Fit(**{**usual, **more}), callbacks)
    return model


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_sparse_training_ends_as_the_plain_one(monkeypatch):
    quick = partial(torch.compile, backend="aot_eager")  # traced and split, without C++ to build
    monkeypatch.setattr(torch, "compile", quick)
    growing = [SparseTraining(Gradual(schedule=0.5), keep_dense=()) for _ in range(2)]
    plain = trained(Steady(), growing[:1], optimizer="sgd")
    fast = trained(Steady(), growing[1:], optimizer="sgd", compile=True)
    assert all(
        torch.allclose(w, state(fast)[n], rtol=0, atol=ROUNDING) for n, w in state(plain).items()
    )


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_teacher_of_inner_layers_listens_to_a_class_that_was_compiled_before(monkeypatch):
    quick = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", quick)
    trained(Steady(), compile=True, epochs=1)
    plain, fast = Steady(), Steady()
    layers = {"inside": "inside"}
    torch.manual_seed(1)
    parent = nn.Sequential()
    parent.inside, parent.outside = nn.Linear(6, 8), nn.Linear(8, 2)
    trained(plain, [Teacher(parent, Relational(), layers)], optimizer="sgd")
    trained(fast, [Teacher(parent, Relational(), layers)], optimizer="sgd", compile=True)
    assert all(
        torch.allclose(w, state(fast)[n], rtol=0, atol=ROUNDING) for n, w in state(plain).items()
    )


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_network_that_does_not_compile_is_refused_before_anything_is_written():
    model = Untraceable()
    with pytest.raises(StrategyError, match=r"does not take Untraceable.*[Ll]eave compile=True"):
        trained(model, compile=True)
    assert torch.equal(model.weight, torch.ones(6, 2))


def test_compiling_is_off_by_default():
    assert (Fit().compile, equal(trained(Net()), trained(Net(), compile=False))) == (False, True)

"""A network that is sparse stays so when more zeros are made in another way."""

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.testing import tiny

X = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sparse():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )
    net = tiny.randomise(net, 0)
    return pj.sparsify(net, X[:2], sparsity=0.6, calibration=X).model


def refilled(sparse, **how):
    again = pj.sparsify(sparse, X[:2], calibration=X, **how).model
    return int(((sparse[2].weight == 0) & (again[2].weight != 0)).sum())


@pytest.mark.parametrize(
    "how",
    [
        {"pattern": "kernel", "sparsity": 0.3},
        {"pattern": "2:4"},
        {"importance": "random", "sparsity": 0.3},
        {"importance": "magnitude", "sparsity": 0.3},
    ],
    ids=["kernel", "2:4", "random", "magnitude"],
)
def test_zeros_that_were_there_stay(sparse, how):
    assert refilled(sparse, **how) == 0


@pytest.mark.parametrize("importance", ["random", "movement", "grasp", "magnitude"])
def test_zeros_that_were_there_count_first(sparse, importance):
    labelled = [(X, torch.arange(len(X)) % 4)]
    again = pj.sparsify(
        sparse, X[:2], sparsity=0.3, importance=importance, calibration=labelled,
        allocation="uniform", repair=None,
    ).model  # fmt: skip
    assert torch.equal(again[2].weight == 0, sparse[2].weight == 0)


def test_zeros_come_back_where_that_is_asked_for(sparse):
    assert refilled(sparse, pattern="kernel", sparsity=0.3, keep_zeros=False) > 0

"""Zeros and integers from one pass over the data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import BudgetError

X = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(1))
UNSEEN = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(2))


class Batches:
    """Counts what is read of it."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[Tensor]:
        for batch in X.split(32):
            self.read += 1
            yield batch


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


def lost(changed: nn.Module, net: nn.Module) -> float:
    with torch.no_grad():
        return float((changed(UNSEEN) - net(UNSEEN)).square().mean())


def zeros(done: pj.Quantized) -> dict[str, float]:
    """Share of zeros of every weight."""
    network = done.model.network
    return {f: float((network.integers(f) == 0).float().mean()) for f in network.weights}


def test_zeros_and_integers_come_from_one_pass_over_the_data(net: nn.Module) -> None:
    batches = Batches()
    done = pj.quantize(net, X[:2], calibration=batches, rounding="gptq", sparsity=0.75)
    assert batches.read == 4
    found = zeros(done)
    assert min(found["3.weight"], found["6.weight"]) >= 0.75
    assert max(found["0.weight"], found["8.weight"]) < 0.2


def test_one_pass_loses_no_more_than_two(net: nn.Module) -> None:
    """Less, by what the second pass no longer sees; a tenth more is allowed for the sampling."""
    one = pj.quantize(net, X[:2], calibration=[X], scheme="int4", rounding="gptq", sparsity=0.75)
    sparse = pj.sparsify(net, X[:2], sparsity=0.75, calibration=[X], allocation="uniform")
    two = pj.quantize(sparse.model, X[:2], calibration=[X], scheme="int4", rounding="gptq")
    assert lost(one.model, net) <= 1.1 * lost(two.model, net)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_patterns_hold_in_integers(net: nn.Module, rounding: str) -> None:
    done = pj.quantize(net, X[:2], calibration=[X], rounding=rounding, pattern="2:4")
    q = done.model.network.integers("3.weight")
    assert int((q.movedim(1, -1).reshape(-1, 4) != 0).sum(1).max()) == 2
    assert done.report.data.choices["zeros"] == "0.5 of 2 layers, 2:4"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sparsity": 0.5, "max_drop": 0.01}, "sparsify first, then quantize"),
        ({"sparsity": 1.5}, "it is a share of weights"),
        ({"sparsity": 0.5, "scheme": "binary"}, "one bit has no zero"),
        ({"sparsity": 0.5, "pattern": "2:4", "max_drop": 0.1}, "sparsify first"),
        ({"sparsity": 0.5, "weight_bits_dict": {"3": 1}}, "'3.weight' one bit, which has no zero"),
        ({"sparsity": 0.5, "ignored_layers": ["3", "6"]}, "no layer may become sparse"),
        ({"pattern": "block:1x4"}, "no sparsity how many"),
        ({"keep_dense": ()}, "no sparsity how many"),
    ],
)
def test_sparsity_that_cannot_be_is_refused(
    net: nn.Module, asked: dict[str, object], said: str
) -> None:
    with pytest.raises(BudgetError, match=said):
        pj.quantize(net, X[:2], calibration=[X], **asked)


def test_a_layer_too_wide_for_a_gram_matrix_is_refused(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penjing.verbs.quantize.LARGEST", 71)
    with pytest.raises(BudgetError, match=r"'3.weight' has 72 inputs.*sparsify first"):
        pj.quantize(net, X[:2], calibration=[X], sparsity=0.5)


def test_the_report_counts_layers_that_became_sparse(net: nn.Module) -> None:
    done = pj.quantize(net, X[:2], calibration=[X], sparsity=0.5, ignored_layers=["6"])
    assert done.report.data.choices["zeros"] == "0.5 of 1 layers, element"

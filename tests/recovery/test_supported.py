"""Least squares on a support: zeros outside it, the best weights inside."""

import pytest
import torch

from penjing.recovery import supported
from penjing.recovery.supported import Supported
from penjing.statistics.grams import Gram

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(1, 400, 12, dtype=torch.float64, generator=GENERATOR) + 0.5
Y = torch.randn(1, 400, 5, dtype=torch.float64, generator=GENERATOR)
SUPPORT = torch.rand(1, 5, 12, generator=GENERATOR) > 0.6


def gram():
    sums = Gram.zeros(1, 12, 5)
    sums.add(X, Y)
    return sums


def explicit(row, free):
    """Weights and intercept of one output by least squares on its columns."""
    columns = X[0][:, SUPPORT[0, row]]
    if free:
        columns = torch.cat([columns, torch.ones(len(columns), 1)], 1)
    return torch.linalg.lstsq(columns, Y[0, :, row : row + 1]).solution[:, 0]


@pytest.mark.parametrize("most", [1e9, 0.0], ids=["cholesky", "conjugate gradients"])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("row", range(5))
def test_every_output_has_the_best_weights_on_its_own_support(monkeypatch, most, free, row):
    monkeypatch.setattr(supported, "MOST", most)
    weight, intercept = Supported(gram(), free, 1e-14, SUPPORT).solve(gram().xy, gram().y)
    found = weight[0, row, SUPPORT[0, row]]
    found = torch.cat([found, intercept[0, row : row + 1]]) if free else found
    # conjugate gradients stop at a residual of 1e-6
    torch.testing.assert_close(found, explicit(row, free), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("most", [1e9, 0.0], ids=["cholesky", "conjugate gradients"])
def test_weights_outside_the_support_are_zero(monkeypatch, most):
    monkeypatch.setattr(supported, "MOST", most)
    weight, _ = Supported(gram(), True, 1e-3, SUPPORT).solve(gram().xy, gram().y)
    assert (weight[~SUPPORT] == 0).all()


def test_an_output_without_any_weight_is_its_mean():
    support = SUPPORT.clone()
    support[0, 2] = False
    _, intercept = Supported(gram(), True, 1e-3, support).solve(gram().xy, gram().y)
    assert float(intercept[0, 2]) == pytest.approx(float(Y[0, :, 2].mean()))

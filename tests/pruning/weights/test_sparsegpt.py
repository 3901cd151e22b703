"""One blocked sweep over the inputs: the same as place by place, and good enough to be used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from penjing.errors import StrategyError
from penjing.pruning.patterns import Pattern, Tiling
from penjing.pruning.weights import SparseGPT
from penjing.pruning.weights._sparsegpt import Sweep
from penjing.pruning.weights.protocol import Matrix
from penjing.statistics.grams import Gram
from penjing.verbs.sparsify import sparsify

OUTPUTS, INPUTS = 6, 24
DAMPING = 1e-3


def layer(outputs: int = OUTPUTS, inputs: int = INPUTS) -> Matrix:
    mixing = torch.randn(inputs, inputs, dtype=torch.float64)
    gram = Gram.zeros(1, inputs)
    gram.add(torch.randn(1, 300, inputs, dtype=torch.float64) @ mixing)
    weight = torch.randn(1, outputs, inputs, dtype=torch.float64)
    one = torch.ones(1, outputs, dtype=torch.float64)
    return Matrix(name="w", weight=weight, scale=one, gram=gram)


def tiling_of(pattern: str, outputs: int = OUTPUTS, inputs: int = INPUTS) -> Tiling:
    return Tiling(Pattern.parse(pattern), 1, outputs, 1, inputs)


def damped(matrix: Matrix) -> torch.Tensor:
    gram = matrix.gram.xx[0].clone()
    gram.diagonal().add_(DAMPING * gram.diagonal().mean())
    return gram


def swept(matrix: Matrix, tiling: Tiling, sparsity: float, columns: int) -> Sweep:
    factor = torch.linalg.cholesky(torch.linalg.inv(damped(matrix)), upper=True)
    settings = SparseGPT(sparsity=sparsity, columns=columns, damping=DAMPING)
    sweep = Sweep(settings, tiling, tiling.blocks(matrix.weight).flatten(2), factor)
    sweep.run()
    return sweep


def place_by_place(matrix: Matrix, gone: torch.Tensor) -> torch.Tensor:
    """Each place in turn, with the inverse over the places to its right inverted anew."""
    gram, weight = damped(matrix), matrix.weight[0].clone()
    for place in range(INPUTS):
        inverse = torch.linalg.inv(gram[place:, place:])
        error = weight[:, place] / inverse[0, 0] * gone[:, place]
        weight[:, place:] -= error[:, None] * inverse[0]
    return weight


@pytest.mark.parametrize("columns", [1, 4, 5, 24, 100])
def test_lazy_updates_are_those_of_one_place_after_the_other(columns):
    matrix, tiling = layer(), tiling_of("element")
    sweep = swept(matrix, tiling, 0.5, columns)
    want = place_by_place(matrix, sweep.gone)
    torch.testing.assert_close(sweep.weight[:, 0], want, rtol=1e-9, atol=1e-9)
    assert int(sweep.gone.sum()) == OUTPUTS * INPUTS // 2 or columns == 5  # 15 of 30 and 12 of 24


@pytest.mark.parametrize("pattern", ["element", "2:4", "block:1x4", "block:2x2"])
def test_the_mask_at_its_own_sparsity_is_the_one_of_the_sweep(pattern):
    matrix, tiling = layer(), tiling_of(pattern)
    scores = SparseGPT(sparsity=0.5, columns=8, damping=DAMPING)(matrix, tiling)
    gone = swept(matrix, tiling, 0.5, 8).gone
    assert torch.equal(tiling.keep(scores, 0.5), tiling.spread(~gone))


def test_the_scores_of_what_went_add_up_to_the_error_of_the_sweep():
    matrix, tiling = layer(), tiling_of("element")
    sweep = swept(matrix, tiling, 0.6, 8)
    scores = SparseGPT(sparsity=0.6, columns=8, damping=DAMPING)(matrix, tiling)
    change = sweep.weight[:, 0] - matrix.weight[0]
    error = float(((change @ damped(matrix)) * change).sum())
    assert float(scores[sweep.gone].sum()) == pytest.approx(error)


def error_of(matrix: Matrix, mask: torch.Tensor) -> float:
    """Squared error of the outputs when each output is re-solved on what it keeps."""
    gram, total = damped(matrix), 0.0
    for row, kept in zip(matrix.weight[0], mask[0], strict=True):
        left = row.clone()
        left[kept] -= torch.linalg.solve(gram[kept][:, kept], gram[kept] @ row)
        total += float(left @ gram @ left)
    return total


def test_it_keeps_better_weights_than_magnitude_where_inputs_differ():
    inputs = 64
    seen = torch.relu(torch.randn(256, inputs) @ torch.randn(inputs, inputs)).double()
    gram = Gram.zeros(1, inputs)
    gram.add((seen * torch.rand(inputs).mul(2).exp())[None])
    matrix, tiling = replace(layer(32, inputs), gram=gram), tiling_of("element", 32, inputs)
    ours = tiling.keep(SparseGPT(sparsity=0.6, damping=DAMPING)(matrix, tiling), 0.6)
    plain = tiling.keep(matrix.weight[0].abs(), 0.6)
    assert error_of(matrix, ours) < 0.8 * error_of(matrix, plain)


def test_sparsify_sweeps_at_the_sparsity_that_is_asked_for():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(200, 8)
    sparse = sparsify(net.eval(), x[:1], sparsity=0.75, calibration=[x], importance="sparsegpt")
    assert int(sparse.model[2].weight.count_nonzero()) == 64


def test_settings_outside_their_range_are_refused():
    with pytest.raises(StrategyError, match="share of weights"):
        SparseGPT(sparsity=1.0)
    with pytest.raises(StrategyError, match="at least 1 column"):
        SparseGPT(columns=0)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_order_of_the_sweep_holds_across_groups_and_where_blocks_stick_out(groups):
    tiling = Tiling(Pattern.parse("block:1x4"), groups, OUTPUTS, 1, INPUTS - 1)
    gram = Gram.zeros(groups, INPUTS - 1)
    gram.add(torch.randn(groups, 300, INPUTS - 1, dtype=torch.float64))
    weight = torch.randn(groups, OUTPUTS, INPUTS - 1, dtype=torch.float64)
    weight *= torch.tensor([1.0, 100.0][:groups], dtype=torch.float64)[:, None, None]
    one = torch.ones(groups, OUTPUTS, dtype=torch.float64)
    matrix = Matrix(name="w", weight=weight, scale=one, gram=gram)
    judge = SparseGPT(sparsity=0.5, columns=8, damping=DAMPING)
    scores = judge(matrix, tiling)
    each = tiling.sizes.numel() // 2  # 6 of 12 blocks of each of the columns of all outputs
    lowest = torch.zeros(scores.numel(), dtype=torch.bool)
    lowest[scores.flatten().argsort()[:each]] = True
    assert lowest.view(groups, -1).sum(1).tolist() == [each // groups] * groups
    assert all(lowest.view(groups, OUTPUTS, 3, 2).sum((1, 3)).flatten() == OUTPUTS)

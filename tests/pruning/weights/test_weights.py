"""Importances of weights: the contract, and elimination against brute force."""

import pytest
import torch

from penjing.errors import StrategyError
from penjing.pruning import weights
from penjing.pruning.patterns import Pattern, Tiling
from penjing.pruning.weights import OBS, Matrix
from penjing.statistics.grams import Gram
from penjing.testing import check_weight_importance

NAMES = [name for name in weights.__all__ if name.islower()]


@pytest.mark.parametrize("name", NAMES)
def test_every_importance_of_weights_keeps_the_contract(name):
    check_weight_importance(name)


def layer_of(outputs, inputs, seed=0, free=False):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, dtype=torch.float64, generator=generator)
    x = torch.randn(1, 500, inputs, dtype=torch.float64, generator=generator) @ mixing + 1
    gram = Gram.zeros(1, inputs)
    gram.add(x)
    weight = torch.randn(1, outputs, inputs, dtype=torch.float64, generator=generator)
    one = torch.ones(1, outputs, dtype=torch.float64)
    return Matrix(name="w", weight=weight, scale=one, gram=gram, free=free)


def best_error(layer, kept, row=0):
    """Squared error of the least squares on the kept inputs, against the whole row."""
    xx = layer.gram.centred().xx[0] if layer.free else layer.gram.xx[0]
    w = layer.weight[0, row]
    solved = torch.zeros_like(w)
    solved[kept] = torch.linalg.solve(xx[kept][:, kept], xx[kept] @ w)
    return float((w - solved) @ xx @ (w - solved))


@pytest.mark.parametrize("free", [False, True])
def test_the_first_to_go_costs_the_error_of_the_best_compensation(free):
    layer = layer_of(1, 8, free=free)
    scores = OBS(damping=1e-12)(layer, Tiling(Pattern(), 1, 1, 1, 8))[0]
    order = scores.argsort()
    error = best_error(layer, order[1:].sort().values)
    # float64, damping 1e-12: what is left is rounding
    assert float(scores[order[0]]) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("gone", range(1, 8))
def test_the_scores_of_what_went_bound_the_error_of_the_best_compensation(gone):
    layer = layer_of(1, 8)
    scores = OBS(damping=1e-12)(layer, Tiling(Pattern(), 1, 1, 1, 8))[0]
    order = scores.argsort()
    error = best_error(layer, order[gone:].sort().values)
    assert float(scores[order[:gone]].sum()) >= error * (1 - 1e-6)  # rounding, as above


def test_blocks_that_go_together_cost_the_joint_error():
    layer = layer_of(1, 8)
    tiling = Tiling(Pattern.parse("block:1x4"), 1, 1, 1, 8)
    scores = OBS(damping=1e-12)(layer, tiling)[0]
    first = int(scores.argmin())
    kept = torch.arange(4) + 4 * (1 - first)
    assert float(scores[first]) * 4 == pytest.approx(best_error(layer, kept), rel=1e-6)


def test_outputs_that_share_zeros_cost_the_sum_of_their_errors():
    layer = layer_of(2, 6)
    tiling = Tiling(Pattern.parse("block:2x1"), 1, 2, 1, 6)
    scores = OBS(damping=1e-12)(layer, tiling)[0]
    first = int(scores.argmin())
    kept = torch.tensor([i for i in range(6) if i != first])
    errors = [best_error(layer, kept, row) for row in (0, 1)]
    assert float(scores[first]) * 2 == pytest.approx(sum(errors), rel=1e-6)


def test_an_n_m_pattern_loses_the_same_number_in_every_run():
    layer = layer_of(4, 16)
    tiling = Tiling(Pattern.parse("1:4"), 1, 4, 1, 16)
    scores = OBS()(layer, tiling)
    assert (scores.isfinite().view(4, 4, 4).sum(2) == 3).all()


def test_steps_of_several_blocks_choose_nearly_as_well_as_one_by_one():
    layer = layer_of(1, 64)
    tiling = Tiling(Pattern(), 1, 1, 1, 64)
    errors = []
    for steps in (1000, 8):
        order = OBS(steps=steps, damping=1e-9)(layer, tiling)[0].argsort()
        errors.append(best_error(layer, order[32:].sort().values))
    assert errors[1] <= 1.5 * errors[0]  # a greedy order is no optimum either


@pytest.mark.parametrize("pattern", ["element", "2:4", "block:1x2"])
def test_a_large_layer_is_eliminated_in_parts(pattern):
    layer = layer_of(2, 16)
    tiling = Tiling(Pattern.parse(pattern), 1, 2, 1, 16)
    scores = OBS(largest_work=2 * 16 * 8**2, damping=1e-12)(layer, tiling)
    first, second = (
        OBS(damping=1e-12)(part_of(layer, half), Tiling(tiling.pattern, 1, 2, 1, 8))
        for half in (0, 1)
    )
    # a part's own problem has the other inputs left free: the Schur complement of its Gram matrix
    torch.testing.assert_close(scores, torch.cat([first, second], 1), rtol=1e-5, atol=0)


def part_of(layer, half):
    """The problem of eight inputs when the other eight follow freely."""
    mine = torch.arange(8) + 8 * half
    rest = torch.arange(8) + 8 * (1 - half)
    xx = layer.gram.xx[0]
    schur = xx[mine][:, mine] - xx[mine][:, rest] @ torch.linalg.solve(
        xx[rest][:, rest], xx[rest][:, mine]
    )
    gram = Gram.zeros(1, 8)
    gram.xx, gram.rows = schur[None], layer.gram.rows
    return Matrix(
        name="w", weight=layer.weight[:, :, mine], scale=layer.scale, gram=gram, free=False
    )


def test_magnitude_does_not_look_behind_the_norm():
    layer = layer_of(2, 4)
    tiling = Tiling(Pattern(), 1, 2, 1, 4)
    scaled = Matrix(name="w", weight=layer.weight, scale=layer.scale * 7)
    assert torch.equal(weights.magnitude(layer, tiling), weights.magnitude(scaled, tiling))


def test_wanda_drops_the_same_share_of_every_output():
    layer = layer_of(3, 10)
    tiling = Tiling(Pattern(), 1, 3, 1, 10)
    kept = tiling.keep(weights.wanda(layer, tiling), 0.5)
    assert (kept.sum(2) == 5).all()


def test_settings_out_of_range_are_refused():
    with pytest.raises(StrategyError, match="steps is 0"):
        OBS(steps=0)

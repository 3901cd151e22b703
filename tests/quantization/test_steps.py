"""Grids in training: what they compute, and which gradients flow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from penjing.quantization.formats import Grid, bias_grid
from penjing.quantization.steps import (
    BiasGrid,
    FollowingGrid,
    LearnedGrid,
    MovingGrid,
    ZerosKept,
)


def weights(seed: int = 0) -> Tensor:
    return torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def per_channel(bits: int) -> Grid:
    return Grid.symmetric(weights().flatten(1).abs().amax(1) * 0.7, bits, axis=0)


GRIDS = {
    "affine": Grid.affine(-0.7, 1.3),
    "int16": Grid.affine(-0.7, 1.3, bits=16),
    "int4": per_channel(4),
    "ternary": per_channel(2),
    "binary": Grid.binary(weights().abs().flatten(1).mean(1), axis=0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_learned_grid_starts_as_the_grid_itself(name: str) -> None:
    grid, x = GRIDS[name], weights(1)
    assert torch.equal(LearnedGrid(grid, 36)(x), grid.fake(x))


@pytest.mark.parametrize("name", GRIDS)
def test_a_learned_grid_computes_what_it_says(name: str) -> None:
    learned, x = LearnedGrid(GRIDS[name], 36), weights(1)
    with torch.no_grad():
        learned.ratio.mul_(1.2345)
    assert torch.equal(learned(x), learned.grid.fake(x))


def lsq(x: Tensor, grid: Grid, step: Tensor) -> Tensor:
    """Equation 3 of the paper, element by element in float64."""
    v = x.double() / step.double()
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    return torch.where(v <= low, low, torch.where(v >= high, high, v.round() - v))


def test_the_gradient_of_a_step_is_that_of_the_paper() -> None:
    grid, x = GRIDS["affine"], weights(2)
    learned = LearnedGrid(grid, 36)
    upstream = torch.randn_like(x)
    learned(x).backward(upstream)
    share = 1 / math.sqrt(36 * max(grid.high - grid.zero_point, grid.zero_point - grid.low))
    wanted = (lsq(x, grid, grid.scale) * upstream).sum() * share / float(grid.scale)
    assert learned.ratio.grad is not None
    torch.testing.assert_close(learned.ratio.grad.double(), wanted, rtol=1e-4, atol=1e-6)


def test_every_channel_has_the_gradient_of_its_own_step() -> None:
    grid, x = GRIDS["int4"], weights(2)
    learned = LearnedGrid(grid, 36)
    learned(x).sum().backward()
    step = grid.scale.view(-1, 1, 1, 1)
    wanted = lsq(x, grid, step).flatten(1).sum(1) / math.sqrt(36 * 7) / grid.scale
    assert learned.ratio.grad is not None
    torch.testing.assert_close(learned.ratio.grad.double(), wanted, rtol=1e-4, atol=1e-4)


def test_no_gradient_flows_beyond_the_limits() -> None:
    x = torch.tensor([-9.0, -0.5, 0.2, 9.0], requires_grad=True)
    LearnedGrid(GRIDS["affine"], 4)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_a_descended_step_rounds_better() -> None:
    x = weights(3)
    learned = LearnedGrid(Grid.symmetric(x.abs().max() * 3, 3), x.numel())
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = (learned(x) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.5 * errors[0]


def test_a_zero_point_is_a_whole_number_that_processes_do_not_average() -> None:
    learned = LearnedGrid(GRIDS["affine"], 4)
    assert not learned.zero.is_floating_point()


def test_a_step_never_turns_negative() -> None:
    learned = LearnedGrid(GRIDS["affine"], 4)
    with torch.no_grad():
        learned.ratio.fill_(-5)
    assert float(learned.step.detach()) > 0


def test_a_frozen_step_takes_no_gradient() -> None:
    learned = LearnedGrid(GRIDS["affine"], 4)
    learned.freeze(frozen=True)
    x = weights().requires_grad_()
    learned(x).sum().backward()
    assert learned.ratio.grad is None


def test_steps_of_a_shift_scheme_stay_powers_of_two() -> None:
    learned = LearnedGrid(GRIDS["int4"].power_of_two(), 36, power_of_two=True)
    with torch.no_grad():
        learned.ratio.copy_(torch.linspace(0.3, 3, 6))
    exponents = torch.log2(learned.step.detach())
    assert torch.equal(exponents, exponents.round())


def test_a_moving_range_goes_to_what_it_sees() -> None:
    moving = MovingGrid(Grid.affine(-1, 1)).train()
    for _ in range(800):
        moving(torch.tensor([-2.0, 6.0]))
    assert (moving.grid.minimum, moving.grid.maximum) == pytest.approx((-2, 6), abs=0.05)


@pytest.mark.parametrize("mode", ["eval", "frozen"])
def test_a_range_that_shall_stay_stays(mode: str) -> None:
    moving = MovingGrid(Grid.affine(-1, 1)).train(mode != "eval")
    moving.freeze(frozen=mode == "frozen")
    moving(torch.tensor([-20.0, 60.0]))
    assert moving.grid.same(Grid.affine(-1, 1))


def test_steps_of_a_weight_follow_it_and_keep_the_share_they_cover() -> None:
    following = FollowingGrid(GRIDS["int4"], weights()).train()
    following(3 * weights())
    torch.testing.assert_close(following.grid.scale, 3 * GRIDS["int4"].scale, rtol=1e-5, atol=0)


def test_a_bias_lies_on_the_grid_of_its_sums() -> None:
    source, weight = LearnedGrid(GRIDS["affine"], 4), LearnedGrid(GRIDS["int4"], 36)
    bias = torch.linspace(-1, 1, 6)
    grid = bias_grid(source.grid, weight.grid)
    wanted = grid.dequantize(grid.quantize(bias.double()), torch.float64).float()
    assert torch.equal(BiasGrid(source, weight)(bias), wanted)


def test_zeros_that_are_kept_get_no_gradient() -> None:
    weight = torch.tensor([0.0, 2.0], requires_grad=True)
    (ZerosKept(weight)(weight) * 3).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 3]

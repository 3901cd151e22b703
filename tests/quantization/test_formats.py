"""Grids, rounding and requantization, against what C and TensorFlow Lite define."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from penjing.errors import InputError
from penjing.quantization.formats import (
    INT32_MAX,
    INT32_MIN,
    Grid,
    Multiplier,
    bias_grid,
    multipliers,
    packed,
    packed_bytes,
    requantize,
    rescale,
    round_away,
    unpacked,
)


def _grid(**given: object) -> Grid:
    return Grid(**{"scale": torch.tensor(0.5, dtype=torch.float64), **given})  # type: ignore[arg-type]


def test_halves_are_rounded_away_from_zero() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994], dtype=torch.float64)
    assert round_away(x).tolist() == [-3, -2, -1, 1, 2, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_of_halves_are_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    halves = torch.arange(-300, 300).to(dtype) + 0.5
    up = torch.nextafter(halves, torch.full_like(halves, math.inf))
    down = torch.nextafter(halves, torch.full_like(halves, -math.inf))
    assert torch.equal(round_away(up), halves + 0.5)
    assert torch.equal(round_away(down), halves - 0.5)


def test_an_affine_grid_holds_zero_exactly() -> None:
    grid = Grid.affine(-0.3, 2.1)
    assert float(grid.fake(torch.zeros(()))) == 0


def test_an_affine_grid_is_widened_to_hold_zero() -> None:
    assert Grid.affine(1.0, 3.0).zero_point == -128


def test_a_constant_zero_has_a_grid() -> None:
    assert float(Grid.affine(0.0, 0.0).fake(torch.zeros(()))) == 0


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_a_weight_grid_is_symmetric(bits: int) -> None:
    grid = Grid.symmetric(torch.tensor(1.0), bits)
    assert (grid.low, grid.zero_point) == (-grid.high, 0)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_the_largest_weight_is_kept_within_float32(bits: int) -> None:
    w = torch.tensor([[0.1, -0.7], [3.0, 1.0]])
    grid = Grid.symmetric(w.abs().amax(1), bits, axis=0)
    torch.testing.assert_close(grid.fake(w).abs().amax(1), w.abs().amax(1))


def test_rounding_is_off_by_half_a_step_at_most() -> None:
    x = torch.linspace(-1, 2, 997, dtype=torch.float64)
    grid = Grid.affine(-1, 2)
    assert float((grid.fake(x) - x).abs().max()) <= float(grid.scale) * (0.5 + 1e-6)


def test_fake_is_dequantize_of_quantize() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    grid = Grid.symmetric(torch.tensor([1.0, 2.0, 0.5]), axis=1)
    assert torch.equal(grid.fake(x), grid.dequantize(grid.quantize(x)))


def test_binary_weights_are_plus_or_minus_their_scale() -> None:
    grid = Grid.binary(torch.tensor(0.25))
    assert grid.fake(torch.tensor([-3.0, 0.0, 0.1])).tolist() == [-0.25, 0.25, 0.25]


def test_int16_activations_are_symmetric() -> None:
    grid = Grid.affine(-1.0, 2.0, bits=16)
    assert (grid.zero_point, grid.low, grid.high) == (0, -32768, 32767)


def test_a_power_of_two_grid_is_no_narrower() -> None:
    grid = Grid.affine(-1.0, 2.0)
    rounded = grid.power_of_two()
    assert math.log2(float(rounded.scale)).is_integer()
    assert rounded.scale >= grid.scale


def test_a_grid_survives_json() -> None:
    grid = Grid.symmetric(torch.rand(5) + 0.1, axis=0)
    assert Grid.from_json(grid.to_json()).same(grid)


@pytest.mark.parametrize("content", [{}, None, {"scale": [1.0], "axis": None}])
def test_what_is_no_grid_is_refused(content: object) -> None:
    with pytest.raises(InputError, match="does not describe a grid"):
        Grid.from_json(content)


def test_a_range_with_nan_is_refused() -> None:
    with pytest.raises(InputError, match="no range"):
        Grid.affine(math.nan, 1.0)


@pytest.mark.parametrize("real", [1e-6, 0.00037, 0.25, 0.4999999999, 0.75, 1.0, 3.7, 1000.0])
def test_a_multiplier_is_its_number_to_31_bits(real: float) -> None:
    assert Multiplier.of(real).real == pytest.approx(real, rel=2**-30)


def test_a_multiplier_too_small_is_zero() -> None:
    assert Multiplier.of(1e-12) == Multiplier(0, 0)


def _exact(accumulator: int, m: Multiplier) -> int:
    """The rule of gemmlowp, one number at a time, in Python's own integers and fractions."""
    shifted = max(INT32_MIN, min(INT32_MAX, accumulator << max(m.shift, 0)))
    product = shifted * m.multiplier + (2**30 if shifted * m.multiplier >= 0 else 1 - 2**30)
    high = abs(product) // 2**31 * (1 if product >= 0 else -1)
    exact = Fraction(high, 2 ** max(-m.shift, 0))
    whole = math.floor(abs(exact) + Fraction(1, 2))
    return whole if exact >= 0 else -whole


@pytest.mark.parametrize("real", [0.0003, 0.25, 0.5, 0.731, 1.9, 6.0])
def test_rescaling_is_bit_exact(real: float) -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(-(2**27), 2**27, (300,), generator=generator)
    accumulator = torch.cat([random, torch.arange(-40, 40), torch.tensor([INT32_MIN, INT32_MAX])])
    m = Multiplier.of(real)
    found = rescale(accumulator, *multipliers(torch.tensor(real, dtype=torch.float64)))
    assert found.tolist() == [_exact(int(a), m) for a in accumulator]


def test_requantizing_is_within_one_step_of_the_real_number() -> None:
    grid = Grid.affine(-1.0, 2.0)
    accumulator = torch.arange(-5000, 5000, 7)
    real = torch.tensor(0.0123, dtype=torch.float64)
    exact = (accumulator * real + grid.zero_point).clamp(grid.low, grid.high)
    rounded_twice = 0.5 + 2.0 ** (Multiplier.of(float(real)).shift - 1)
    assert float((requantize(accumulator, real, grid) - exact).abs().max()) <= rounded_twice


def test_requantizing_per_channel_uses_each_scale() -> None:
    accumulator = torch.full((1, 2, 3), 100)
    real = torch.tensor([0.1, 0.5], dtype=torch.float64)
    grid = _grid()
    assert requantize(accumulator, real, grid)[0, :, 0].tolist() == [10, 50]


def test_a_bias_lies_on_the_grid_of_the_accumulator() -> None:
    source = Grid.affine(0.0, 1.0)
    weight = Grid.symmetric(torch.tensor([1.0, 2.0]), axis=0)
    grid = bias_grid(source, weight)
    torch.testing.assert_close(grid.scale, source.scale * weight.scale, rtol=1e-7, atol=0)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 16])
@pytest.mark.parametrize("count", [1, 3, 8, 33])
def test_packed_integers_come_back(bits: int, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    high = 2 ** (bits - 1) - 1
    q = torch.randint(-high, high + 1, (count,), generator=generator)
    q = 2 * torch.randint(0, 2, (count,), generator=generator) - 1 if bits == 1 else q
    data = packed(q, bits)
    assert torch.equal(unpacked(data, bits, (count,)).long(), q)
    assert data.numel() * data.element_size() == packed_bytes(count, bits)

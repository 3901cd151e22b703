"""Formats: what integers stand for, how they are rounded, and how sums are brought back to 8 bits.

Everything about rounding is said here once. The integer reference, the compiler and the simulation
follow it bit for bit; ONNX Runtime, which rescales in floats, may differ by one step.

- **Rounding** is to the nearest integer, halves away from zero, as C's `round`.
- **A grid** maps an integer q to `(q - zero_point) * scale`. Scales are float32 numbers, held in
  float64, so that every runtime has the very same ones.
- **A sum** of products is an int32 accumulator on the grid of scale `s_input * s_weight` with zero
  point 0; so is the bias. `requantize` brings it to the next grid by a fixed-point multiplier: 31
  bits and a shift, the rule of gemmlowp and TensorFlow Lite.
- **A sum of products of 16 bits** has 64 bits; its multiplier has 16 (`rescale_wide`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from penjing.decode import decode
from penjing.errors import InputError

INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)
MAX_BITS = 32
MOST_WIDE_SHIFT = 7
"""Largest shift to the left of a sum of 64 bits, so that products stay within them."""

_Q31 = 31
_LARGEST_SHIFT = 30
_Q15 = 15
_REDUCED_MAX = 2**15 - 1
_BYTE = 8
_LARGEST_BIAS = 2.0**29  # steps; leaves room for sums, for correcting it, and for rounding
_LARGEST_SUM = 2.0**30
_SMALLEST_STEP = 2.0**-100  # far above the smallest normal float32, far below any real step
_BELOW_HALF = 0.5 - 2.0**-25
"""The float32 below 0.5: added before truncation, it rounds 0.5 up and its own neighbour down."""


def round_away(x: Tensor) -> Tensor:
    """Round to the nearest integer, halves away from zero.

    Args:
        x: Floats.

    Returns:
        Whole numbers in the dtype of `x`, float32 or float64.

    Source:
        C99 `round`; torch's own `round` takes halves to even.

    Example:
        >>> round_away(torch.tensor([-2.5, -0.4, 0.5, 1.5])).tolist()
        [-3.0, -0.0, 1.0, 2.0]
    """
    below_half = math.nextafter(0.5, 0.0) if x.dtype == torch.float64 else _BELOW_HALF
    half = torch.tensor(below_half, dtype=x.dtype, device=x.device)
    return torch.copysign(half, x).add_(x).trunc_()


def nearest(x: Tensor, step: Tensor, zero_point: int | Tensor, low: int, high: int) -> Tensor:
    """The integers nearest to floats, as whole numbers in floats.

    Args:
        x: Floats; divided in their own dtype, as runtimes do.
        step: Broadcast against `x`, in its dtype.
        zero_point: The integer that stands for zero.
        low: Smallest integer.
        high: Largest integer.

    Returns:
        Whole numbers in [low, high], shape and dtype of `x`.
    """
    return (round_away(x / step) + zero_point).clamp(low, high)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Grid:
    """The numbers that an integer tensor can stand for: `(q - zero_point) * scale`.

    Args:
        scale: Step between two numbers, float64 holding float32 values; shape () for one per
            tensor, `(C,)` for one per position of dimension `axis`. Positive.
        zero_point: The integer that stands for zero.
        low: Smallest integer.
        high: Largest integer.
        bits: Bits that a stored integer takes.
        axis: Dimension with a scale each, None for one scale.
    """

    scale: Tensor
    zero_point: int = 0
    low: int = -128
    high: int = 127
    bits: int = 8
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scale.dtype != torch.float64 or not bool((self.scale > 0).all()):
            raise InputError(f"a grid has positive float64 scales, not {self.scale}")
        if not self.low <= self.zero_point <= self.high or not 1 <= self.bits <= MAX_BITS:
            raise InputError(
                f"zero point {self.zero_point} of a grid of {self.bits} bits lies outside "
                f"[{self.low}, {self.high}]"
            )

    @classmethod
    def affine(cls, minimum: float, maximum: float, bits: int = 8) -> Self:
        """The grid of an activation whose values lie in a range, which is widened to hold zero.

        Args:
            minimum: Smallest value.
            maximum: Largest value.
            bits: 8 for [-128, 127] with a free zero point; more than 8 for a symmetric grid, as
                runtimes have int16 activations.

        Returns:
            A grid with one scale.

        Raises:
            InputError: The range is not finite or upside down.
        """
        if not (math.isfinite(minimum) and math.isfinite(maximum)) or minimum > maximum:
            raise InputError(f"the range [{minimum}, {maximum}] is no range of numbers")
        minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
        high = 2 ** (bits - 1) - 1
        if bits > _BYTE:
            scale = _scale(torch.tensor(max(-minimum, maximum)) / high)
            return cls(scale=scale, low=-high - 1, high=high, bits=bits)
        low = -high - 1
        scale = _scale(torch.tensor((maximum - minimum) / (high - low), dtype=torch.float64))
        zero = int(round_away(low - minimum / scale).clamp(low, high))
        return cls(scale=scale, zero_point=zero, low=low, high=high, bits=bits)

    @classmethod
    def symmetric(cls, largest: Tensor, bits: int = 8, axis: int | None = None) -> Self:
        """The grid of weights, on which zero is zero and -x is there for every x.

        Args:
            largest: Largest magnitude, shape () or one per channel `(C,)`.
            bits: Bits per weight, 2 or more: integers in [1 - 2^(bits-1), 2^(bits-1) - 1]; 2 bits
                are ternary weights.
            axis: Dimension of the channels.

        Returns:
            A grid.
        """
        high = 2 ** (bits - 1) - 1
        return cls(scale=_scale(largest / high), low=-high, high=high, bits=bits, axis=axis)

    @classmethod
    def binary(cls, scale: Tensor, axis: int | None = None) -> Self:
        """The grid of binary weights: -scale and +scale, one bit each, no zero.

        Args:
            scale: Magnitude, shape () or `(C,)`.
            axis: Dimension of the channels.

        Returns:
            A grid of one bit.
        """
        return cls(scale=_scale(scale), low=-1, high=1, bits=1, axis=axis)

    @property
    def minimum(self) -> float:
        """Smallest number on the grid, of the widest channel."""
        return float((self.low - self.zero_point) * self.scale.max())

    @property
    def maximum(self) -> float:
        """Largest number on the grid, of the widest channel."""
        return float((self.high - self.zero_point) * self.scale.max())

    def steps(self, x: Tensor) -> Tensor:
        """Scale shaped to broadcast against `x`, in its dtype."""
        scale = self.scale.to(x.device, x.dtype)
        if self.axis is None:
            return scale
        return scale.view(*(-1 if d == self.axis else 1 for d in range(x.dim())))

    def quantize(self, x: Tensor) -> Tensor:
        """Nearest integers on the grid.

        Args:
            x: Floats; divided in their own dtype, as runtimes do.

        Returns:
            Integers within [low, high], shape of `x`, the smallest dtype that holds them.
        """
        dtype = (
            torch.int8 if self.bits <= _BYTE else torch.int16 if self.bits <= 16 else torch.int32
        )
        if self.bits == 1:
            return torch.where(x < 0, -1, 1).to(dtype)
        return self._nearest(x).to(dtype)

    def dequantize(self, q: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers that integers stand for.

        Args:
            q: Integers on this grid.
            dtype: Of the result.

        Returns:
            Floats, shape of `q`.
        """
        numbers = (q.to(torch.int64) - self.zero_point).to(dtype)
        return numbers * self.steps(numbers)

    def fake(self, x: Tensor) -> Tensor:
        """The nearest numbers on the grid: `dequantize(quantize(x))` without leaving floats."""
        if self.bits == 1:
            return torch.where(x < 0, -1.0, 1.0).to(x.dtype) * self.steps(x)
        return (self._nearest(x) - self.zero_point) * self.steps(x)

    def power_of_two(self) -> Grid:
        """The same grid with each scale rounded up to a power of two, for cores that only shift."""
        exponent = torch.ceil(torch.log2(self.scale) - 1e-9)
        fresh = replace(self, scale=torch.pow(2.0, exponent))
        if self.zero_point in {0, self.low, self.high}:
            return fresh
        zero = round_away(self.low - self.minimum / fresh.scale).clamp(self.low, self.high)
        return replace(fresh, zero_point=int(zero))

    def same(self, other: Grid) -> bool:
        """Whether both grids are the very same."""
        mine = (self.zero_point, self.low, self.high, self.bits, self.axis)
        theirs = (other.zero_point, other.low, other.high, other.bits, other.axis)
        return mine == theirs and torch.equal(self.scale, other.scale)

    def to_json(self) -> dict[str, Any]:
        """Content for JSON; `from_json` reads it back exactly."""
        return {
            "scale": self.scale.tolist(),
            "zero_point": self.zero_point,
            "low": self.low,
            "high": self.high,
            "bits": self.bits,
            "axis": self.axis,
        }

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The grid that `to_json` described.

        Args:
            content: Parsed JSON.

        Returns:
            An equal grid.

        Raises:
            InputError: The content is no grid.
        """
        try:
            whole = ("zero_point", "low", "high", "bits")
            numbers = {name: decode(int, content[name], f"grid.{name}") for name in whole}
            axis = None if content["axis"] is None else decode(int, content["axis"], "grid.axis")
            scale = torch.tensor(content["scale"], dtype=torch.float64)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"this does not describe a grid: {str(content)[:80]}") from error
        if scale.dim() != (axis is not None):
            raise InputError(f"a grid with axis {axis} has scales of shape {tuple(scale.shape)}")
        return cls(scale=scale, axis=axis, **numbers)

    def _nearest(self, x: Tensor) -> Tensor:
        return nearest(x, self.steps(x), self.zero_point, self.low, self.high)


def _scale(values: Tensor) -> Tensor:
    """Scales as float32 numbers in float64; a channel that is all zero gets 1."""
    smallest = torch.finfo(torch.float32).tiny
    scale = values.detach().cpu().double().float().double()
    return torch.where(scale >= smallest, scale, torch.ones_like(scale))


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A positive real number as `multiplier * 2^(shift - 31)`.

    Args:
        multiplier: In [2^30, 2^31), or 0 for a number that is too small.
        shift: To the left when positive.
    """

    multiplier: int
    shift: int

    @classmethod
    def of(cls, real: float) -> Self:
        """The nearest multiplier.

        Args:
            real: A number >= 0; for a layer `s_input * s_weight / s_output`, computed in float64.

        Returns:
            The multiplier.

        Raises:
            InputError: The number is negative or not finite.

        Source:
            TensorFlow Lite, `QuantizeMultiplier`.

        Example:
            >>> Multiplier.of(0.25)
            Multiplier(multiplier=1073741824, shift=-1)
        """
        if not math.isfinite(real) or real < 0:
            raise InputError(f"{real} cannot be a multiplier; it is a finite number from 0 up")
        fraction, shift = math.frexp(real)
        multiplier = math.floor(fraction * 2**_Q31 + 0.5)
        if multiplier == 2**_Q31:
            multiplier, shift = multiplier // 2, shift + 1
        if shift < -_Q31:
            return cls(0, 0)
        return cls(INT32_MAX, _LARGEST_SHIFT) if shift > _LARGEST_SHIFT else cls(multiplier, shift)

    @property
    def real(self) -> float:
        """The number it stands for."""
        return math.ldexp(self.multiplier, self.shift - _Q31)


def rescale(accumulator: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """`accumulator * multiplier * 2^(shift - 31)`, rounded, in integers alone.

    Args:
        accumulator: int32 values, in any integer dtype.
        multiplier: Fixed-point multipliers in [0, 2^31), int64, broadcast against the accumulator.
        shift: Their shifts, int64.

    Returns:
        int64 tensor of int32 values. A left shift that leaves int32 saturates.

    Source:
        gemmlowp, `SaturatingRoundingDoublingHighMul` and `RoundingDivideByPOT`, as TensorFlow Lite
        combines them in `MultiplyByQuantizedMultiplier`: the product is rounded to 31 bits with
        halves upward, then shifted right with halves away from zero.
    """
    left, right = shift.clamp_min(0), (-shift).clamp_min(0)
    shifted = (accumulator.long() << left).clamp(INT32_MIN, INT32_MAX)
    product = shifted * multiplier
    nudge = torch.where(product >= 0, 1 << (_Q31 - 1), 1 - (1 << (_Q31 - 1)))
    high = torch.div(product + nudge, 1 << _Q31, rounding_mode="trunc")
    mask = (torch.ones_like(right) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    return (high >> right) + ((high & mask) > threshold)


def reduced(multiplier: Tensor) -> Tensor:
    """Fixed-point multipliers of 31 fractional bits with the nearest 15, below 2^15."""
    return ((multiplier.long() + (1 << _Q15)) >> (_Q15 + 1)).clamp_max(_REDUCED_MAX)


def rescale_wide(accumulator: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """`accumulator * multiplier * 2^(shift - 31)` of sums of products of 16 bits.

    Args:
        accumulator: Within 2^47, in int64.
        multiplier: As `rescale` takes them; `reduced` to 15 bits.
        shift: At most `MOST_WIDE_SHIFT`.

    Returns:
        int64 tensor; rounded once, halves upward.

    Source:
        TensorFlow Lite, `MultiplyByQuantizedMultiplier` of 64-bit numbers.

    Example:
        >>> one = torch.tensor(1)
        >>> rescale_wide(torch.tensor([3, -3, 5]), one << 30, 0 * one).tolist()
        [2, -1, 3]
    """
    down = _Q15 - shift.long()
    return (accumulator.long() * reduced(multiplier) + (1 << (down - 1))) >> down


def multipliers(real: Tensor) -> tuple[Tensor, Tensor]:
    """Multipliers and shifts, int64, of real numbers, in their shape."""
    found = [Multiplier.of(float(r)) for r in real.flatten().tolist()]
    return tuple(
        torch.tensor([getattr(m, key) for m in found], dtype=torch.int64).view(real.shape)
        for key in ("multiplier", "shift")
    )  # type: ignore[return-value] # two tensors


def requantize(accumulator: Tensor, real: Tensor, grid: Grid, dim: int = 1) -> Tensor:
    """Bring accumulators to a grid of activations.

    Args:
        accumulator: int32 values, in any integer dtype; sums of 64 bits for a grid of 16.
        real: `s_input * s_weight / s_output` in float64, shape () or one per channel.
        grid: Where they go; one scale.
        dim: Dimension of the accumulator along which channels lie.

    Returns:
        Integers on the grid, in its dtype: rescaled, moved by the zero point, clamped.
    """
    multiplier, shift = multipliers(real)
    if real.dim():
        shape = [1] * accumulator.dim()
        shape[dim] = -1
        multiplier, shift = multiplier.view(shape), shift.view(shape)
    rule = rescale if grid.bits <= _BYTE else rescale_wide
    q = rule(accumulator, multiplier, shift) + grid.zero_point
    return q.clamp(grid.low, grid.high).to(torch.int8 if grid.bits <= _BYTE else torch.int16)


def bias_grid(source: Grid, weight: Grid) -> Grid:
    """The grid of a layer's accumulator and bias: int32, `s_input * s_weight`, zero point 0."""
    axis = None if weight.axis is None else 0
    scale = (source.scale * weight.scale).float().double()
    return Grid(scale=scale, low=INT32_MIN, high=INT32_MAX, bits=MAX_BITS, axis=axis)


def fitting(source: Grid, weight: Grid, values: Tensor, bias: Tensor | None) -> Grid:
    """The grid of a weight, made coarser per channel where sums or bias would leave 32 bits.

    A bias of many steps stands beside weights that hardly matter: in a channel that is nearly dead,
    the step `s_input * s_weight` is so small that the bias overflows. Rounding such weights to a
    coarser grid costs less than cutting the bias off.

    Args:
        source: Of what the layer reads.
        weight: As the weight alone would have it.
        values: The weight.
        bias: Of the layer, per channel; in that channel order.

    Returns:
        `weight` itself where everything fits; else scales by which a bias takes at most 2^29 steps,
        the largest possible sum of products of 8 bits 2^30, and a step is a normal float32.

    Example:
        >>> x, w = Grid.affine(-1, 1), Grid.symmetric(torch.tensor([1e-9]), axis=0)
        >>> fitted = fitting(x, w, torch.tensor([[1e-9]]), torch.tensor([1.0]))
        >>> int(bias_grid(x, fitted).quantize(torch.tensor([1.0]).double())) <= 2**29
        True
    """
    step = source.scale * weight.scale
    factor = (_SMALLEST_STEP / step).clamp_min(1.0)
    if bias is not None:
        largest = bias.detach().double().abs()
        if weight.axis is None or len(largest) != step.numel():
            largest = largest.max()
        factor = torch.maximum(factor, largest / step / _LARGEST_BIAS)
    if source.bits <= _BYTE:
        q = weight.quantize(values.detach().double()).long().abs()
        sums = q.movedim(weight.axis, 0).flatten(1).sum(1) if weight.axis is not None else q.sum()
        factor = torch.maximum(factor, sums * (source.high - source.low) / _LARGEST_SUM)
    if bool((factor <= 1).all()):
        return weight
    return replace(weight, scale=_scale(weight.scale * factor))


def packed(q: Tensor, bits: int) -> Tensor:
    """Integers as they lie in memory and files, without gaps, the first in the lowest bits.

    Args:
        q: Integers: 1 bit (-1 and 1), 2 bits (-1, 0, 1), 4 bits (-8 to 7), or 8, 16 and 32 bits,
            which stay as they are.
        bits: Bits per integer; 3 and 5 to 7 take the next larger size.

    Returns:
        uint8, one dimension, the last byte filled up with zeros; or `q` itself from 8 bits on.

    Example:
        >>> packed(torch.tensor([1, -1, 7]), 4).tolist()
        [241, 7]
    """
    width = stored_bits(bits)
    if width >= _BYTE:
        return q.to({8: torch.int8, 16: torch.int16, 32: torch.int32}[width])
    codes = (q.flatten() > 0).long() if width == 1 else q.flatten().long() & ((1 << width) - 1)
    each = _BYTE // width
    codes = torch.cat([codes, codes.new_zeros(-len(codes) % each)]).view(-1, each)
    shifts = torch.arange(each) * width
    return (codes << shifts).sum(1).to(torch.uint8)


def unpacked(data: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """What `packed` was given.

    Args:
        data: What it returned.
        bits: As it was told.
        shape: Of the integers.

    Returns:
        Integers of this shape; int8 below 8 bits.

    Raises:
        InputError: There are fewer integers than the shape holds.
    """
    width = stored_bits(bits)
    if width >= _BYTE:
        return data.view(shape)
    each, count = _BYTE // width, math.prod(shape)
    if len(data) != -(-count // each):
        raise InputError(f"{len(data)} bytes do not hold {count} integers of {width} bits")
    codes = (data.long()[:, None] >> (torch.arange(each) * width)) & ((1 << width) - 1)
    codes = codes.flatten()[:count]
    signed = 2 * codes - 1 if width == 1 else codes - ((codes >> (width - 1)) << width)
    return signed.to(torch.int8).view(shape)


def stored_bits(bits: int) -> int:
    """Bits that an integer of `bits` takes in memory: 1, 2, 4, 8, 16 or 32."""
    return next(width for width in (1, 2, 4, 8, 16, 32) if bits <= width)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` packed integers.

    Example:
        >>> packed_bytes(3, 4)
        2
    """
    return -(-count * stored_bits(bits) // _BYTE)

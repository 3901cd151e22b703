"""Moments: mean and variance of every channel brought back, where no Gram matrix fits.

Suffix: C = channels of a layer's output, groups one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from penjing.recovery.ridge import Solution, Start

Fit = Literal["least_squares", "variance", "bias"]

SHARES: Mapping[Fit, tuple[float, ...]] = {
    "least_squares": (1.0, 0.5, 0.0),
    "variance": (1.0,),
    "bias": (0.0,),
}  # of the gain, in the logarithm; 0 moves the mean alone
DEAD = 1e-12  # a variance below this share of the wanted one is no signal to be made louder


@dataclass(eq=False, slots=True)
class Moments:
    """Sums over positions, per channel and in float64, of what a layer gives and what it should.

    Args:
        mine: What it gives, `(C,)`.
        wanted: What it should give.
        mine_squared: Squares of the one.
        wanted_squared: Squares of the other.
        both: Products of the two.
        rows: Number of positions.
    """

    mine: Tensor
    wanted: Tensor
    mine_squared: Tensor
    wanted_squared: Tensor
    both: Tensor
    rows: int = 0

    @classmethod
    def zeros(cls, channels: int, device: torch.device | str = "cpu") -> Self:
        """Empty sums."""
        empty = [torch.zeros(channels, dtype=torch.float64, device=device) for _ in range(5)]
        mine, wanted, mine_squared, wanted_squared, both = empty
        return cls(mine, wanted, mine_squared, wanted_squared, both)

    def add(self, mine_CR: Tensor, wanted_CR: Tensor) -> None:
        """Add positions in place."""
        mine, wanted = mine_CR.double(), wanted_CR.double()
        self.mine += mine.sum(1)
        self.wanted += wanted.sum(1)
        self.mine_squared += mine.square().sum(1)
        self.wanted_squared += wanted.square().sum(1)
        self.both += (mine * wanted).sum(1)
        self.rows += mine.shape[1]

    def __add__(self, other: Self) -> Self:
        """Sums over the positions of both."""
        return type(self)(
            self.mine + other.mine,
            self.wanted + other.wanted,
            self.mine_squared + other.mine_squared,
            self.wanted_squared + other.wanted_squared,
            self.both + other.both,
            self.rows + other.rows,
        )

    def scaled(self, scale_C: Tensor) -> Self:
        """The sums as if the layer gave `scale` times as much."""
        return type(self)(
            scale_C * self.mine,
            self.wanted,
            scale_C.square() * self.mine_squared,
            self.wanted_squared,
            scale_C * self.both,
            self.rows,
        )

    def variances(self, free: bool) -> tuple[Tensor, Tensor]:
        """Of what the layer gives and of what it should; about zero where no mean can be moved."""
        rows = max(self.rows, 1)
        means = (self.mine / rows, self.wanted / rows) if free else (0.0, 0.0)
        squares = (self.mine_squared / rows, self.wanted_squared / rows)
        mine, wanted = (
            (square - torch.as_tensor(mean).square()).clamp_min(0)
            for square, mean in zip(squares, means, strict=True)
        )
        return mine, wanted

    def after(self, gain_C: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of what the layer gives once its weight is `gain` times as large.

        Args:
            gain_C: Of the weight.
            bias_C: Of the layer, which stays.
        """
        rows = max(self.rows, 1)
        mean, variance = self.mine / rows, self.variances(free=True)[0]
        return gain_C * (mean - bias_C) + bias_C, gain_C.square() * variance

    def error(self, gain_C: Tensor, shift_C: Tensor) -> float:
        """Sum of squared errors of `gain * mine + shift`."""
        squares = gain_C.square() * self.mine_squared + self.rows * shift_C.square()
        crossed = gain_C * shift_C * self.mine - gain_C * self.both - shift_C * self.wanted
        return float((squares + 2 * crossed + self.wanted_squared).sum())


def match(fitted: Moments, held: Moments, start: Start, how: Fit) -> tuple[Solution, Tensor]:
    """Scale and shift every channel so that its variance and mean are those that it should have.

    Args:
        fitted: Sums over the positions to fit on, in units of the norm's output.
        held: Sums over those held out; where there are none, the match is judged on its own.
        start: The layer as it is.
        how: "variance" matches both, "bias" the mean alone. With "least_squares", which cannot be
            done, how much of the gain is taken is chosen on held-out positions, from all of it to
            the mean alone, and nothing is done where none of these is better.

    Returns:
        The layer with other scales and intercepts, or as it was, with a reason; the gain `(C,)`.

    Source:
        Jordan et al. 2023, arXiv:2211.08403 (REPAIR), there for interpolated networks; the mean
        alone is the bias correction of Nagel et al. 2019, arXiv:1906.04721.
    """
    judge = held if held.rows else fitted
    groups, outputs, _ = start.weight.shape
    same = torch.ones_like(fitted.mine)
    energy = max(float(judge.variances(start.free)[1].sum()) * judge.rows, 1e-30)
    before = judge.error(same, same - 1) / energy
    left = Solution(before, before, None, start.weight, start.intercept)
    whole = fitted + held
    if not fitted.rows or not bool(torch.isfinite(whole.mine_squared).all()):
        return replace(left, reason="too few samples, or values that are not finite"), same
    errors = {s: judge.error(*_affine(fitted, start.free, s)) / energy for s in SHARES[how]}
    share = min(errors, key=lambda s: errors[s])
    if how == "least_squares" and errors[share] >= before:
        return replace(left, reason="no match of moments is better on held-out samples"), same
    gain, shift = _affine(whole, start.free, share)
    gain_GV = gain.view(groups, outputs)
    intercept = start.intercept * gain_GV + shift.view(groups, outputs)
    weight = start.weight * gain_GV[:, :, None]
    return Solution(before, errors[share], share, weight, intercept), gain


def _affine(moments: Moments, free: bool, share: float) -> tuple[Tensor, Tensor]:
    """Gain and shift per channel; the gain to the power of `share`."""
    mine, wanted = moments.variances(free)
    heard = mine > DEAD * wanted
    gain = torch.where(heard, wanted / torch.where(heard, mine, 1.0), 1.0).pow(share / 2)
    shift = (moments.wanted - gain * moments.mine) / max(moments.rows, 1)
    return gain, shift if free else torch.zeros_like(shift)

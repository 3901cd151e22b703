"""Grids that are trained along: fake quantization with learned steps, or with ranges that follow.

Forward, a value is brought to its grid exactly as `Grid.fake` does it. Backward, rounding is taken
for the identity within the grid's limits; beyond them nothing flows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from penjing.quantization.formats import INT32_MAX, INT32_MIN, Grid, nearest, round_away

MOMENTUM = 0.01  # of a batch in the moving range, as in torch.ao's MovingAverageMinMaxObserver
_SMALLEST_RATIO = 1e-3  # of the step it started from: a step is positive


class TrainedGrid(nn.Module, ABC):
    """A grid inside a network in training. Called on a tensor, it brings it to the grid.

    Args:
        grid: Where it starts.
        power_of_two: Whether steps stay powers of two.
    """

    zero: Tensor

    def __init__(self, grid: Grid, *, power_of_two: bool = False) -> None:
        super().__init__()
        self.low, self.high, self.bits, self.axis = grid.low, grid.high, grid.bits, grid.axis
        self.power_of_two = power_of_two
        self.frozen = False
        whole = torch.tensor(grid.zero_point)  # integers are not averaged over processes
        self.register_buffer("zero", whole)

    @property
    @abstractmethod
    def step(self) -> Tensor:
        """Present steps, float32, shape () or (channels,)."""

    @property
    def grid(self) -> Grid:
        """The grid as it is now."""
        return Grid(
            scale=self.step.detach().cpu().double(),
            zero_point=int(self.zero),
            low=self.low,
            high=self.high,
            bits=self.bits,
            axis=self.axis,
        )

    def freeze(self, *, frozen: bool) -> None:
        """Stop training the steps, or go on."""
        self.frozen = frozen

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid.

        Args:
            x: Floats.

        Returns:
            float32, shape of `x`.
        """
        step = self.step
        if self.axis is not None:
            step = step.view(*(-1 if d == self.axis else 1 for d in range(x.dim())))
        zero = self.zero.clone()  # it may move again before gradients are asked for
        limits = (self.low, self.high, self.bits)
        fake: Tensor = _Rounded.apply(x.float(), step, zero, *limits)  # type: ignore[no-untyped-call]
        return fake


class LearnedGrid(TrainedGrid):
    """A grid whose steps are parameters; zero points stay where they were.

    A step is held as a ratio to the one it started from. Its gradient is scaled so that plain
    gradient descent moves the step as LSQ does; and an optimizer of unit-sized updates, such as
    Adam, moves it by a share of itself, where on the bare step it would leap.

    Args:
        grid: Where it starts.
        per_step: Values that one step serves, per sample.
        power_of_two: Whether the step is rounded up to a power of two; its gradient passes through.

    Source:
        Esser et al. 2020, arXiv:1902.08153: gradients times 1 / sqrt(N Q). Per channel, N is the
        weights of a channel; with a zero point, Q is the larger side of the grid.
    """

    start: Tensor

    def __init__(self, grid: Grid, per_step: int, *, power_of_two: bool = False) -> None:
        super().__init__(grid, power_of_two=power_of_two)
        self.register_buffer("start", grid.scale.float())
        self.ratio = nn.Parameter(torch.ones_like(grid.scale, dtype=torch.float32))
        levels = max(grid.high - grid.zero_point, grid.zero_point - grid.low)
        self.share = 1 / math.sqrt(max(per_step, 1) * levels)

    @property
    def step(self) -> Tensor:
        """Present steps."""
        settings = (self.share, self.power_of_two)
        step: Tensor = _Step.apply(self.ratio, self.start, *settings)  # type: ignore[no-untyped-call]
        return step

    def freeze(self, *, frozen: bool) -> None:
        """Stop training the steps, or go on."""
        super().freeze(frozen=frozen)
        self.ratio.requires_grad_(not frozen)


class FixedGrid(TrainedGrid):
    """A grid that the integer form of an op prescribes, such as that of a softmax; it stays.

    Args:
        grid: The grid.
    """

    held: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.register_buffer("held", grid.scale.float())

    @property
    def step(self) -> Tensor:
        """Its step."""
        return self.held.clone()


class MovingGrid(TrainedGrid):
    """The grid of an activation whose range is a moving average, until it is frozen.

    Args:
        grid: Where it starts.
        power_of_two: Whether the step is rounded up to a power of two.
    """

    minimum: Tensor
    maximum: Tensor
    held: Tensor

    def __init__(self, grid: Grid, *, power_of_two: bool = False) -> None:
        super().__init__(grid, power_of_two=power_of_two)
        self.register_buffer("minimum", torch.tensor(grid.minimum))
        self.register_buffer("maximum", torch.tensor(grid.maximum))
        self.register_buffer("held", grid.scale.float())

    @property
    def step(self) -> Tensor:
        """Present step."""
        return self.held.clone()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, which in training follows it first."""
        if self.training and not self.frozen:
            self._follow(x.detach().float())
        return super().forward(x)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.minimum.lerp_(low.clamp_max(0), MOMENTUM)
        self.maximum.lerp_(high.clamp_min(0), MOMENTUM)
        grid = Grid.affine(float(self.minimum), float(self.maximum), self.bits)
        grid = grid.power_of_two() if self.power_of_two else grid
        self.held.copy_(grid.scale)
        self.zero.fill_(grid.zero_point)


class FollowingGrid(TrainedGrid):
    """The grid of a weight whose steps follow its largest magnitudes, until it is frozen.

    Args:
        grid: Where it starts.
        weight: The weight; the share of its largest magnitude that the grid covers stays.
        power_of_two: Whether steps are rounded up to powers of two.
    """

    held: Tensor
    covered: Tensor

    def __init__(self, grid: Grid, weight: Tensor, *, power_of_two: bool = False) -> None:
        super().__init__(grid, power_of_two=power_of_two)
        self.register_buffer("held", grid.scale.float())
        largest = self._largest(weight.detach().float())
        covered = torch.where(largest > 0, self.held / largest.clamp_min(1e-30), 0.0)
        self.register_buffer("covered", covered)

    @property
    def step(self) -> Tensor:
        """Present steps."""
        return self.held.clone()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, which in training follows it first."""
        if self.training and not self.frozen:
            with torch.no_grad():
                fresh = self.covered * self._largest(x.detach().float())
                fresh = _power_of_two(fresh) if self.power_of_two else fresh
                self.held.copy_(torch.where(fresh > 0, fresh, self.held))
        return super().forward(x)

    def _largest(self, weight: Tensor) -> Tensor:
        if self.axis is None:
            return weight.abs().max()
        return weight.abs().movedim(self.axis, 0).flatten(1).amax(1)


class BiasGrid(nn.Module):
    """Brings a bias to the grid of its layer's sums, `s_input * s_weight`.

    Args:
        source: Grid of what the layer reads.
        weight: Grid of its weight.
    """

    def __init__(self, source: TrainedGrid, weight: TrainedGrid) -> None:
        super().__init__()
        self.grids = (source, weight)  # a tuple, so that they are not its children as well

    def forward(self, bias: Tensor) -> Tensor:
        """`bias` on the grid; its gradient passes through.

        Args:
            bias: Per channel.

        Returns:
            float32, shape of `bias`.
        """
        source, weight = self.grids
        with torch.no_grad():
            scale = (source.step.double() * weight.step.double()).float().double()
            steps = round_away(bias.double() / scale).clamp(INT32_MIN, INT32_MAX)
        return (steps * scale).float() + (bias - bias.detach())


class ZerosKept(nn.Module):
    """Keeps the zeros of a weight: they get no gradient, and weight decay cannot move them.

    Args:
        weight: Its zeros are those to keep.
    """

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", weight.detach() != 0)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its zeros."""
        return weight * self.mask


class _Rounded(torch.autograd.Function):
    """A value on its grid; gradients as LSQ has them."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the fields of a grid
        ctx: Any, x: Tensor, step: Tensor, zero: Tensor, low: int, high: int, bits: int
    ) -> Tensor:
        ctx.save_for_backward(x, step, zero)
        ctx.limits = (low, high, bits)
        if bits == 1:
            return torch.where(x < 0, -1.0, 1.0) * step
        return (nearest(x, step, zero, low, high) - zero) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, step, zero = ctx.saved_tensors
        low, high, bits = ctx.limits
        if bits == 1:
            inside, slope = torch.ones_like(x, dtype=torch.bool), torch.where(x < 0, -1.0, 1.0)
        else:
            place = x / step
            inside = (place >= low - zero) & (place <= high - zero)
            slope = nearest(x, step, zero, low, high) - zero - place * inside
        of_step = None
        if ctx.needs_input_grad[1]:
            of_step = (gradient * slope).sum_to_size(step.shape)
        return gradient * inside, of_step, None, None, None, None


class _Step(torch.autograd.Function):
    """A step from its ratio; see `LearnedGrid` for its gradient."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor, start: Tensor, share: float, power_of_two: bool) -> Tensor:
        ctx.save_for_backward(start)
        ctx.share = share
        step = start * ratio.clamp_min(_SMALLEST_RATIO)
        return _power_of_two(step) if power_of_two else step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (start,) = ctx.saved_tensors
        return gradients[0] * ctx.share / start, None, None, None


def _power_of_two(step: Tensor) -> Tensor:
    """Rounded up, as `Grid.power_of_two` does it."""
    return torch.pow(2.0, torch.ceil(torch.log2(step.double()) - 1e-9)).float()

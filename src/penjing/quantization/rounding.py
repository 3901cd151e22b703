"""Rounding: from weights to numbers on a grid; zeros stay zero.

Suffixes: G = convolution groups, V = outputs of one group, U = unknowns of one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from penjing.quantization.formats import Grid

Rounding = Literal["nearest", "gptq", "adaround"]
ROUNDINGS = ("nearest", "gptq", "adaround")

_CANDIDATES = 40  # scales tried for a coarse grid
_SMALLEST = 0.4  # of the largest magnitude
_FINE_BITS = 7  # from here on nothing is gained by clipping weights
_BETA = (20.0, 2.0)  # AdaRound's annealing, start and end
_ZETA, _GAMMA = 1.1, -0.1  # stretch of its sigmoid


@torch.no_grad()
def weight_grid(weight: Tensor, bits: int, axis: int | None) -> Grid:
    """The grid of a weight: the largest magnitude, or less where that rounds better.

    Args:
        weight: Floats.
        bits: 1 to 8.
        axis: Dimension with a scale each, None for one scale.

    Returns:
        A symmetric grid. Binary weights take the mean magnitude (XNOR-Net), ternary and other
        coarse ones the scale with the least squared error among 40.
    """
    w = weight.detach().double()
    rows = w.flatten()[None] if axis is None else w.movedim(axis, 0).flatten(1)
    if bits == 1:
        scale = rows.abs().mean(1)
        return Grid.binary(scale[0] if axis is None else scale, axis)
    largest = rows.abs().amax(1)
    if bits < _FINE_BITS:
        largest = _least_squared(rows, largest, bits)
    return Grid.symmetric(largest[0] if axis is None else largest, bits, axis)


def _least_squared(rows: Tensor, largest: Tensor, bits: int) -> Tensor:
    best, least = largest, torch.full_like(largest, float("inf"))
    for i in range(_CANDIDATES):
        tried = largest * (1 - (1 - _SMALLEST) * i / _CANDIDATES)
        error = (Grid.symmetric(tried, bits, 0).fake(rows) - rows).square().sum(1)
        best = torch.where(error < least, tried, best)
        least = torch.minimum(error, least)
    return best


@torch.no_grad()
def gptq(w_GVU: Tensor, step_GV: Tensor, grid: Grid, xx_GUU: Tensor, share: float = 0.01) -> Tensor:
    """Round one input after the other and let the rest make up for the error.

    Args:
        w_GVU: Weights as matrices, float64.
        step_GV: Scale of each output's row.
        grid: Gives the limits of the integers.
        xx_GUU: Gram matrix of the inputs.
        share: Damping, as a share of the mean diagonal.

    Returns:
        Weights on the grid, `(G, V, U)`; what was zero is zero.

    Source:
        Frantar et al. 2023, arXiv:2210.17323, with columns in the order of falling diagonals.
        Zeros are held at zero as in SparseGPT, arXiv:2301.00774.
    """
    order_GU = xx_GUU.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    back_GU = order_GU.argsort(1)
    w = _columns(w_GVU, order_GU).clone()
    zero = w == 0
    factor = _inverse_factor(xx_GUU, order_GU, share)
    if factor is None:
        return nearest(w_GVU, step_GV, grid)
    result = torch.empty_like(w)
    for u in range(w.shape[2]):
        column = w[:, :, u]
        q = (column / step_GV).round().clamp(grid.low, grid.high) * step_GV
        q = _signs(column, step_GV) if grid.bits == 1 else q
        q = torch.where(zero[:, :, u], 0.0, q)
        result[:, :, u] = q
        error = (column - q) / factor[:, u, u, None]
        w[:, :, u + 1 :] -= error[:, :, None] * factor[:, None, u, u + 1 :]
    return _columns(result, back_GU)


def nearest(w_GVU: Tensor, step_GV: Tensor, grid: Grid) -> Tensor:
    """Each weight to the nearest number of the grid."""
    if grid.bits == 1:
        return torch.where(w_GVU < 0, -1.0, 1.0) * step_GV[:, :, None]
    step = step_GV[:, :, None]
    return (w_GVU / step).round().clamp(grid.low, grid.high) * step


def _signs(column: Tensor, step: Tensor) -> Tensor:
    return torch.where(column < 0, -step, step)


def _columns(w_GVU: Tensor, order_GU: Tensor) -> Tensor:
    return torch.gather(w_GVU, 2, order_GU[:, None, :].expand_as(w_GVU))


def _inverse_factor(xx_GUU: Tensor, order_GU: Tensor, share: float) -> Tensor | None:
    """Upper Cholesky factor of the damped inverse, in the given order; None when singular."""
    picked = torch.gather(xx_GUU, 1, order_GU[:, :, None].expand_as(xx_GUU))
    h = torch.gather(picked, 2, order_GU[:, None, :].expand_as(picked))
    diagonal = h.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    diagonal += share * torch.where(mean > 0, mean, 1.0)
    lower, info = torch.linalg.cholesky_ex(h)
    if bool(info.any()):
        return None
    upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if bool(info.any()) or not bool(upper.isfinite().all()) else upper


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaRound:
    """Learn for each weight whether it goes up or down.

    Args:
        steps: Gradient steps.
        rate: Learning rate.
        weight: Of the term that pushes every choice to an end.

    Source:
        Nagel et al. 2020, arXiv:2004.10568. The squared error of the outputs is read off the Gram
        matrix, so a step costs no data; the activation behind the layer is not in it.
    """

    steps: int = 400
    rate: float = 0.02
    weight: float = 0.01

    def __call__(
        self, w_GVU: Tensor, step_GV: Tensor, grid: Grid, xx_GUU: Tensor, share: float = 0.01
    ) -> Tensor:
        """Round the weights.

        Args:
            w_GVU: Weights as matrices, float64.
            step_GV: Scale of each output's row.
            grid: Gives the limits of the integers.
            xx_GUU: Gram matrix of the inputs.
            share: Damping, as a share of the mean diagonal.

        Returns:
            Weights on the grid, `(G, V, U)`; what was zero is zero.
        """
        if grid.bits == 1:
            return nearest(w_GVU, step_GV, grid)
        step = step_GV[:, :, None]
        scaled = w_GVU / step
        down = scaled.floor()
        zero = w_GVU == 0
        h = xx_GUU.clone()
        h.diagonal(dim1=1, dim2=2).add_(share * h.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        energy = ((w_GVU @ h) * w_GVU).sum().clamp_min(1e-30) / w_GVU.numel()
        part = (scaled - down).clamp(1e-3, 1 - 1e-3)
        v = torch.logit((part - _GAMMA) / (_ZETA - _GAMMA))
        mean, square = torch.zeros_like(v), torch.zeros_like(v)
        for i in range(self.steps):
            soft = torch.sigmoid(v)
            up = (soft * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
            delta = torch.where(zero, 0.0, ((down + up).clamp(grid.low, grid.high) * step) - w_GVU)
            slope = (2 * delta @ h) * step / energy
            if i > self.steps // 5:
                slope = slope + self.weight * self._push(up, i)
            inside = (up > 0) & (up < 1)
            gradient = slope * soft * (1 - soft) * (_ZETA - _GAMMA) * inside
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient.square()
            corrected = square / (1 - 0.999 ** (i + 1))
            v = v - self.rate * mean / (1 - 0.9 ** (i + 1)) / (corrected.sqrt() + 1e-12)
        up = (torch.sigmoid(v) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1) >= 0.5
        chosen = (down + up).clamp(grid.low, grid.high) * step
        return _better(torch.where(zero, 0.0, chosen), nearest(w_GVU, step_GV, grid), w_GVU, h)

    def _push(self, up: Tensor, i: int) -> Tensor:
        """Slope of 1 - |2 up - 1|^beta, whose beta falls."""
        start, end = _BETA
        done = (i / self.steps - 0.2) / 0.8
        beta = end + 0.5 * (start - end) * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
        centred = 2 * up - 1
        return -2 * beta * centred.abs().clamp_min(1e-12) ** (beta - 1) * centred.sign()


def _better(one: Tensor, other: Tensor, w_GVU: Tensor, h_GUU: Tensor) -> Tensor:
    """Row by row whichever leaves the smaller error."""
    errors = [(((q - w_GVU) @ h_GUU) * (q - w_GVU)).sum(2, keepdim=True) for q in (one, other)]
    return torch.where(errors[0] < errors[1], one, other)

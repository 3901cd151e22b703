"""Least squares whose solution is zero outside a given support, for every output its own.

Suffixes: G = convolution groups, U = unknowns of a group, V = outputs of a group, S = unknowns in
the largest support.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.statistics.grams import Gram

MOST = 5e7  # elements of all factors together up to which they are kept
ROUNDS = 60  # of conjugate gradients, where the factors would be too large
ENOUGH = 1e-6  # relative residual at which they stop


class Supported:
    """Ridge least squares on a support, prepared once for several targets.

    Args:
        gram: Sums over rows.
        free: Whether there is an intercept, which is not damped.
        share: Damping as a share of the mean diagonal.
        support: Weights that may be other than zero, `(G, V, U)` bool.

    Source:
        Normal equations on each output's support, by Cholesky; conjugate gradients preconditioned
        by the diagonal (Hestenes and Stiefel 1952) where those are too many.
    """

    def __init__(self, gram: Gram, free: bool, share: float, support: Tensor) -> None:
        self.gram, self.free, self.support = gram, free, support
        xx = gram.centred().xx if free else gram.xx.clone()
        diagonal = xx.diagonal(dim1=1, dim2=2)
        diagonal += share * diagonal.mean(1, keepdim=True)
        self._xx = xx
        self._size = int(support.sum(2).max()) if support.numel() else 0
        self._factors: list[Tensor] = []
        self.regular = bool(xx.isfinite().all()) and bool((diagonal > 0).all())
        if self.regular and support[:, :, 0].numel() * self._size**2 <= MOST:
            self._factor()

    def solve(self, xy_GUV: Tensor, y_GV: Tensor) -> tuple[Tensor, Tensor]:
        """Weight `(G, V, U)` and intercept `(G, V)` for the sums of one target."""
        x, rows = self.gram.x, max(self.gram.rows, 1)
        if not self.free:
            return self._solve(xy_GUV.mT), torch.zeros_like(y_GV)
        weight = self._solve((xy_GUV - x[:, :, None] * y_GV[:, None, :] / rows).mT)
        return weight, (y_GV - (weight @ x[:, :, None])[:, :, 0]) / rows

    def _factor(self) -> None:
        """Cholesky factors of every output's own normal equations, `(V, S, S)` per group."""
        for group, own in enumerate(self._own()):
            wide = torch.nn.functional.pad(self._xx[group], (0, 1, 0, 1))
            equations = wide[own[:, :, None], own[:, None, :]]
            equations.diagonal(dim1=1, dim2=2).add_((own == wide.shape[0] - 1).double())
            factor, info = torch.linalg.cholesky_ex(equations)
            self.regular = self.regular and not bool(info.any())
            self._factors.append(factor)

    def _own(self) -> list[Tensor]:
        """Unknowns of every output, `(V, S)` per group; one past the last where there are fewer."""
        unknowns = self.support.shape[2]
        order = torch.arange(unknowns).where(self.support, unknowns).sort(2).values
        return list(order[:, :, : self._size])

    def _solve(self, target_GVU: Tensor) -> Tensor:
        if not self._factors:
            return self._iterated(target_GVU)
        wide = torch.nn.functional.pad(torch.zeros_like(target_GVU), (0, 1))
        target = torch.nn.functional.pad(target_GVU, (0, 1))
        for group, (own, factor) in enumerate(zip(self._own(), self._factors, strict=True)):
            part = target[group].gather(1, own)[:, :, None]
            wide[group].scatter_(1, own, torch.cholesky_solve(part, factor)[:, :, 0])
        return wide[:, :, :-1] * self.support

    def _iterated(self, target: Tensor) -> Tensor:
        """Conjugate gradients for all outputs side by side."""
        diagonal = self._xx.diagonal(dim1=1, dim2=2)[:, None, :]
        left = target * self.support
        least = ENOUGH**2 * left.square().sum(2, keepdim=True)
        solution, way = torch.zeros_like(target), left / diagonal
        size = (left * way).sum(2, keepdim=True)
        for _ in range(ROUNDS):
            if bool((left.square().sum(2, keepdim=True) <= least).all()):
                break
            ahead = (way @ self._xx) * self.support
            step = size / (way * ahead).sum(2, keepdim=True).clamp_min(1e-300)
            solution += step * way
            left = left - step * ahead
            eased = left / diagonal
            now = (left * eased).sum(2, keepdim=True)
            way = eased + now / size.clamp_min(1e-300) * way
            size = now
        return solution

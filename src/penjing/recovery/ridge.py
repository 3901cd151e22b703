"""Ridge least squares of one layer, its damping chosen on samples held out.

Suffixes: G = convolution groups, or experts; U = unknowns of a group; V = outputs of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penjing.graph.norms import Norm
from penjing.recovery.supported import Supported
from penjing.statistics.grams import Gram, Layer


@dataclass(frozen=True, slots=True)
class Start:
    """A layer before its repair, in units of its norm's output: `scale * layer(x)`.

    Args:
        weight: `(G, V, U)`, float64.
        intercept: `(G, V)`.
        scale: Scale of the norm per output, ones without one.
        shift: Shift of the norm per output, zeros without one; not part of `intercept`.
        free: Whether an intercept can be written back.
        support: Weights that may be other than zero, `(G, V, U)`; None where all may.
    """

    weight: Tensor
    intercept: Tensor
    scale: Tensor
    shift: Tensor
    free: bool
    support: Tensor | None = None

    @classmethod
    def of(cls, layer: Layer, norm: Norm | None, tensors: Mapping[str, Tensor]) -> Start:
        """A layer as it stands in a network, with the norm behind it."""
        weight = layer.matrix(tensors[layer.weight].double())
        groups, outputs, _ = weight.shape
        one = torch.ones(groups * outputs, dtype=torch.float64, device=weight.device)
        scale, shift = (one, one - 1) if norm is None else norm.affine(tensors)
        bias = one - 1 if layer.bias is None else tensors[layer.bias].double()
        scale_GV = scale.view(groups, outputs)
        return cls(
            weight * scale_GV[:, :, None],
            bias.view(groups, outputs) * scale_GV,
            scale,
            shift,
            norm is not None or layer.bias is not None,
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """A fit in units of the norm's output; no damping when the layer is better left alone."""

    before: float
    after: float
    damping: float | None
    weight: Tensor
    intercept: Tensor
    reason: str = ""


def fit(fitted: Gram, held: Gram, start: Start, dampings: Sequence[float]) -> Solution:
    """Choose the damping on held-out samples, then fit on all.

    Args:
        fitted: Sums over the rows to fit on.
        held: Sums over the rows held out; where there are none, the fit is judged on its own.
        start: The layer as it is.
        dampings: Ridge strengths to choose from, as shares of the mean diagonal.

    Returns:
        The best fit, or the layer as it was with a reason.
    """
    judge = held if held.rows else fitted
    energy = max(float((judge.centred() if start.free else judge).yy.sum()), 1e-30)

    def error(weight: Tensor, intercept: Tensor) -> float:
        return float(judge.squared_error(weight, intercept).sum()) / energy

    before = error(start.weight, start.intercept)
    left = Solution(before, before, None, start.weight, start.intercept)
    if not fitted.rows or not bool(torch.isfinite(fitted.xx).all()):
        return replace(left, reason="too few samples, or values that are not finite")
    errors = {}
    for share in dampings:
        ridge = ridge_of(fitted, start, share)
        if ridge.regular:
            errors[share] = error(*ridge.solve(fitted.xy, fitted.y))
    if not errors:
        return replace(left, reason="its Gram matrix is singular")
    damping = min(errors, key=lambda share: errors[share])
    if errors[damping] >= before:
        return replace(left, reason="no fit is better on held-out samples")
    both = fitted + held
    final = ridge_of(both, start, damping)
    if not final.regular:
        return replace(left, reason="its Gram matrix is singular")
    return Solution(before, errors[damping], damping, *final.solve(both.xy, both.y))


def ridge_of(gram: Gram, start: Start, share: float) -> Ridge | Supported:
    """The least squares of a layer with one damping; of the weights that may be other than zero."""
    if start.support is None:
        return Ridge(gram, start.free, share)
    return Supported(gram, start.free, share, start.support)


class Ridge:
    """A ridge least squares whose matrix is factored once, for several targets.

    Args:
        gram: Sums over rows.
        free: Whether there is an intercept, which is not damped.
        share: Damping as a share of the mean diagonal.
    """

    def __init__(self, gram: Gram, free: bool, share: float) -> None:
        self.gram, self.free = gram, free
        xx = gram.centred().xx if free else gram.xx
        xx = xx if free else xx.clone()
        diagonal = xx.diagonal(dim1=1, dim2=2)
        diagonal += share * diagonal.mean(1, keepdim=True)
        self._factor, info = torch.linalg.cholesky_ex(xx)
        self.regular = not bool(info.any()) and bool(self._factor.isfinite().all())

    def solve(self, xy_GUV: Tensor, y_GV: Tensor) -> tuple[Tensor, Tensor]:
        """Weight `(G, V, U)` and intercept `(G, V)` for the sums of one target."""
        x, rows = self.gram.x, max(self.gram.rows, 1)
        if not self.free:
            return torch.cholesky_solve(xy_GUV, self._factor).mT, torch.zeros_like(y_GV)
        about_means = xy_GUV - x[:, :, None] * y_GV[:, None, :] / rows
        weight = torch.cholesky_solve(about_means, self._factor).mT
        return weight, (y_GV - (weight @ x[:, :, None])[:, :, 0]) / rows

"""Resizing by nearest neighbours or linearly, up to two dimensions.

Source:
    The coordinate rules of PyTorch's `interpolate`: with aligned corners `i (n - 1) / (m - 1)`,
    else `(i + 1/2) s - 1/2` for linear and `floor(i s)` for nearest, where `s` is the inverse of
    the scale when one was given and `n / m` otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from penjing.codegen.lower.movement import _moves
from penjing.codegen.lower.trace import Op, Rule, Trace, Value


def _linear(trace: Trace, op: Op) -> Value:
    """Weights of each output position along each dimension, found by resizing unit vectors."""
    x = trace.hold(op.get("self", op.get("input")))
    rank = len(x.shape) - 2
    scales = op.get("scale_factors") or [op.get(k) for k in ("scales_h", "scales_w", "scales")]
    scales = [s for s in scales if s is not None] or [None] * rank
    aligned = bool(op.get("align_corners", False))
    matrices = {}
    for axis in range(rank):
        size, wanted = x.shape[2 + axis], op.shape[2 + axis]
        unit = torch.eye(size)[None]
        matrices[f"matrix{axis}"] = (
            torch.ops.aten.upsample_linear1d(unit, [wanted], aligned, scales[axis])[0]
            .T.contiguous()
            .numpy()
        )
    return trace.add("resize", op, [x], weights=matrices)


RULES: Mapping[str, Rule] = {
    "upsample_linear1d": _linear,
    "upsample_bilinear2d": _linear,
    "upsample_trilinear3d": _linear,
    **{f"upsample_nearest{r}d": _moves for r in (1, 2, 3)},
    **{f"_upsample_nearest_exact{r}d": _moves for r in (1, 2, 3)},
}

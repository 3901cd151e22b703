"""What was fitted, written into a layer and the batch norm behind it.

Suffixes: G = convolution groups, U = unknowns of a group, V = outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from penjing.graph.norms import Norm
from penjing.recovery.ridge import Solution, Start
from penjing.statistics.grams import Gram, Layer

NEGLIGIBLE = 1e-6  # a norm's scale below this share of its largest passes on nothing to solve for

Pair = tuple[Tensor, Tensor]
"""Mean and variance per channel."""


def write_back(
    layer: Layer,
    norm: Norm | None,
    tensors: Mapping[str, Tensor],
    start: Start,
    solution: Solution,
    moments: Callable[[Tensor, Tensor], Pair],
) -> dict[str, Tensor]:
    """New tensors of a layer and its norm; running statistics become the layer's moments.

    Args:
        layer: The layer.
        norm: The batch norm that alone reads it.
        tensors: Present values by qualified name.
        start: The layer as it was.
        solution: The fit, in units of the norm's output.
        moments: Of the layer's output, for its weight `(G, V, U)` and bias `(C,)`.

    Returns:
        Values by qualified name.
    """
    groups, outputs, _ = start.weight.shape
    passes = start.scale.abs() > NEGLIGIBLE * start.scale.abs().max()
    divisor = torch.where(passes, start.scale, 1.0).view(groups, outputs, 1)
    before = layer.matrix(tensors[layer.weight].double())
    kept = passes.view(groups, outputs, 1)
    weight = torch.where(kept, solution.weight / divisor, before)
    new = {layer.weight: layer.tensor(weight)}
    intercept = solution.intercept.flatten()
    if norm is not None:
        bias = torch.zeros_like(start.scale)
        bias = bias if layer.bias is None else tensors[layer.bias].double()
        shift = start.shift + intercept - start.scale * bias
        new.update(_norm_for(norm, tensors, start.scale, shift, moments(weight, bias)))
    elif layer.bias is not None:
        new[layer.bias] = intercept
    return {fqn: value.to(tensors[fqn].dtype) for fqn, value in new.items()}


def gram_moments(gram: Gram, weight: Tensor, bias: Tensor) -> Pair:
    """Mean and variance of a layer's output per channel, from sums over its inputs."""
    rows = max(gram.rows, 1)
    mean = torch.einsum("gvu,gu->gv", weight, gram.x) / rows
    var = ((weight @ gram.centred().xx) * weight).sum(2).clamp_min(0) / rows
    return mean.flatten() + bias, var.flatten()


def _norm_for(
    norm: Norm,
    tensors: Mapping[str, Tensor],
    scale: Tensor,
    shift: Tensor,
    moments: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Tensors with which a norm of inputs with these moments is `scale * x + shift`."""
    mean, var = moments
    if norm.bias is None:  # only the running mean can carry the shift
        divisor = torch.where(scale == 0, 1.0, scale)
        return {norm.mean: torch.where(scale == 0, tensors[norm.mean].double(), -shift / divisor)}
    new = {norm.mean: mean, norm.bias: shift + scale * mean}
    if norm.weight is not None:
        var = var.to(tensors[norm.var].dtype).double()
        new.update({norm.var: var, norm.weight: scale * (var + norm.eps).sqrt()})
    return new

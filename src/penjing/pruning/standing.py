"""Zeros that stand: those of a network that was sparse before anything was done to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from penjing.pruning.weights.protocol import Target

MEANT = 0.01  # share of exact zeros from which they are meant; rounding leaves far fewer


def standing(weight: Tensor) -> Tensor | None:
    """Weights that may be other than zero in a layer that was sparse before.

    Args:
        weight: Of any shape.

    Returns:
        Where it is not exactly zero, bool; None where less than `MEANT` of it is.

    Example:
        >>> import torch
        >>> standing(torch.tensor([[1.0, 0.0]]))
        tensor([[ True, False]])
    """
    stays = weight != 0
    zeros = weight.numel() - int(stays.sum())
    return stays if zeros and zeros >= MEANT * weight.numel() else None


def standing_in(targets: Iterable[Target], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same for every layer that may become sparse.

    Args:
        targets: The layers.
        tensors: Their weights by qualified name, and others.

    Returns:
        Name of a weight -> where it may be other than zero, `(G, V, U)` bool; layers without
        zeros that were meant are left out.
    """
    found = {t.weight: standing(t.matrix(tensors[t.weight])) for t in targets}
    return {name: stays for name, stays in found.items() if stays is not None}

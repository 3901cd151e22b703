"""Parameters: how many, and how many are not zero. A tensor with several names counts once."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from penjing.graph.form import identity


def count_params(tensors: Iterable[Tensor]) -> int:
    """Elements of all tensors, tied ones once.

    Args:
        tensors: For instance `model.parameters()`.

    Returns:
        The number of elements.

    Example:
        >>> from torch import nn
        >>> count_params(nn.Linear(2, 3).parameters())
        9
    """
    return sum(t.numel() for t in _once(tensors))


def count_nonzero(tensors: Iterable[Tensor]) -> int:
    """Elements that are not zero, of all tensors, tied ones once.

    Args:
        tensors: For instance `model.parameters()`.

    Returns:
        The number of elements that differ from zero; NaN does.
    """
    return sum(int(t.detach().count_nonzero()) for t in _once(tensors))


def _once(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({identity(t): t for t in tensors}.values())

"""Where the samples of a batch lie among the dimensions of its tensors, and how they are cut out.

Almost always that is dimension 0; sequence-first networks have it in dimension 1, and a network of
several inputs may have it here in one and there in the other. `Dims` says it for the flat inputs of
one call; a task, a batch, calibration data and a captured network carry it, all with this meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Dims = tuple[int | None, ...]
"""Per flat input the dimension of the batch; None for what is no tensor with dimensions."""


def first_dims(leaves: Sequence[Any]) -> Dims:
    """Dimension 0 of every tensor that has one."""
    return tuple(0 if isinstance(v, Tensor) and v.dim() else None for v in leaves)


def fitting_dims(leaves: Sequence[Any], dims: Dims) -> Dims:
    """`dims` where these inputs have them; dimension 0 for inputs of another make.

    Args:
        leaves: Flat inputs.
        dims: Where the batch is expected; empty is dimension 0.
    """
    fits = len(leaves) == len(dims) and all(
        d is None or (isinstance(v, Tensor) and v.dim() > d)
        for v, d in zip(leaves, dims, strict=True)
    )
    return dims if fits else first_dims(leaves)


def count(leaves: Sequence[Any], dims: Dims) -> int | None:
    """Samples of flat inputs; None where none of them has a batch."""
    places = zip(leaves, fitting_dims(leaves, dims), strict=True)
    return next((int(v.shape[d]) for v, d in places if d is not None), None)


def cut(leaves: Sequence[Any], dims: Dims, start: int, stop: int) -> list[Any]:
    """Samples `start` to `stop` of flat inputs; what has no batch is passed on."""
    places = zip(leaves, fitting_dims(leaves, dims), strict=True)
    return [v if d is None else v[(slice(None),) * d + (slice(start, stop),)] for v, d in places]


def label_dim(label: Any, leaves: Sequence[Any], dims: Dims) -> int | None:
    """Dimension of the batch in a label: where the inputs have it if it begins with their sizes.

    Args:
        label: One leaf of the labels; a `(T, B)` of tags beside `(T, B, F)` has its batch there.
        leaves: Flat inputs of the same batch.
        dims: Where the batch is in these.

    Returns:
        The dimension, 0 for labels of other sizes, None for what is no tensor with dimensions.
    """
    if not isinstance(label, Tensor) or not label.dim():
        return None
    for value, dim in zip(leaves, fitting_dims(leaves, dims), strict=True):
        if dim and label.dim() > dim and label.shape[: dim + 1] == value.shape[: dim + 1]:
            return dim
    return 0

"""Where the batch is among the dimensions of the inputs: the one whose samples do not meet.

Almost always it is dimension 0. Sequence-first networks (`nn.LSTM`, `nn.MultiheadAttention` and
what is built of them, without `batch_first=True`) have it in dimension 1, and a network of several
inputs may have it here in one and there in the other. What the network does tells: given two
batches one after the other, it gives both of their outputs one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penjing.task.samples import Dims, first_dims

TOLERANCE = 1e-3  # relative, float32: kernels for other sizes round differently
RANK = 4  # dimensions that are looked at

Run = Callable[[list[Any]], list[Any]]
"""Flat outputs of flat inputs."""


def batch_dims(model: nn.Module, leaves: Sequence[Any], outputs: Sequence[Any], run: Run) -> Dims:
    """Find the dimension of the batch in every input.

    Args:
        model: The network, in eval mode.
        leaves: Flat example inputs.
        outputs: Flat outputs of the network on them.
        run: Runs the network.

    Returns:
        Dimension 0 everywhere, unless something speaks against it and another choice is found to
        keep samples apart.
    """
    usual = first_dims(leaves)
    if not _doubtful(model, leaves, outputs) or _apart(leaves, usual, run):
        return usual
    return next((dims for dims in _others(leaves) if _apart(leaves, dims, run)), usual)


def _doubtful(model: nn.Module, leaves: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether the batch may lie elsewhere than in dimension 0."""
    if any(getattr(part, "batch_first", True) is False for part in model.modules()):
        return True
    sizes = {v.shape[0] for v in leaves if isinstance(v, Tensor) and v.dim()}
    given = {v.shape[0] for v in outputs if isinstance(v, Tensor) and v.dim()}
    return len(sizes) > 1 or (len(sizes) == 1 and not sizes & given)


def _others(leaves: Sequence[Any]) -> Iterator[Dims]:
    """Choices by a size that all inputs have, the later dimensions of equal sizes too."""
    shapes = [tuple(v.shape[:RANK]) if isinstance(v, Tensor) and v.dim() else () for v in leaves]
    given = [set(shape) for shape in shapes if shape]
    for size in sorted(set.intersection(*given)) if given else ():
        for last in (False, True):
            yield tuple(_place(shape, size, last=last) for shape in shapes)


def _place(shape: tuple[int, ...], size: int, *, last: bool) -> int | None:
    places = [dim for dim, length in enumerate(shape) if length == size]
    return (places[-1] if last else places[0]) if places else None


def _apart(leaves: Sequence[Any], dims: Dims, run: Run) -> bool:
    """Whether two batches, one after the other along `dims`, give both outputs in turn."""
    generator = torch.Generator().manual_seed(0)
    other = [_changed(v, d, generator) for v, d in zip(leaves, dims, strict=True)]
    both = [
        v if d is None else torch.cat([v, w], d)
        for v, w, d in zip(leaves, other, dims, strict=True)
    ]
    try:
        first, second, joined = (run(list(given)) for given in (leaves, other, both))
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError):
        return False
    found = [_in_turn(*values) for values in zip(first, second, joined, strict=True)]
    grown = [same for same in found if same is not None]
    return bool(grown) and all(grown)


def _changed(value: Any, dim: int | None, generator: torch.Generator) -> Any:
    """Other values of the same kind: noise, or integers of the example in another order."""
    if dim is None:
        return value
    if value.is_floating_point():
        noise = torch.randn(value.shape, generator=generator).to(value)
        return value + noise
    rest = [d for d in range(value.dim()) if d != dim]
    return value.flip(rest)


def _in_turn(first: Any, second: Any, joined: Any) -> bool | None:
    """Whether `joined` is both in turn along some dimension; None where it did not grow."""
    if not isinstance(joined, Tensor) or joined.shape == first.shape:
        return None
    for dim in range(joined.dim()):
        want = torch.cat([first, second], dim) if first.dim() == joined.dim() else joined[:0]
        if want.shape == joined.shape:
            scale = float(want.double().abs().max().clamp_min(1e-12))
            if float((want.double() - joined.double()).abs().max()) <= TOLERANCE * scale:
                return True
    return False

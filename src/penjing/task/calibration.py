"""Calibration data: unlabelled samples, read once, checked, kept on the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.batches import Batch, describe, fresh_iterator, split
from penjing.task.randomness import random_kept

Dims = tuple[int | None, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """Samples for importance, repair and calibration; made by `Calibration.of`.

    Args:
        leaves: The inputs, flattened; tensors hold all samples in dimension 0.
        structure: Tree of the inputs of one call.
        sizes: Samples of each batch, in the order read.
        labels: Labels of each batch; None where it had none.
        dims: Per input the dimension that its batch is in when it is handed out; empty is 0.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec
    sizes: tuple[int, ...]
    labels: tuple[Any, ...]
    dims: Dims = ()

    @classmethod
    def of(
        cls,
        data: Any,
        transform_fn: Callable[[Any], Any] | None = None,
        limit: int | None = None,
        seed: int = 0,
        dims: Dims = (),
    ) -> Self:
        """Read batches once; one-shot generators are fine. No random state is moved.

        Args:
            data: A loader or any iterable of batches (inputs alone, (inputs, labels), dicts,
                dataclasses), one tensor or array of samples, or a Calibration.
            transform_fn: Makes a batch of each item that `data` yields.
            limit: Samples at most; reading stops there.
            seed: Random state while reading, so that a shuffling loader gives the same samples.
            dims: Per input the dimension of the batch; empty is 0. A Calibration has its own.

        Returns:
            The samples, detached, on the CPU.

        Raises:
            InputError: No samples, NaN or infinite values, or batches of different structure,
                shape or dtype; the batch is named.
        """
        if isinstance(data, Calibration):
            return cls._join(list(_limited(data._parts(), limit)), data.dims)
        if isinstance(data, (Tensor, dict)) or type(data).__module__ == "numpy":
            data = [data]
        _refuse_samples(data)
        with random_kept(data):
            torch.manual_seed(seed)
            items: Iterable[Any] = fresh_iterator(data, "calibration")
            made = (split(transform_fn(item) if transform_fn else item) for item in items)
            made = (_batch_first(part, dims) for part in made)
            parts = [_checked(part, i) for i, part in enumerate(_limited(made, limit))]
        if not parts:
            raise InputError(
                "calibration gave no batches: the loader is empty, or a generator that was already "
                "read; give at least one batch"
            )
        return cls._join(parts, dims)

    @classmethod
    def _join(cls, parts: list[Batch], dims: Dims) -> Self:
        flat = [pytree.tree_flatten(part.inputs) for part in parts]
        for i, (leaves, structure) in enumerate(flat):
            _same(flat[0], (leaves, structure), i, parts)
        columns = zip(*(leaves for leaves, _ in flat), strict=True)
        joined = tuple(torch.cat(c) if isinstance(c[0], Tensor) else c[0] for c in columns)
        sizes = tuple(part.samples for part in parts)
        return cls(joined, flat[0][1], sizes, tuple(part.labels for part in parts), dims)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(self.sizes)

    @property
    def inputs(self) -> list[Any]:
        """Inputs of each batch as it was read: tensor, tuple or dict, on the CPU; views."""
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        return [self._cut(a, a + n) for a, n in zip(starts, self.sizes, strict=True)]

    def batches(self, size: int) -> Iterator[Any]:
        """Inputs in batches of `size` samples, the last one with what remains; views, in order.

        Args:
            size: Samples per batch, at least 1.

        Yields:
            Inputs of one call: tensor, tuple or dict.

        Raises:
            InputError: `size` is below 1.
        """
        if size < 1:
            raise InputError(f"a batch of {size} samples was asked for; give at least 1")
        for start in range(0, self.samples, size):
            yield self._cut(start, start + size)

    def labelled(self, size: int) -> Iterator[tuple[Any, Any]]:
        """Inputs of at most `size` samples with their labels; no piece crosses two batches as read.

        Args:
            size: Samples of a piece at most, at least 1.

        Yields:
            Inputs of one call, and the labels of the same samples; None where there are none.
        """
        start = 0
        for total, labels in zip(self.sizes, self.labels, strict=True):
            for at in range(0, total, size):
                stop = min(at + size, total)
                yield self._cut(start + at, start + stop), rows(labels, at, stop)
            start += total

    def at_least(self, samples: int, purpose: str) -> None:
        """Refuse too few samples.

        Raises:
            InputError: There are fewer than `samples`; the message names `purpose`.
        """
        if self.samples < samples:
            raise InputError(
                f"calibration has {self.samples} sample{'s'[: self.samples != 1]}, {purpose} needs "
                f"at least {samples}; give more data"
            )

    def fingerprint(self) -> str:
        """Short hash of structure, shapes and content."""
        digest = hashlib.sha256(str(self.structure).encode())
        for leaf in self.leaves:
            digest.update(describe(leaf).encode())
            if isinstance(leaf, Tensor):
                raw = leaf.contiguous().reshape(-1).view(torch.uint8)
                digest.update(raw.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _cut(self, start: int, stop: int) -> Any:
        leaves = self._first(start, stop)
        turned = [
            leaf.movedim(0, dim) if isinstance(leaf, Tensor) and dim else leaf
            for leaf, dim in zip(leaves, self.dims or [0] * len(leaves), strict=True)
        ]
        return pytree.tree_unflatten(turned, self.structure)

    def _first(self, start: int, stop: int) -> list[Any]:
        """Samples with the batch in dimension 0."""
        return [leaf[start:stop] if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]

    def _parts(self) -> Iterator[Batch]:
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        for start, size, labels in zip(starts, self.sizes, self.labels, strict=True):
            leaves = self._first(start, start + size)
            yield Batch(pytree.tree_unflatten(leaves, self.structure), labels)


def rows(tree: Any, start: int, stop: int) -> Any:
    """Samples `start` to `stop` of every tensor in a tree.

    Args:
        tree: Inputs, labels, or both, with the samples in dimension 0.
        start: First sample.
        stop: One past the last.

    Returns:
        The same tree; what is no tensor with a dimension is passed on.
    """
    return pytree.tree_map(
        lambda v: v[start:stop] if isinstance(v, Tensor) and v.dim() else v, tree
    )


def _batch_first(part: Batch, dims: Dims) -> Batch:
    """The inputs with their batch moved to dimension 0."""
    leaves, structure = pytree.tree_flatten(part.inputs)
    if not any(dims) or len(leaves) != len(dims):  # another structure is told later, with both
        return part
    moved = [
        leaf.movedim(dim, 0) if isinstance(leaf, Tensor) and dim and leaf.dim() > dim else leaf
        for leaf, dim in zip(leaves, dims, strict=True)
    ]
    return Batch(pytree.tree_unflatten(moved, structure), part.labels)


def _refuse_samples(data: Any) -> None:
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(
        data, torch.utils.data.IterableDataset
    ):
        raise InputError(
            f"calibration is a {type(data).__name__}, which yields single samples; "
            "wrap it: DataLoader(dataset, batch_size=64)"
        )


def _limited(parts: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
    """Batches until `limit` samples, the last one cut."""
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it is a number of samples, at least 1")
    left = limit
    for part in parts:
        samples = part.samples
        if left is not None and samples > left:
            part = _head(part, left)
        yield part
        if left is not None:
            left -= min(samples, left)
            if left == 0:
                return


def _head(part: Batch, samples: int) -> Batch:
    """The first samples of a batch; what has no batch dimension stays whole."""
    total = part.samples

    def cut(leaf: Any) -> Any:
        whole = not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] != total
        return leaf if whole else leaf[:samples]

    return Batch(*pytree.tree_map(cut, (part.inputs, part.labels)))


def _checked(part: Batch, index: int) -> Batch:
    """The batch on the CPU, detached, with finite inputs and one size of dimension 0."""
    part = Batch(*pytree.tree_map(_at_home, (part.inputs, part.labels)))
    samples = part.samples
    if samples == 0:
        raise InputError(f"calibration batch {index} has no samples: {describe(part.inputs)}")
    for leaf in pytree.tree_leaves(part.inputs):
        if not isinstance(leaf, Tensor):
            continue
        if not leaf.dim() or leaf.shape[0] != samples:
            raise InputError(
                f"calibration batch {index}: inputs {describe(part.inputs)} differ in dimension 0, "
                f"which is the batch; give {samples} rows of each"
            )
        if leaf.is_floating_point() and not (finite := leaf.isfinite()).all():
            row = int((~finite).reshape(samples, -1).any(dim=1).nonzero()[0])
            raise InputError(
                f"calibration batch {index} has {int((~finite).sum())} NaN or infinite values in "
                f"{describe(leaf)}, the first in sample {row}; remove or repair them"
            )
    return part


def _at_home(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _same(first: Any, other: Any, index: int, parts: list[Batch]) -> None:
    """Refuse a batch whose inputs differ from the first one's in more than the batch size."""
    (leaves, structure), (others, other_structure) = first, other
    same = structure == other_structure and all(
        (a.shape[1:], a.dtype) == (b.shape[1:], b.dtype)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else type(a) is type(b) and a == b
        for a, b in zip(leaves, others, strict=True)
    )
    if not same:
        raise InputError(
            f"calibration batch {index} is {describe(parts[index].inputs)}, batch 0 is "
            f"{describe(parts[0].inputs)}; only dimension 0 may differ. Pad or crop with "
            "transform_fn; if this is one batch (inputs, labels), put it in a list"
        )

"""Calibration data: unlabelled samples, read once, checked, kept on the CPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.task.batches import Batch, describe, fresh_iterator, split
from penjing.task.outputs import Outputs
from penjing.task.randomness import random_kept
from penjing.task.samples import Dims, fitting_dims

AS_FOUND = Outputs()  # what outputs look like


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """Samples for importance, repair and calibration; made by `Calibration.of`.

    Args:
        leaves: The inputs, flattened; tensors hold all samples in dimension 0.
        structure: Tree of the inputs of one call.
        sizes: Samples of each batch, in the order read.
        labels: Labels of each batch; None where it had none.
        dims: Per input the dimension that its batch is in when it is handed out; empty is 0.
        outputs: What the network's outputs on these samples are, for criteria that compare them.
    """

    leaves: tuple[Any, ...]
    structure: pytree.TreeSpec
    sizes: tuple[int, ...]
    labels: tuple[Any, ...]
    dims: Dims = ()
    outputs: Outputs = AS_FOUND

    @classmethod
    def of(
        cls,
        data: Any,
        transform_fn: Callable[[Any], Any] | None = None,
        limit: int | None = None,
        seed: int = 0,
        dims: Dims = (),
        outputs: Outputs = AS_FOUND,
    ) -> Self:
        """Read batches once; one-shot generators are fine. No random state is moved.

        Args:
            data: A loader or any iterable of batches (inputs alone, (inputs, labels), dicts,
                dataclasses), one tensor or array of samples, or a Calibration.
            transform_fn: Makes a batch of each item that `data` yields.
            limit: Samples at most; reading stops there.
            seed: Random state while reading, so that a shuffling loader gives the same samples.
            dims: Per input the dimension of the batch; empty is 0. A Calibration keeps its own.
            outputs: What the outputs are; a Calibration keeps its own.

        Returns:
            The samples, detached, on the CPU.

        Raises:
            InputError: No samples, NaN or infinite values, or batches of different structure,
                shape or dtype; the batch is named.
        """
        if isinstance(data, Calibration):
            told = data.outputs if data.outputs != AS_FOUND else outputs
            parts = (replace(part, dims=data.dims or dims) for part in data.parts())
            return cls._join(list(_limited(parts, limit)), data.dims or dims, told)
        if isinstance(data, (Tensor, dict)) or type(data).__module__ == "numpy":
            data = [data]
        _refuse_samples(data)
        with random_kept(data):
            torch.manual_seed(seed)
            items: Iterable[Any] = fresh_iterator(data, "calibration")
            made = (split(transform_fn(item) if transform_fn else item) for item in items)
            made = (replace(part, dims=dims) for part in made)
            read = [_checked(part, i) for i, part in enumerate(_limited(made, limit))]
        if not read:
            raise InputError(
                "calibration gave no batches: the loader is empty, or a generator that was already "
                "read; give at least one batch"
            )
        return cls._join(read, dims, outputs)

    @classmethod
    def _join(cls, parts: list[Batch], dims: Dims, outputs: Outputs) -> Self:
        flat = [_batch_first(part) for part in parts]
        for i, (leaves, structure) in enumerate(flat):
            _same(flat[0], (leaves, structure), i, parts)
        columns = zip(*(leaves for leaves, _ in flat), strict=True)
        joined = tuple(torch.cat(c) if isinstance(c[0], Tensor) else c[0] for c in columns)
        sizes = tuple(part.samples for part in parts)
        labels = tuple(part.labels for part in parts)
        return cls(joined, flat[0][1], sizes, labels, dims, outputs)

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

    def pieces(self, size: int) -> Iterator[Batch]:
        """At most `size` samples with their labels; no piece crosses two batches as read.

        Args:
            size: Samples of a piece at most, at least 1.

        Yields:
            Inputs of one call, and the labels of the same samples.
        """
        for batch in self.parts():
            for at in range(0, batch.samples, size):
                yield batch.part(at, at + size)

    def parts(self) -> Iterator[Batch]:
        """The batches as they were read, as the network takes them."""
        for inputs, labels in zip(self.inputs, self.labels, strict=True):
            yield Batch(inputs, labels, self.dims)

    def those(self, chosen: Tensor) -> Calibration:
        """Some of the samples, without their labels.

        Args:
            chosen: Their numbers, or a bool for every sample.

        Returns:
            The samples as one batch.
        """
        leaves = tuple(v[chosen] if isinstance(v, Tensor) else v for v in self.leaves)
        count = int(chosen.sum()) if chosen.dtype == torch.bool else len(chosen)
        return replace(self, leaves=leaves, sizes=(count,), labels=(None,))

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
        """Samples as the network takes them."""
        turned = [
            leaf[start:stop].movedim(0, dim or 0) if isinstance(leaf, Tensor) else leaf
            for leaf, dim in zip(self.leaves, self.dims or [0] * len(self.leaves), strict=True)
        ]
        return pytree.tree_unflatten(turned, self.structure)


def _batch_first(part: Batch) -> tuple[list[Any], pytree.TreeSpec]:
    """Flat inputs with their batch moved to dimension 0, and their structure."""
    leaves, structure = pytree.tree_flatten(part.inputs)
    places = zip(leaves, fitting_dims(leaves, part.dims), strict=True)
    return [leaf.movedim(dim, 0) if dim else leaf for leaf, dim in places], structure


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
            part = part.part(0, left)
        yield part
        if left is not None:
            left -= min(samples, left)
            if left == 0:
                return


def _checked(part: Batch, index: int) -> Batch:
    """The batch on the CPU, detached, with finite inputs and one number of samples."""
    inputs, labels = pytree.tree_map(_at_home, (part.inputs, part.labels))
    part = Batch(inputs, labels, part.dims)
    samples = part.samples
    if samples == 0:
        raise InputError(f"calibration batch {index} has no samples: {describe(part.inputs)}")
    leaves = pytree.tree_leaves(part.inputs)
    for leaf, dim in zip(leaves, fitting_dims(leaves, part.dims), strict=True):
        if not isinstance(leaf, Tensor):
            continue
        if dim is None or leaf.shape[dim] != samples:
            raise InputError(
                f"calibration batch {index}: inputs {describe(part.inputs)} differ in dimension "
                f"{dim or 0}, which is the batch; give {samples} samples of each"
            )
        if leaf.is_floating_point() and not (finite := leaf.isfinite()).all():
            bad = (~finite).movedim(dim, 0).reshape(samples, -1)
            row = int(bad.any(dim=1).nonzero()[0])
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

"""How several processes share the batches of one split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from penjing.errors import InputError


class Peers(Protocol):
    """The processes that work on one task together."""

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of the ranks, on the device of this one."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value itself."""
        return [value]


ALONE = Alone()


def share(data: Iterable[Any], name: str, peers: Peers) -> Iterator[Any]:
    """Every `size`-th item for each process; all get as many.

    A loader loads only the batches of its process; anything else is read whole by each.

    Args:
        data: A loader or any iterable, which gives the same items in every process.
        name: What to call it in errors.
        peers: The processes.

    Yields:
        Items in order; None in the last round where there is none left for this process.

    Raises:
        InputError: A loader that another sampler has shared out already.
    """
    if peers.size == 1:
        yield from data
        return
    own = _loaded(data, name, peers) if _can_be_split(data) else _Picked(data, peers)
    taken = 0
    for item in own:
        taken += 1
        yield item
    if taken < math.ceil(own.total / peers.size):
        yield None


@dataclass(slots=True)
class _Picked:
    """Every `size`-th item of an iterable, and how many it had in all."""

    data: Iterable[Any]
    peers: Peers
    total: int = 0

    def __iter__(self) -> Iterator[Any]:
        for index, item in enumerate(self.data):
            self.total = index + 1
            if index % self.peers.size == self.peers.rank:
                yield item


@dataclass(slots=True)
class _Loaded:
    """A loader of the batches that a sampler picks."""

    loader: DataLoader[Any]
    picked: _Picked

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    @property
    def total(self) -> int:
        return self.picked.total


def _can_be_split(data: Iterable[Any]) -> bool:
    return (
        isinstance(data, DataLoader)
        and type(data).__iter__ is DataLoader.__iter__  # a subclass may change its batches
        and data.batch_sampler is not None
        and not isinstance(data.dataset, IterableDataset)
    )


def _loaded(data: Any, name: str, peers: Peers) -> _Loaded:
    """The loader again, with a sampler that picks."""
    if isinstance(data.sampler, DistributedSampler):
        raise InputError(
            f"{name} has a DistributedSampler, and its batches would be shared out twice; give "
            "the loader without it, the same in every process"
        )
    picked = _Picked(data.batch_sampler, peers)
    loader: DataLoader[Any] = DataLoader(
        data.dataset,
        batch_sampler=picked,
        num_workers=data.num_workers,
        collate_fn=data.collate_fn,
        pin_memory=data.pin_memory,
        timeout=data.timeout,
        worker_init_fn=data.worker_init_fn,
        multiprocessing_context=data.multiprocessing_context,
        generator=data.generator,
        prefetch_factor=data.prefetch_factor,
    )
    return _Loaded(loader, picked)

"""One epoch over the data of several tasks: whose batch comes next.

Every pass over the data of a task begins at a random state of its own, drawn at the start of the
epoch. So an epoch that is read again up to some step comes to the same order, though other random
numbers were drawn between its batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch

from penjing.errors import InputError
from penjing.task.batches import Batch
from penjing.task.randomness import random_kept, seed_all

Mixing = Literal["proportion", "turns"]

Open = Callable[[], Iterator[Batch | None]]
"""Begins a pass over the data of one task; None is a round that has no batch for this process."""

SEEDS = 2**62


def in_proportion(opens: Sequence[Open], lengths: Sequence[int]) -> Iterator[Batch | None]:
    """Every batch of every task once, each task spread evenly over the epoch.

    Args:
        opens: One a task.
        lengths: Batches of each.

    Yields:
        Batches.
    """
    passes = [_pass(opened, seed) for opened, seed in zip(opens, _seeds(opens), strict=True)]
    for index in order(lengths):
        yield from itertools.islice(passes[index], 1)


def in_turns(opens: Sequence[Open], lengths: Sequence[int | None]) -> Iterator[Batch | None]:
    """A batch of each task in turn until all are through; shorter ones begin again.

    That data without a length is through shows only when it is asked for more: by then the tasks
    before it have given one batch of another round.

    Args:
        opens: One a task.
        lengths: Batches of each, where its data knows.

    Yields:
        Batches.

    Raises:
        InputError: A task has no batches.
    """
    seeds, done = _seeds(opens), [0] * len(opens)
    passes = [_pass(opened, seed) for opened, seed in zip(opens, seeds, strict=True)]
    known = [length for length in lengths if length is not None]
    rounds = range(max(known)) if len(known) == len(lengths) else itertools.count()
    for _ in rounds:
        for index, opened in enumerate(opens):
            found = list(itertools.islice(passes[index], 1))
            if not found:
                done[index] += 1
                if all(done):
                    return
                passes[index] = _pass(opened, seeds[index] + done[index])
                found = list(itertools.islice(passes[index], 1))
            if not found:
                raise InputError("train gave no batches when read again; give a fresh iterator")
            yield from found


def order(lengths: Sequence[int]) -> list[int]:
    """Whose batch comes when: at every step the task that is furthest behind its share.

    Args:
        lengths: Batches of each task.

    Returns:
        Indices of tasks, each as often as it has batches.

    Example:
        >>> order([4, 2])
        [0, 1, 0, 0, 1, 0]
    """
    places = [
        ((done + 0.5) / length, index)
        for index, length in enumerate(lengths)
        for done in range(length)
    ]
    return [index for _, index in sorted(places)]


def _pass(opened: Open, seed: int) -> Iterator[Batch | None]:
    """One pass over data, begun at a random state that nothing else moves."""
    with random_kept():
        seed_all(seed)
        batches = opened()
        first = list(itertools.islice(batches, 1))  # samplers draw their order with the first one
    yield from itertools.chain(first, batches)


def _seeds(opens: Sequence[Open]) -> list[int]:
    drawn: list[int] = torch.randint(SEEDS, (len(opens),)).tolist()
    return drawn

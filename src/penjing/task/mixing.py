"""One epoch over the data of several tasks: whose batch comes next.

Every pass over the data of a task begins at a random state of its own, drawn at the start of the
epoch. So an epoch that is read again up to some step comes to the same order, though other random
numbers were drawn between its batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch

from penjing.errors import InputError
from penjing.task.batches import Batch
from penjing.task.randomness import random_kept, random_state, seed_all, set_random_state

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

    Args:
        opens: One a task.
        lengths: Batches of each, where its data knows.

    Yields:
        Batches, in whole rounds.

    Raises:
        InputError: A task has no batches.
    """
    known = [length for length in lengths if length is not None]
    if len(known) == len(lengths):
        passes = [_again(opened, seed) for opened, seed in zip(opens, _seeds(opens), strict=True)]
        for _ in range(max(known)):
            for batches in passes:
                yield from itertools.islice(batches, 1)
        return
    ahead = [_Ahead(opened, seed) for opened, seed in zip(opens, _seeds(opens), strict=True)]
    while not all(task.rounds for task in ahead):
        for task in ahead:
            yield task.take()


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


def _again(opened: Open, seed: int) -> Iterator[Batch | None]:
    """Pass after pass, without an end.

    Raises:
        InputError: A pass has no batches.
    """
    for count in itertools.count():
        batches = _pass(opened, seed + count)
        yield from _some(list(itertools.islice(batches, 1)))
        yield from batches


def _some(found: list[Batch | None]) -> list[Batch | None]:
    """The first batch of a pass, where there is one.

    Raises:
        InputError: There is none.
    """
    if not found:
        raise InputError("train gave no batches when read again; give a fresh iterator")
    return found


class _Ahead:
    """Pass after pass over data without a length, each read one batch ahead.

    So it is known when the last batch is taken. What the data draws at random comes from a state of
    its own, so reading ahead changes nothing that is drawn elsewhere.

    Args:
        opened: Begins a pass.
        seed: Of the first pass.
    """

    def __init__(self, opened: Open, seed: int) -> None:
        self.opened, self.seed = opened, seed
        self.rounds = 0
        self.found: list[Batch | None] = []
        self.batches: Iterator[Batch | None] = iter(())
        self.state: dict[str, Any] = {}

    def take(self) -> Batch | None:
        """The next batch, of another pass where one is through.

        Raises:
            InputError: A pass has no batches.
        """
        with random_kept():
            if self.found:
                set_random_state(self.state)
            else:
                seed_all(self.seed + self.rounds)
                self.batches = self.opened()
                self.found = _some(list(itertools.islice(self.batches, 1)))
            (batch,), self.found = self.found, list(itertools.islice(self.batches, 1))
            self.state = random_state()
        self.rounds += not self.found
        return batch


def _seeds(opens: Sequence[Open]) -> list[int]:
    drawn: list[int] = torch.randint(SEEDS, (len(opens),)).tolist()
    return drawn

"""Several processes that train one network together, each on its share of the batches.

`torchrun` starts them and `torch.distributed` carries what they tell each other. The network is not
wrapped: after a backward pass gradients are summed, weighted by samples, so that a step is the step
of one process on all the samples. What follows (clipping, masks, the optimizer) is the same in all.
"""

from __future__ import annotations

import atexit
import os
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import InputError, UnavailableError
from penjing.task import Batch, Task, Tasks

BUCKET = 2**23  # elements in one message: 32 MiB of float32, torch's own default is 25 MiB
FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together; one alone by default.

    Args:
        rank: Which of them it is, from 0.
        size: How many there are.
        device: Where its network is.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def here(cls, device: torch.device = CPU) -> Processes:
        """This process among those that were joined; alone where none were."""
        if not dist.is_available() or not dist.is_initialized():
            return cls(device=device)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks to people."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of the ranks, on the device of this one."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, _to(value, CPU))
        return [_to(each, self.device) for each in found]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true where it is true in any process."""
        if self.size == 1:
            return flags
        told = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in told.tolist())

    def batches(self, task: Task | Tasks) -> Iterator[Batch | None]:
        """This process's share of the training batches; what else is random differs by process."""
        for index, batch in enumerate(task.shared("train", self)):
            if index == 0 and self.rank:  # the order of the data has been drawn, the same in all
                seed = (int(torch.randint(2**31, ())) + self.rank) % 2**32
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
            yield batch

    def weigh(self, loss: Tensor | None, samples: int) -> tuple[float, int, float]:
        """The loss over the batches of all processes.

        Args:
            loss: Mean over this process's samples; None where it has no batch.
            samples: Samples of this process.

        Returns:
            Mean over all samples, how many there are, and this process's share of them.
        """
        value = 0.0 if loss is None else float(loss.detach())
        if self.size == 1:
            return value, samples, 1.0
        told = torch.tensor([value * samples, samples], dtype=torch.float64, device=self.device)
        dist.all_reduce(told)
        total, count = told.tolist()
        return total / count, int(count), samples / count

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over the processes; one that none of them has stays None."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        has = torch.tensor([p.grad is not None for p in trained], device=self.device).to(torch.int)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        used = [p for p, anywhere in zip(trained, has.tolist(), strict=True) if anywhere]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self._in_buckets([p.grad for p in used if p.grad is not None], dist.all_reduce)

    @torch.no_grad()
    def average_buffers(self, model: nn.Module, share: float) -> None:
        """Floating buffers become their mean over all processes; others those of the first."""
        if self.size == 1:
            return
        self._in_buckets([b for b in model.buffers() if not b.is_floating_point()], _from_first)
        self._in_buckets(
            [b for b in model.buffers() if b.is_floating_point()], self._average(share)
        )

    @torch.no_grad()
    def begin_alike(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            self._in_buckets([*model.parameters(), *model.buffers()], _from_first)

    def _average(self, share: float) -> Callable[[Tensor], None]:
        """The mean, weighted by samples; what is the same everywhere stays so to the bit."""

        def average(own: Tensor) -> None:
            first = own.clone()
            _from_first(first)
            moved = (own - first) * share
            moved[(own == first) | (share == 0)] = 0  # infinite constants have no difference
            dist.all_reduce(moved)
            own.copy_(first + moved)

        return average

    @torch.no_grad()
    def _in_buckets(self, tensors: list[Tensor], exchange: Callable[[Tensor], object]) -> None:
        """Exchange many tensors in a few messages, in place."""
        for bucket in _buckets(tensors):
            flat = torch.cat([t.detach().reshape(-1) for t in bucket])
            exchange(flat)
            parts = flat.split([t.numel() for t in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def joined(distributed: bool, device: torch.device) -> Processes:
    """Join the processes that `torchrun` started; they stay together until they exit.

    A group that was left cannot be joined again: its addresses stay in the store of `torchrun`.

    Args:
        distributed: False works alone.
        device: Where the network of this process is.

    Returns:
        This process among the others.

    Raises:
        InputError: No `torchrun` started this process, or two of them share a GPU.
        UnavailableError: This torch was built without `torch.distributed`.
    """
    if not distributed:
        return Processes(device=device)
    if not dist.is_available():
        raise UnavailableError("this build of torch has no torch.distributed; install another")
    if not dist.is_initialized():
        if missing := [name for name in FROM_TORCHRUN if name not in os.environ]:
            raise InputError(
                f"distributed=True needs several processes, and {', '.join(missing)} is not set; "
                "start the script with `torchrun --nproc-per-node 2 script.py`"
            )
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    here = Processes.here(device)
    _check_devices(here)
    return here


def _check_devices(here: Processes) -> None:
    """Refuse two processes on one GPU, which would wait for each other for ever."""
    places = here.gather((socket.gethostname(), str(here.device)))
    if here.device.type != "cpu" and len(set(places)) < len(places):
        raise InputError(
            f"two processes train on {here.device} of the same machine; put the model on "
            "cuda:N, with N from the environment's LOCAL_RANK"
        )


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype together, up to `BUCKET` elements; the same in every process."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_type.values():
        bucket: list[Tensor] = []
        for tensor in alike:
            if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


def _from_first(tensor: Tensor) -> None:
    dist.broadcast(tensor, 0)


def _to(value: Any, device: torch.device) -> Any:
    def move(leaf: Any) -> Any:
        return leaf.detach().to(device) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(move, value)

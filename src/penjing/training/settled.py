"""What a task leaves open, found on the network: where its batch is and where its classes are."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import nn

from penjing.graph.capture import dims_of
from penjing.task import Task, Tasks, evaluating, random_kept
from penjing.task.batches import check_call
from penjing.task.definition import Split
from penjing.task.outputs import named_tensors
from penjing.task.randomness import device_of

Whole = TypeVar("Whole", bound=Task | Tasks)


def settled(task: Whole, model: nn.Module) -> Whole:
    """The task or tasks with `batch_dims` and `class_dim` as data and network show them.

    The first batch is looked at; what the task says itself stays. Modes, buffers and random states
    are as before.

    Args:
        task: Any.
        model: The network that it is for.

    Returns:
        The task itself where it has no data, or where nothing is open.

    Raises:
        InputError: The network does not run on the first batch.
    """
    if isinstance(task, Tasks):
        tasks = {name: _one(own, model, alone=False) for name, own in task.tasks.items()}
        return cast("Whole", replace(task, tasks=tasks))
    return cast("Whole", _one(task, model))


def _one(task: Task, model: nn.Module, *, alone: bool = True) -> Task:
    names: tuple[Split, ...] = ("train", "val", "test")
    split = next((name for name in names if getattr(task, name) is not None), None)
    if split is None or (task.batch_dims is not None and task.class_dim is not None):
        return task
    with random_kept(task.data(split)):
        batch = next(task.batches(split), None)
    if batch is None:
        return task
    batch = batch.to(device_of(model))
    dims = task.batch_dims
    if dims is None and task.forward is None:
        check_call(model, batch.inputs)
        given = batch.inputs
        found = dims_of(model, tuple(given) if isinstance(given, list) else given)
        dims = found if any(found) else None
    with evaluating(model), random_kept(), torch.no_grad():
        values = list(named_tensors(task.predict(model, batch.inputs)).values())
    class_dim = task.class_dim
    if len(values) == 1:
        class_dim = task.outputs.at(values[0], batch.labels).class_dim
    elif not alone and isinstance(task.kind, str):  # what it says is about its own head
        return replace(task, batch_dims=dims, kind=None)
    return replace(task, batch_dims=dims, class_dim=class_dim)

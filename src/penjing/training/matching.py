"""Inner layers of a student matched with a teacher's, and their tensors while both run."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.task import Task, evaluating, random_kept
from penjing.task.batches import Batch
from penjing.task.randomness import device_of
from penjing.training.places import Places, place_names


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a module gave: its place in the order of finishing, and the shape."""

    order: int
    shape: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes that a width does not change: space of a map, length of a sequence."""
        return self.shape[2:] if len(self.shape) > 3 else self.shape[1:-1]


def match(student: nn.Module, teacher: nn.Module, task: Task) -> dict[str, str]:
    """Pairs of modules where both are at the same stage, found on one batch of `task.train`.

    A stage is a run of equal positions (resolution of maps, length of sequences). The last module
    that finishes in each stage is its end. A student that keeps the teacher's names (a pruned one,
    also in its graph form) is matched by name, another one stage by stage.

    Args:
        student: In any mode; left as it is.
        teacher: The same.
        task: Its first training batch is run through both.

    Returns:
        Name of the student's module -> name of the teacher's, in the order of the teacher.

    Raises:
        InputError: Nothing matches; both lists of stages are told.
    """
    mine, theirs = (_stages(model, task) for model in (student, teacher))
    named = {name: name for name in theirs if name in mine and _alike(mine[name], theirs[name])}
    if named:
        return named
    found: dict[str, str] = {}
    for name, seen in theirs.items():
        same = [own for own, stage in mine.items() if _alike(stage, seen) and own not in found]
        if same:
            found[same[0]] = name
    if not found:
        raise InputError(
            f"no layer of the student matches one of the teacher: stages of the student "
            f"{_told(mine)}, of the teacher {_told(theirs)}; name them: layers={{student: teacher}}"
        )
    return found


def check_layers(layers: Mapping[str, str], student: nn.Module, teacher: nn.Module) -> None:
    """Refuse names that no module has.

    Raises:
        InputError: A name is unknown; similar ones are listed.
    """
    for names, model, whose in (
        (layers, student, "student"),
        (layers.values(), teacher, "teacher"),
    ):
        known = place_names(model)
        for name in names:
            if name not in known:
                near = ", ".join(difflib.get_close_matches(name, known, 3)) or ", ".join(known[:5])
                raise InputError(f"the {whose} has no module {name!r}; near it: {near}")


def batch_dims_of(model: nn.Module, names: tuple[str, ...], task: Task) -> dict[str, int]:
    """Dimension of the batch in the output of each module, found with a sample less.

    Inside a network it may be another one than in its inputs, as where `forward` transposes them
    for a recurrent layer. Networks that run with no other batch have it first.

    Args:
        model: In any mode; left as it is.
        names: Of its modules.
        task: Its first training batch is run twice.

    Returns:
        By name, where it is another than 0.
    """
    listener = Listener(model, names)
    with closing(listener), evaluating(model), torch.no_grad(), random_kept(task.train):
        batch = _first_batch(task, model)
        task.predict(model, batch.inputs)
        whole = [tensor.shape for tensor in listener.take()]
        try:
            task.predict(model, batch.part(0, batch.samples - 1).inputs)
        except (InputError, RuntimeError):
            return {}
        less = [tensor.shape for tensor in listener.take()]
    found = {name: _changed(*shapes) for name, *shapes in zip(names, whole, less, strict=True)}
    return {name: dim for name, dim in found.items() if dim}


def _changed(one: torch.Size, other: torch.Size) -> int:
    """The first dimension in which two shapes differ; 0 where they do not."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((dim for dim, (a, b) in pairs if a != b), 0)


def _first_batch(task: Task, model: nn.Module) -> Batch:
    batch = next(task.batches("train"), None)
    if batch is None:
        raise InputError("train gave no batches; is the loader empty?")
    return batch.to(device_of(model))


class Listener:
    """Keeps the last output of chosen modules until it is closed.

    Args:
        model: Whose modules.
        names: Which.
        batch_dims: Dimension of the batch in the output of each, where it is not 0.
    """

    def __init__(
        self, model: nn.Module, names: tuple[str, ...], batch_dims: Mapping[str, int] | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names = names
        self.batch_dims = batch_dims or {}
        self._places = Places(model, names)
        self._hooks = [
            self._places.modules[name].register_forward_hook(partial(self._keep, name))
            for name in names
        ]

    def _keep(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = _tensor(output)
        if tensor is None:
            raise InputError(f"module {name!r} gives {type(output).__name__}, no floating tensor")
        self.tensors[name] = tensor

    def take(self) -> tuple[Tensor, ...]:
        """The tensors in the order of the names, the batch first, and forget them.

        Raises:
            InputError: A module was not run.
        """
        if missing := [name for name in self.names if name not in self.tensors]:
            raise InputError(f"module {missing[0]!r} was not run in this forward; match others")
        dims = self.batch_dims
        taken = tuple(self.tensors[name].movedim(dims.get(name, 0), 0) for name in self.names)
        self.tensors.clear()
        return taken

    def forget(self) -> None:
        """Forget what was kept, where nobody takes it."""
        self.tensors.clear()

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        self._places.close()


def _stages(model: nn.Module, task: Task) -> dict[str, _Seen]:
    """The last module of every stage, in order; the output of the whole network is none."""
    seen: dict[str, _Seen] = {}
    with evaluating(model), torch.no_grad(), random_kept(task.train), _watched(model, seen):
        task.predict(model, _first_batch(task, model).inputs)
    ends: dict[tuple[int, ...], str] = {}
    for name, one in sorted(seen.items(), key=lambda item: item[1].order):
        if one.positions and max(one.positions) > 1:
            ends[one.positions] = name
    return {name: seen[name] for name in ends.values()}


@contextmanager
def _watched(model: nn.Module, seen: dict[str, _Seen]) -> Iterator[None]:
    finished = itertools.count()

    def note(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = _tensor(output)
        if tensor is not None and tensor.dim() >= 3:
            seen[name] = _Seen(next(finished), tuple(tensor.shape))

    places = Places(model)
    hooks = [m.register_forward_hook(partial(note, n)) for n, m in places.modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        places.close()


def _tensor(output: Any) -> Tensor | None:
    """The tensor of an output, or the first one of a tuple, as blocks of transformers give it."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _alike(first: _Seen, second: _Seen) -> bool:
    return first.positions == second.positions and len(first.shape) == len(second.shape)


def _told(stages: dict[str, _Seen]) -> str:
    return ", ".join(f"{name} {stage.shape}" for name, stage in stages.items()) or "none"

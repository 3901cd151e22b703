"""Teachers in the training loop: other networks, one's own average, one's own last exit."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from penjing.distillation import Distillation, Logits
from penjing.errors import InputError, StrategyError
from penjing.task import evaluating
from penjing.task.randomness import device_of
from penjing.training.callbacks import Callback
from penjing.training.matching import Listener, batch_dims_of, check_layers, match
from penjing.training.run import Run, tensors_of

Losses = Distillation | Sequence[Distillation]


class Teacher(Callback):
    """Adds distillation losses; the teacher runs in eval mode and is not changed.

    Args:
        model: The teacher, on the device of the student.
        losses: How it counts: one loss, or several, each of which gets the loss so far; in a dict
            those of each of several tasks, by name.
        layers: For losses of features: module of the student -> module of the teacher; None
            matches them (`penjing.training.matching.match`).
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses | Mapping[str, Losses],
        layers: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        each = losses if isinstance(losses, Mapping) else {"": losses}
        self.losses = {name: _several(one) for name, one in each.items()}
        self.layers = None if layers is None else dict(layers)
        self.matched: dict[str, str] = {}
        self._listeners: tuple[Listener, ...] = ()
        self._told: set[str] = set()
        if not self.losses or not all(self.losses.values()):
            raise StrategyError("a teacher without a loss teaches nothing; give losses=[Logits()]")

    def on_start(self, run: Run, /) -> None:
        """Refuse a teacher on another device, match layers and listen to them.

        Raises:
            InputError: The devices differ, or layers do not match.
        """
        mine, theirs = device_of(run.model), device_of(self.model)
        if mine != theirs:
            raise InputError(
                f"the model is on {mine}, its teacher on {theirs}; teacher.to({str(mine)!r})"
            )
        if self.layers is not None:
            check_layers(self.layers, run.model, self.model)
        if "" not in self.losses and (missing := sorted(set(run.task.parts) - set(self.losses))):
            raise InputError(
                f"the teacher has no loss for task {missing[0]!r}; it has losses for "
                f"{', '.join(map(repr, self.losses))}"
            )
        if unknown := sorted(set(self.losses) - set(run.task.parts) - {""}):
            raise InputError(
                f"the teacher has a loss for {unknown[0]!r}, the tasks are "
                f"{', '.join(map(repr, run.task.parts))}"
            )
        listened = [task for name, task in run.task.parts.items() if self._listens(name)]
        if not listened:
            return
        self.matched = self.layers or match(run.model, self.model, listened[0])
        sides = ((run.model, tuple(self.matched)), (self.model, tuple(self.matched.values())))
        dims = [batch_dims_of(*side, listened[0]) for side in sides]
        self._listeners = tuple(
            Listener(*side, found) for side, found in zip(sides, dims, strict=True)
        )

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The task's loss and the teacher's; the teacher's alone without labels."""
        with evaluating(self.model), torch.no_grad():
            outputs = run.part.predict(self.model, run.inputs)
            if run.of not in self._told:
                self._told.add(run.of)
                self._tell_untaught(run)
        features = self._features(wanted=self._listens(run.of))
        for term in self._terms(run.of):
            mine, theirs = features if term.of_features else (run.outputs, outputs)
            loss = term(mine, theirs, loss)
        return loss

    def _tell_untaught(self, run: Run) -> None:
        """Note which outputs a task leaves out, so that nobody teaches them."""
        untaught = run.part.left_out(self.model, run.inputs)
        if not untaught:
            return
        whose = f"task {run.of!r}: " if run.of else ""
        note = (
            f"{whose}only the logits are taught, not the outputs {', '.join(map(repr, untaught))}; "
            "Task(kind={'logits': 'classes', ...}) with a kind for each teaches all of them"
        )
        if note not in run.notes:
            run.notes.append(note)

    def _terms(self, name: str) -> tuple[Distillation, ...]:
        """The losses of a task."""
        return self.losses.get(name) or self.losses[""]

    def _listens(self, name: str) -> bool:
        """Whether a loss of a task compares inner tensors."""
        return any(term.of_features for term in self._terms(name))

    def _features(self, *, wanted: bool) -> list[tuple[Tensor, ...]]:
        """Inner tensors of student and teacher; other layers may run for other tasks."""
        if wanted:
            return [listener.take() for listener in self._listeners]
        for listener in self._listeners:
            listener.forget()
        return []

    def on_close(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Leave both networks without hooks."""
        for listener in self._listeners:
            listener.close()
        self._listeners = ()

    def identity(self) -> str:
        """The losses, the layers and a hash of the teacher's weights."""
        told = "; ".join(
            f"{f'{name}: ' if name else ''}{', '.join(map(str, losses))}"
            for name, losses in self.losses.items()
        )
        layers = f", layers {self.layers}" if self.layers else ""
        return f"Teacher({told}{layers}, weights {weights_hash(self.model)})"


class Teachers(Callback):
    """Several teachers, each as much as the others: the mean of what each alone would give.

    Args:
        teachers: One `Teacher` each, at least one.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        if not teachers:
            raise StrategyError("no teacher was given")
        self.teachers = tuple(teachers)

    def on_start(self, run: Run, /) -> None:
        """Start each."""
        for teacher in self.teachers:
            teacher.on_start(run)

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The mean of their losses."""
        losses = [teacher.on_loss(run, loss) for teacher in self.teachers]
        return torch.stack([one for one in losses if one is not None]).mean()

    def on_close(self, run: Run, /) -> None:
        """Close each."""
        for teacher in self.teachers:
            teacher.on_close(run)

    def identity(self) -> str:
        """All of theirs."""
        return " and ".join(teacher.identity() for teacher in self.teachers)


class AverageTeacher(Callback):
    """The student's own moving average teaches it.

    Args:
        loss: How it counts.
        decay: Share of the average that stays at each step, in [0, 1); it starts lower, as
            (1 + step) / (10 + step), so that the first average is not the start alone.

    Raises:
        StrategyError: `decay` outside its range.

    Source:
        Tarvainen & Valpola 2017, arXiv:1703.01780.
    """

    def __init__(self, loss: Distillation | None = None, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise StrategyError(f"decay is {decay}; it is a share in [0, 1), often 0.999")
        self.loss = Logits(weight=0.5) if loss is None else loss
        self.decay = decay
        self.model = nn.Module()
        if self.loss.of_features:
            raise StrategyError("an average teaches by its outputs; take Logits or Decoupled")

    def on_start(self, run: Run, /) -> None:
        """Start from a copy of the student."""
        self.model = copy.deepcopy(run.model).requires_grad_(requires_grad=False)

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The loss so far and the average's."""
        with evaluating(self.model), torch.no_grad():
            outputs = run.part.predict(self.model, run.inputs)
        return self.loss(run.outputs, outputs, loss)

    @torch.no_grad()
    def on_step(self, run: Run, /) -> None:
        """Move the average towards the student."""
        decay = min(self.decay, (1 + run.step) / (10 + run.step))
        new = tensors_of(run.model)
        for name, tensor in tensors_of(self.model).items():
            if tensor.is_floating_point():
                tensor.lerp_(new[name], 1 - decay)
            else:
                tensor.copy_(new[name])

    def identity(self) -> str:
        """The loss and the decay."""
        return f"AverageTeacher({self.loss}, decay {self.decay})"

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {name: tensor.clone() for name, tensor in tensors_of(self.model).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Put the average back."""
        for name, tensor in tensors_of(self.model).items():
            tensor.copy_(state[name])


class ExitTeacher(Callback):
    """The last exit of a network with several teaches the earlier ones.

    Args:
        loss: How it counts.

    Source:
        Zhang et al. 2019, arXiv:1905.08094 (deep to shallow, by logits).
    """

    def __init__(self, loss: Distillation | None = None) -> None:
        self.loss = Logits(weight=0.5) if loss is None else loss
        if self.loss.of_features:
            raise StrategyError("exits teach by their outputs; take Logits or Decoupled")

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The loss so far and that of every earlier exit.

        Raises:
            InputError: The network gives one output.
        """
        exits = run.outputs
        if not isinstance(exits, (tuple, list)) or len(exits) < 2:
            raise InputError(
                f"the network gives {type(exits).__name__}; exits are a tuple or list of two "
                "outputs at least, the deepest last"
            )
        terms = [self.loss(early, exits[-1], loss) for early in exits[:-1]]
        return torch.stack(terms).mean()

    def identity(self) -> str:
        """The loss."""
        return f"ExitTeacher({self.loss})"


def _several(losses: Losses) -> tuple[Distillation, ...]:
    return tuple(losses) if isinstance(losses, Sequence) else (losses,)


def weights_hash(model: nn.Module) -> str:
    """Short hash of the names, shapes and content of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]

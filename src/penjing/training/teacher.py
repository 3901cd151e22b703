"""A teacher in the training loop."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from penjing.distillation import Logits
from penjing.errors import InputError
from penjing.task import evaluating
from penjing.task.randomness import device_of
from penjing.training.callbacks import Callback
from penjing.training.run import Run, tensors_of


class Teacher(Callback):
    """Adds a distillation loss; the teacher runs in eval mode and is not changed.

    Args:
        model: The teacher, on the device of the student.
        loss: How its outputs count.
    """

    def __init__(self, model: nn.Module, loss: Logits) -> None:
        self.model = model
        self.loss = loss

    def on_start(self, run: Run, /) -> None:
        """Refuse a teacher on another device.

        Raises:
            InputError: The devices differ.
        """
        mine, theirs = device_of(run.model), device_of(self.model)
        if mine != theirs:
            raise InputError(
                f"the model is on {mine}, its teacher on {theirs}; teacher.to({str(mine)!r})"
            )

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:
        """The task's loss and the teacher's, weighed; the teacher's alone without labels."""
        with evaluating(self.model), torch.no_grad():
            outputs = run.task.predict(self.model, run.inputs)
        return self.loss(run.outputs, outputs, loss)

    def identity(self) -> str:
        """The loss and a hash of the teacher's weights."""
        return f"Teacher({self.loss}, weights {weights_hash(self.model)})"


def weights_hash(model: nn.Module) -> str:
    """Short hash of the names, shapes and content of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]

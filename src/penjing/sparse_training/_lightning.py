"""Sparse training in the Trainer of Lightning."""

from __future__ import annotations

from typing import Any

from penjing.errors import require
from penjing.sparse_training._following import Following, Wish, share


def for_lightning(wish: Wish) -> Any:
    """A callback for `lightning.Trainer(callbacks=[...])`.

    Checkpoints of the trainer hold its state. At the end the masks are gone and the weights have
    their zeros; `.sparsity` is their share. Optimizers that step by hand are not followed.

    Args:
        wish: What becomes sparse. Give the network as `model`: a LightningModule itself does not
            export.

    Returns:
        A `lightning.pytorch.Callback`.

    Raises:
        MissingDependencyError: lightning is not installed.
    """
    pytorch = require("lightning.pytorch", extra="lightning")

    class Sparsity(pytorch.Callback):  # type: ignore[name-defined,misc] # the base is optional
        """Grows zeros along the trainer's steps."""

        def __init__(self) -> None:
            self.following = Following(wish)
            self._stepped = 0

        @property
        def sparsity(self) -> float | None:
            """Share of zeros at the end; None before it."""
            return self.following.sparsity

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.following.begin(pl_module)
            self._stepped = trainer.global_step

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002
            progress = share(trainer.global_step, trainer.estimated_stepping_batches)
            self.following.before_step(progress)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == self._stepped:  # gradients are still being added up
                return
            progress = share(self._stepped, trainer.estimated_stepping_batches)
            self._stepped = trainer.global_step
            self.following.step(trainer.optimizers[0], progress)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            self.following.end()

        def state_dict(self) -> dict[str, Any]:
            return self.following.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.following.saved = state_dict

    return Sparsity()

"""Sparse training in the Trainer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from penjing.errors import CheckpointError, require
from penjing.sparse_training._following import Following, Wish, share

NAME = "penjing_sparsity.pt"


def for_trainer(wish: Wish) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])`.

    Checkpoints of the trainer get its state as a file beside the others. At the end the masks are
    gone and the weights have their zeros; `.sparsity` is their share. The trainer clips gradients
    before they are masked.

    Args:
        wish: What becomes sparse.

    Returns:
        A `transformers.TrainerCallback`.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    transformers = require("transformers", extra="hub")

    class Sparsity(transformers.TrainerCallback):  # type: ignore[name-defined,misc] # optional
        """Grows zeros along the trainer's steps."""

        def __init__(self) -> None:
            self.following = Following(wish)

        @property
        def sparsity(self) -> float | None:
            """Share of zeros at the end; None before it."""
            return self.following.sparsity

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
            saved = _folder(args, state) / NAME
            if state.global_step:
                if not saved.exists():
                    raise CheckpointError(
                        f"the trainer goes on from step {state.global_step} and {saved} is not "
                        "there: keep the checkpoint in output_dir, with the file of its zeros, "
                        "or begin anew without resume_from_checkpoint"
                    )
                self.following.saved = torch.load(saved, map_location="cpu", weights_only=True)
            self.following.begin(given["model"])

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.following.before_step(share(state.global_step, state.max_steps))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
            wrapped = given["optimizer"]
            bare = getattr(wrapped, "optimizer", wrapped)  # accelerate wraps it
            self.following.step(bare, share(state.global_step, state.max_steps))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            torch.save(self.following.state_dict(), _folder(args, state) / NAME)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.following.end()

    return Sparsity()


def _folder(args: Any, state: Any) -> Path:
    """Where the trainer writes the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"

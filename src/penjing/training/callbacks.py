"""What hooks into the training loop: sparse training, quantization-aware training, loggers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from penjing.errors import InputError, StrategyError
from penjing.training.run import Run


class DivergedError(InputError):
    """The loss, a weight or a score is no longer finite: the loop goes back to its last state."""


class Callback:
    """Subclass and write the hooks you need; the others do nothing.

    Hooks of several callbacks run in the order in which the callbacks were given.
    """

    def on_start(self, run: Run, /) -> None:
        """Once per call, before the first batch. Set up, do not change the weights yet."""

    def on_loss(self, run: Run, loss: Tensor | None, /) -> Tensor | None:  # noqa: ARG002 - a hook
        """The loss to train on, given the loss so far; None where data has no labels.

        `run` holds the batch's inputs, labels and outputs. Called once on a trial batch, without
        gradient, before anything is written.
        """
        return loss

    def on_backward(self, run: Run, /) -> None:
        """Gradients are there; they are clipped and applied after this."""

    def on_step(self, run: Run, /) -> None:
        """The optimizer has stepped: masks are applied, averages taken here."""

    def on_judge(self, run: Run, /) -> None:
        """An epoch is over and will be judged and perhaps kept: other weights may be put in.

        What is put in here is taken out again in `on_epoch`.
        """

    def on_epoch(self, run: Run, /) -> None:
        """An epoch is over and judged: `run.history[-1]`."""

    def on_end(self, run: Run, /) -> None:
        """The model holds the state that will be given back."""

    def on_close(self, run: Run, /) -> None:
        """Always the last call, also after an error: take out what `on_start` put in."""

    def identity(self) -> str:
        """Names this callback and its settings; a checkpoint of another identity is refused.

        Empty where it only watches: a checkpoint then knows nothing of it.
        """
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """State to save: numbers, strings, lists, dicts and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take back what `state_dict` gave; called after `on_start`."""


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse what is no callback, and hooks that would never be called.

    Raises:
        StrategyError: A hook is missing or has a name that the loop does not know.
    """
    hooks = sorted(name for name in vars(Callback) if name.startswith("on_"))
    needed = {*hooks, "identity", "state_dict", "load_state_dict"}
    for callback in callbacks:
        names = {name for name in dir(callback) if name.startswith("on_")}
        if unknown := sorted(names - set(hooks)):
            raise StrategyError(
                f"{type(callback).__name__}.{unknown[0]} would never be called; "
                f"the hooks are {', '.join(hooks)}"
            )
        if missing := sorted(name for name in needed if not hasattr(callback, name)):
            raise StrategyError(
                f"{type(callback).__name__} has no {missing[0]}; "
                "make it a subclass of penjing.training.Callback"
            )

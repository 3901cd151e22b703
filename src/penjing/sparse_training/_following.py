"""A sparsifier that follows the loop of another library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from penjing.errors import InputError
from penjing.graph.capture import Example
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.selection import Key
from penjing.pruning.weights.targets import ROLES
from penjing.sparse_training.protocol import Method
from penjing.sparse_training.sparsifier import Sparsifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What becomes sparse, in the words of `Sparsifier.on`.

    Args:
        method: When masks change and how.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords).
        model: The part that becomes sparse; None is what the library trains.
        pattern: "element", "n:m", "block:RxC", "kernel", "unit".
        ignored_layers: Modules, names, globs or types that stay dense.
        keep_dense: Kinds of layers that stay dense.
        indivisible: What happens where the pattern does not divide a layer.
        seed: Of random choices.
    """

    method: Method
    example_inputs: Example
    model: nn.Module | None = None
    pattern: str | Pattern = "element"
    ignored_layers: Iterable[Key] = ()
    keep_dense: Iterable[str] = ROLES
    indivisible: Indivisible = "error"
    seed: int = 0


@dataclass(slots=True)
class Following:
    """The calls of a foreign loop, in its order.

    Args:
        wish: What becomes sparse.
        sparsity: Share of zeros at the end; None before it.
        sparsifier: At work between `begin` and `end`.
        saved: State that was loaded before the loop began.
    """

    wish: Wish
    sparsity: float | None = None
    sparsifier: Sparsifier | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, trained: nn.Module) -> None:
        """Look at the network that is on its device now."""
        wish = self.wish
        model = trained if wish.model is None else wish.model
        if wish.model is not None and not _within(wish.model, trained):
            raise InputError(
                f"the {type(wish.model).__name__} given as model is no part of the "
                f"{type(trained).__name__} that is trained; give a submodule of it"
            )
        self.sparsifier = Sparsifier.on(
            model,
            wish.example_inputs,
            wish.method,
            pattern=wish.pattern,
            ignored_layers=wish.ignored_layers,
            keep_dense=wish.keep_dense,
            indivisible=wish.indivisible,
            seed=wish.seed,
        )
        if self.saved:
            self.sparsifier.load_state_dict(self.saved)
            self.saved = {}

    def before_step(self, progress: float) -> None:
        """Gradients are there."""
        if self.sparsifier is not None:
            self.sparsifier.before_step(progress)

    def step(self, optimizer: Optimizer | None, progress: float) -> None:
        """The optimizer has stepped."""
        if self.sparsifier is not None:
            self.sparsifier.step(optimizer, progress)

    def end(self) -> None:
        """Write the last zeros and forget the masks: ordinary weights are left."""
        if self.sparsifier is not None:
            self.sparsifier.masks.apply()
            self.sparsity = self.sparsifier.masks.zeros
            self.sparsifier = None

    def state_dict(self) -> dict[str, Any]:
        """Of the sparsifier at work."""
        return dict(self.saved) if self.sparsifier is None else self.sparsifier.state_dict()


def share(done: int, total: float) -> float:
    """Progress at the middle of a step.

    Raises:
        InputError: The number of steps is not known.
    """
    if not 0 < total < float("inf"):
        raise InputError(f"the run has {total} steps; sparsity needs a run with an end: max_steps")
    return min((done + 0.5) / total, 1.0)


def _within(part: nn.Module, whole: nn.Module) -> bool:
    return any(module is part for module in whole.modules())

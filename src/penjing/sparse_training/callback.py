"""Sparse training as a callback of the training loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penjing.errors import InputError
from penjing.graph.capture import Example
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.selection import Key
from penjing.pruning.weights.targets import ROLES
from penjing.sparse_training.parts import UNIT
from penjing.sparse_training.protocol import Method
from penjing.sparse_training.sparsifier import Sparsifier
from penjing.task import random_kept
from penjing.task.randomness import device_of
from penjing.training import Callback, Run


class SparseTraining(Callback):
    """Grow zeros while the network trains. Goes after callbacks that average weights.

    Args:
        method: When masks change and how.
        example_inputs: None takes the first training batch.
        pattern: "element", "n:m", "block:RxC", "kernel", or "unit" for whole units of groups.
        ignored_layers: Modules, names, globs or types that stay dense.
        keep_dense: Kinds of layers that stay dense.
        indivisible: What happens where the pattern does not divide a layer.
    """

    def __init__(
        self,
        method: Method,
        *,
        example_inputs: Example | None = None,
        pattern: str | Pattern = "element",
        ignored_layers: Iterable[Key] = (),
        keep_dense: Iterable[str] = ROLES,
        indivisible: Indivisible = "error",
    ) -> None:
        self.method = method
        self.example_inputs = example_inputs
        self.pattern = pattern if pattern == UNIT else Pattern.parse(pattern)
        self.ignored_layers = tuple(ignored_layers)
        self.keep_dense = tuple(keep_dense)
        self.indivisible: Indivisible = indivisible
        self._sparsifier: Sparsifier | None = None

    @property
    def pattern_name(self) -> str:
        """As it is given."""
        return self.pattern.name if isinstance(self.pattern, Pattern) else UNIT

    @property
    def sparsifier(self) -> Sparsifier:
        """The method at work.

        Raises:
            InputError: The run has not started.
        """
        if self._sparsifier is None:
            raise InputError("the training has not started; there are no masks yet")
        return self._sparsifier

    def on_start(self, run: Run, /) -> None:
        """Find the weights that may become sparse."""
        example = self.example_inputs
        if example is None:
            task = run.task.first
            with random_kept(task.train):
                batch = next(task.batches("train"), None)
            if batch is None:
                raise InputError("train gave no batches; is the loader empty?")
            example = batch.to(device_of(run.model)).inputs
            self.example_inputs = example
        self._sparsifier = Sparsifier.on(
            run.model,
            example,
            self.method,
            pattern=self.pattern,
            ignored_layers=self.ignored_layers,
            keep_dense=self.keep_dense,
            indivisible=self.indivisible,
            seed=run.settings.seed,
        )

    def on_backward(self, run: Run, /) -> None:
        """The method sees dense gradients, the optimizer masked ones."""
        self.sparsifier.before_step(run.progress)

    def on_step(self, run: Run, /) -> None:
        """Masks may change, and are applied."""
        self.sparsifier.step(run.optimizer, run.progress)

    def on_judge(self, run: Run, /) -> None:  # noqa: ARG002 - a hook
        """Averages that another callback has put in get the zeros too."""
        self.sparsifier.masks.apply()

    def on_end(self, run: Run, /) -> None:
        """Say when the run ended before all zeros were there."""
        masks = self.sparsifier.masks
        reached, wanted = masks.zeros, self.method.final_sparsity
        own = isinstance(self.pattern, Pattern) and self.pattern.sparsity is not None
        if not own and reached < wanted - masks.coarseness:
            what = "zeros" if isinstance(self.pattern, Pattern) else "of its units at zero"
            run.notes.append(
                f"the network that is given back has {reached:.1%} {what} where {wanted:.1%} were "
                "wanted: the run ended, or its best epoch was, before all were there, or groups "
                "are at the least that they keep"
            )

    def identity(self) -> str:
        """The method, the pattern and what stays dense."""
        dense = f"{self.keep_dense} {[str(key) for key in self.ignored_layers]}"
        return f"SparseTraining({self.method}, {self.pattern_name}, dense {dense})"

    def state_dict(self) -> dict[str, Any]:
        """Masks, random state and place in the run."""
        return self.sparsifier.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take them back."""
        self.sparsifier.load_state_dict(state)

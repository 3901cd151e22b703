"""Sparse training in any loop: two calls around the optimizer's step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import InputError
from penjing.graph.capture import Example, capture
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.selection import Key
from penjing.pruning.weights.targets import ROLES, Wanted, find_targets
from penjing.sparse_training.masks import Masks
from penjing.sparse_training.protocol import Method, Moment


@dataclass(eq=False, slots=True, kw_only=True)
class Sparsifier:
    """A method at work on one network, whoever runs the loop.

    ```python
    sparsifier = Sparsifier.on(model, example_inputs, Gradual(schedule=0.9), total_steps=10_000)
    for x, y in loader:
        loss(model(x), y).backward()
        sparsifier.before_step()  # gradients are there
        optimizer.step()
        sparsifier.step(optimizer)  # weights have moved
    ```

    Args:
        method: When masks change and how.
        moment: The masks, the network, and where the run is.
        total_steps: Optimizer steps of the whole run; what progress is counted by.
        dense: Weights that never become sparse, and why.
        taken: Steps taken.
    """

    method: Method
    moment: Moment
    total_steps: int = 0
    dense: Mapping[str, str] = field(default_factory=dict)
    taken: int = 0
    _seen: int = 0

    @classmethod
    def on(  # noqa: PLR0913 - the words of `sparsify`
        cls,
        model: nn.Module,
        example_inputs: Example,
        method: Method,
        *,
        total_steps: int = 0,
        pattern: str | Pattern = "element",
        ignored_layers: Iterable[Key] = (),
        keep_dense: Iterable[str] = ROLES,
        indivisible: Indivisible = "error",
        seed: int = 0,
    ) -> Sparsifier:
        """Look at a network and begin.

        Args:
            model: Trained in place by your loop.
            example_inputs: A tensor, a tuple (positional) or a dict (keywords).
            method: `Gradual`, `Evolving`, `Alternating`, or your own.
            total_steps: Optimizer steps of the whole run.
            pattern: "element", "n:m", "block:RxC", "kernel".
            ignored_layers: Modules, names, globs or types that stay dense.
            keep_dense: Kinds of layers that stay dense: "first", "last", "depthwise".
            indivisible: What happens where the pattern does not divide a layer.
            seed: Of random choices.

        Returns:
            The sparsifier; nothing has been changed yet.

        Raises:
            InputError: No layer may become sparse; the reasons are told.
            CaptureError: The network does not export.
            StrategyError: A pattern that does not divide a layer, or layers that match nothing.
        """
        wanted = Wanted(
            pattern=Pattern.parse(pattern),
            keep_dense=tuple(keep_dense),
            ignored_layers=tuple(ignored_layers),
            indivisible=indivisible,
        )
        targets, dense = find_targets(model, capture(model, example_inputs), wanted)
        if not targets:
            why = "; ".join(f"{name}: {reason}" for name, reason in dense.items()) or "no layers"
            raise InputError(f"no layer may become sparse: {why}. See keep_dense=")
        masks = Masks(model, targets, generator=torch.Generator().manual_seed(seed))
        return cls(method=method, moment=Moment(masks), total_steps=total_steps, dense=dense)

    @property
    def masks(self) -> Masks:
        """Which weights stay."""
        return self.moment.masks

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights that may become sparse."""
        return self.masks.sparsity

    def before_step(self, progress: float | None = None) -> None:
        """Gradients are there: the method looks at them, then they are masked.

        Args:
            progress: Share of the run that is done; None counts steps.

        Raises:
            InputError: Neither `progress` nor `total_steps` was given.
        """
        self.moment.progress = self._progress(progress)
        self.method.on_gradients(self.moment)
        self.masks.apply_to_gradients()

    def step(self, optimizer: Optimizer | None = None, progress: float | None = None) -> None:
        """The optimizer has stepped: masks may change, and weights that do not stay are zero.

        Args:
            optimizer: Whose memory of dropped weights is cleared when masks have changed.
            progress: As in `before_step`.

        Raises:
            InputError: Neither `progress` nor `total_steps` was given.
        """
        self.moment.progress = self._progress(progress)
        self.method.on_weights(self.moment)
        self.masks.apply()
        behind = bool(self.moment.memory)  # weights behind masks decay, and moments see that
        if optimizer is not None and (behind or self._seen != self.masks.changes):
            self.masks.apply_to_moments(optimizer)
            self._seen = self.masks.changes
        if optimizer is not None and self.moment.restarts:
            _begin_anew(optimizer)
        self.moment.restarts = False
        self.taken += 1

    def state_dict(self) -> dict[str, Any]:
        """Masks, random state and place in the run."""
        memory = {name: tensor.clone() for name, tensor in self.moment.memory.items()}
        place = {"updated": self.moment.updated, "taken": self.taken, "memory": memory}
        return {**self.masks.state_dict(), **place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            InputError: The masks are those of another network.
        """
        self.masks.load_state_dict(state)
        self._seen = self.masks.changes
        self.moment.updated, self.taken = float(state["updated"]), int(state["taken"])
        device = next(iter(self.masks.weights.values())).device
        self.moment.memory = {name: t.to(device) for name, t in state["memory"].items()}

    def _progress(self, progress: float | None) -> float:
        if progress is not None:
            return progress
        if self.total_steps < 1:
            raise InputError("give total_steps to Sparsifier.on, or progress to each step")
        return min((self.taken + 1) / self.total_steps, 1.0)


@torch.no_grad()
def _begin_anew(optimizer: Optimizer) -> None:
    """Make all that an optimizer remembers zero, its counts of steps too."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, (int, float)):
                state[name] = type(value)(0)

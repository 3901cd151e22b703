"""Sparse training in any loop: two calls around the optimizer's step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Example, capture
from penjing.graph.network import Network
from penjing.pruning.patterns import Indivisible, Pattern
from penjing.pruning.selection import Key, ignored_groups
from penjing.pruning.verify import silent
from penjing.pruning.weights.targets import ROLES, Wanted, find_targets
from penjing.sparse_training._alternating import Alternating
from penjing.sparse_training._evolving import Evolving
from penjing.sparse_training._str import STR
from penjing.sparse_training.masks import Masks
from penjing.sparse_training.parts import UNIT, Blocks, Part, Units
from penjing.sparse_training.protocol import Method, Moment
from penjing.task.randomness import device_of


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
            pattern: "element", "n:m", "block:RxC", "kernel"; "unit" for whole units of groups,
                which `vanished` then gives a plan to cut. Sparsity is then the share of units, as
                in `penjing.prune`.
            ignored_layers: Modules, names, globs or types that stay dense.
            keep_dense: Kinds of layers that stay dense: "first", "last", "depthwise"; of no
                meaning for units.
            indivisible: What happens where the pattern does not divide a layer.
            seed: Of random choices.

        Returns:
            The sparsifier; nothing has been changed yet.

        Raises:
            InputError: No layer may become sparse; the reasons are told.
            CaptureError: The network does not export.
            StrategyError: A pattern that does not divide a layer or that the method cannot make,
                or layers that match nothing.
        """
        parts: Sequence[Part]
        if pattern == UNIT:
            _check_takes_units(method)
            parts, dense = _units(model, example_inputs, tuple(ignored_layers))
        else:
            wanted = Wanted(
                pattern=Pattern.parse(pattern),
                keep_dense=tuple(keep_dense),
                ignored_layers=tuple(ignored_layers),
                indivisible=indivisible,
            )
            targets, dense = find_targets(model, capture(model, example_inputs), wanted)
            parts = [Blocks(target) for target in targets]
        if not parts:
            what = "no group may lose units" if pattern == UNIT else "no layer may become sparse"
            why = "; ".join(f"{name}: {reason}" for name, reason in dense.items()) or "no layers"
            raise InputError(f"{what}: {why}. See keep_dense= and ignored_layers=")
        masks = Masks(model, parts, generator=torch.Generator().manual_seed(seed))
        return cls(method=method, moment=Moment(masks), total_steps=total_steps, dense=dense)

    @property
    def masks(self) -> Masks:
        """Which weights stay."""
        return self.moment.masks

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights, or units, that may become zero."""
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


def _units(
    model: nn.Module, example: Example, ignored: tuple[Key, ...]
) -> tuple[list[Units], dict[str, str]]:
    """Groups whose units may become zero, and why the others may not."""
    network = _network(model, example)
    kept = ignored_groups(model, network.groups, ignored)
    parts: list[Units] = []
    dense = {}
    for group in network.groups:
        units = Units.of(model, group)
        if group.name in kept:
            dense[group.name] = "it is among ignored_layers"
        elif not group.exact:
            dense[group.name] = "a norm runs over its units and would count their zeros"
        elif group.kind == "experts":
            dense[group.name] = "experts are chosen among, and one of zeros could be chosen"
        elif units.shapes:
            parts.append(units)
    loud = [] if _silent(network, parts) else [u for u in parts if not _silent(network, [u])]
    for units in loud:
        dense[units.name] = "an op without weights reads its units and would count their zeros"
    return [units for units in parts if units not in loud], dense


def _network(model: nn.Module, example: Example) -> Network:
    """The network on the CPU, where cuts are tried."""
    if device_of(model).type == "cpu":
        return Network.of(model, example)
    moved = pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, example)
    return Network.of(copy.deepcopy(model).cpu(), moved)


def _silent(network: Network, parts: Sequence[Units]) -> bool:
    """Whether a unit of each group can be cut unnoticed once its weights are zero."""
    plan = network.plan({units.name: (0,) for units in parts})
    return not parts or silent(network.cut(plan), [units.group for units in parts])


def _check_takes_units(method: Method) -> None:
    """Refuse methods that bring weights back: a unit of zeros gets no gradient to grow by."""
    if isinstance(method, (Alternating, Evolving, STR)):
        raise StrategyError(
            f"{type(method).__name__} lets zeros come back, and a unit whose weights are all zero "
            "gets no gradient to do so; for whole units take 'gradual', 'movement' or 'lottery'"
        )


@torch.no_grad()
def _begin_anew(optimizer: Optimizer) -> None:
    """Make all that an optimizer remembers zero, its counts of steps too."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif isinstance(value, (int, float)):
                state[name] = type(value)(0)

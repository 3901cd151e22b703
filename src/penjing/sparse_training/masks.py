"""Masks over the weights of a network in training.

A mask acts on the stored weight itself, after every step of the optimizer: whatever optimizer,
weight decay or average is at work, what a state dict holds has its zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import InputError
from penjing.pruning.sparsity import Removal
from penjing.pruning.sparsity.protocol import SparsityAllocation
from penjing.pruning.weights.protocol import Target
from penjing.sparse_training.parts import Blocks, Part
from penjing.training.callbacks import DivergedError


@dataclass(eq=False, slots=True)
class Masks:
    """Which weights stay.

    Args:
        model: In training; its weights are changed in place.
        parts: What may become zero: blocks of weights, or units of groups.
        kept: Name -> bool mask of the weight's shape; all ones at first.
        generator: For random choices.
        changes: How often a mask was set.
    """

    model: nn.Module
    parts: Sequence[Part]
    kept: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    changes: int = 0

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            self.kept.setdefault(name, torch.ones_like(weight, dtype=torch.bool))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The weights by name, as they are now."""
        names = dict.fromkeys(name for part in self.parts for name in part.weights)
        return {name: self.model.get_parameter(name) for name in names}

    @property
    def targets(self) -> list[Target]:
        """The weights whose blocks are masked; none where whole units are."""
        return [part.target for part in self.parts if isinstance(part, Blocks)]

    @property
    def sparsity(self) -> float:
        """Share that the masks drop, of the weights or of the units by their size."""
        return self.share_gone(self.kept)

    @property
    def zeros(self) -> float:
        """The same of the weights as they are."""
        return self.share_gone(self.weights)

    @property
    def coarseness(self) -> float:
        """How far rounding to whole blocks may stay from a share that is asked for."""
        return max(0.01, *(part.step for part in self.parts))

    def share_gone(self, kept: Mapping[str, Tensor]) -> float:
        """Share that is zero in masks, or in weights, given by name."""
        total = sum(part.size for part in self.parts)
        return sum(part.gone(kept) * part.size for part in self.parts) / max(total, 1)

    def choose(
        self, scores: Mapping[str, Tensor], sparsity: float, allocation: SparsityAllocation
    ) -> None:
        """New masks that drop the lowest scores.

        Args:
            scores: Score of every weight, of the weight's shape.
            sparsity: Share of zeros among all parts, in [0, 1).
            allocation: How they are spread over the layers.
        """
        _check(scores)
        layers = [part.scored(scores) for part in self.parts]
        total = sum(layer.weights for layer in layers)
        most = max(part.most for part in self.parts)
        spread = allocation(layers, Removal(amount=sparsity * total, max_sparsity=most))
        found: dict[str, Tensor] = {}
        for part, layer in zip(self.parts, layers, strict=True):
            for name, mask in part.masks(layer, spread[part.name]).items():
                found[name] = found[name] & mask if name in found else mask  # cut in two dimensions
        for name, mask in found.items():
            self.put(name, mask)

    def put(self, name: str, mask: Tensor) -> None:
        """Set the mask of one weight.

        Raises:
            InputError: A mask of another shape, or one that keeps nothing.
        """
        weight = self.model.get_parameter(name)
        if mask.shape != weight.shape:
            raise InputError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, the weight "
                f"{tuple(weight.shape)}; was it made for another network?"
            )
        if not mask.any():
            raise InputError(f"the mask of {name!r} keeps no weight; the layer would be dead")
        self.kept[name] = mask.to(weight.device, torch.bool)
        self.changes += 1

    def dense(self) -> None:
        """Let every weight stay."""
        for name, mask in self.kept.items():
            self.kept[name] = torch.ones_like(mask)
        self.changes += 1

    @torch.no_grad()
    def apply(self, other: nn.Module | None = None) -> None:
        """Make the weights zero that do not stay, in place.

        Args:
            other: A network of the same names, such as a moving average of your own; None is the
                one in training.

        Raises:
            InputError: It has no such weight, or one of another shape.
        """
        if other is None:
            for name, weight in self.weights.items():
                weight.mul_(self.kept[name])
            return
        known = dict(other.named_parameters(remove_duplicate=False))
        for name, mask in self.kept.items():
            if name not in known or known[name].shape != mask.shape:
                seen = tuple(known[name].shape) if name in known else "no such weight"
                raise InputError(
                    f"the mask of {name!r} has shape {tuple(mask.shape)}, the "
                    f"{type(other).__name__} has {seen}; give the network itself, without a wrapper"
                )
        for name, mask in self.kept.items():
            known[name].mul_(mask.to(known[name].device))

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """Make their gradients zero, so that clipping and moments see only what stays."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.kept[name])

    @torch.no_grad()
    def apply_to_moments(self, optimizer: Optimizer) -> None:
        """Make what the optimizer remembers of them zero, so that nothing pulls them back."""
        for name, weight in self.weights.items():
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.mul_(self.kept[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The masks and the state of the generator."""
        return {**{f"mask {n}": m for n, m in self.kept.items()}, "rng": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            InputError: A mask is missing or has another shape.
        """
        for name in list(self.kept):
            if f"mask {name}" not in state:
                raise InputError(f"the saved masks have none for {name!r}")
            self.put(name, state[f"mask {name}"])
        self.generator.set_state(state["rng"])


def _check(scores: Mapping[str, Tensor]) -> None:
    """Refuse to choose by the scores of a training that has diverged.

    Raises:
        DivergedError: A score is NaN; the training loop then goes back to its last good state.
    """
    for name, score in scores.items():
        wrong = int(score.isnan().sum())
        if wrong:
            raise DivergedError(
                f"{wrong} of {score.numel()} scores of {name!r} are NaN, so no zeros can be "
                "chosen: the training has diverged; take a lower learning rate, say"
            )

"""Random importance: the control that every criterion must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.plan import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Uniform random scores, the same for a group whenever it is asked for.

    Args:
        seed: Same seed, same scores; the order of the calls and the global random state play no
            part.

    Source:
        The control of Su et al. 2020, arXiv:2009.11094, and of PruningBench 2024, arXiv:2406.12315.

    Example:
        >>> group = Group("conv", units=3, slices=())
        >>> random = Random(seed=1)
        >>> bool((random(nn.Identity(), group) == random(nn.Identity(), group)).all())
        True
    """

    seed: int = 0

    def __call__(self, model: nn.Module, group: Group, /) -> Tensor:  # noqa: ARG002 - the protocol's
        """Random scores in [0, 1), shape `(group.units,)`, float32, on the CPU.

        Args:
            model: Not read.
            group: Only its name and number of units matter.

        Returns:
            Scores that depend on the seed and the group's name alone.
        """
        digest = hashlib.sha256(f"{self.seed}:{group.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(group.units, generator=generator)

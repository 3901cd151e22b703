"""Where the samples of a batch lie in a value of the network.

Integer programs run one sample, whose values have no dimension for a batch. Networks mostly have it
first, but some move it behind the steps of a sequence, or merge it with heads or windows.

Suffixes: N = samples; the rest are the dimensions of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The dimension that holds the samples.

    Args:
        dim: Its number.
        share: Positions that each sample has in it; more than one where it is merged with another.
        outer: Whether these follow each other, as in `(batch * heads, ...)`.
    """

    dim: int = 0
    share: int = 1
    outer: bool = True

    def given(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one sample's part of a value.

        Args:
            shape: Of the whole value.

        Returns:
            Without the samples.
        """
        kept = () if self.share == 1 else (self.share,)
        return (*shape[: self.dim], *kept, *shape[self.dim + 1 :])

    def spread(self, each: Tensor, samples: int) -> Tensor:
        """Numbered positions of all samples, as they lie in the network.

        Args:
            each: Of one sample.
            samples: How many; their numbers are `each.numel()` apart.

        Returns:
            A tensor of the shape that the network has.
        """
        all_N = torch.stack([each + each.numel() * n for n in range(samples)])
        if self.share == 1:
            return all_N.movedim(0, self.dim)
        return all_N.movedim(0, self.dim + (not self.outer)).flatten(self.dim, self.dim + 1)

    def samples(self, whole: Tensor, samples: int) -> Tensor:
        """The reverse of `spread`: samples first."""
        if self.share == 1:
            return whole.movedim(self.dim, 0)
        sizes = (samples, self.share) if self.outer else (self.share, samples)
        apart: Tensor = whole.unflatten(self.dim, sizes)
        return apart.movedim(self.dim + (not self.outer), 0)

    @classmethod
    def of(cls, whole: Tensor, samples: int, size: int) -> Self | None:
        """Where the samples are after a movement.

        Args:
            whole: Positions as `spread` numbers them, moved.
            samples: How many there are.
            size: Positions of one sample.

        Returns:
            None when samples are mixed, or do not have the same positions.
        """
        numbers = torch.div(whole, size, rounding_mode="floor")
        dims = [d for d, s in enumerate(whole.shape) if s > 1 and bool(numbers.diff(dim=d).any())]
        if samples == 1:
            dims = [d for d, s in enumerate(whole.shape) if s == 1][:1] or [0]
        if len(dims) != 1 or whole.shape[dims[0]] % samples:
            return None
        share = whole.shape[dims[0]] // samples
        for found in (cls(dims[0], share), cls(dims[0], share, outer=False)):
            each_N = found.samples(whole, samples)
            apart = size * torch.arange(samples).view(-1, *(1,) * (each_N.dim() - 1))
            if torch.equal(each_N, each_N[:1] + apart.to(whole.dtype)):
                return found
        return None

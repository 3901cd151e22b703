"""Random importance of weights: the control that every criterion must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.pruning.patterns import Tiling
from penjing.pruning.weights.protocol import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Uniform random scores, the same for a layer whenever it is asked for.

    Args:
        seed: Same seed, same scores; the order of the calls and the global random state play no
            part.

    Source:
        The control of Su et al. 2020, arXiv:2009.11094.
    """

    seed: int = 0

    def __call__(self, layer: Matrix, tiling: Tiling, /) -> Tensor:
        """Random scores in [0, 1).

        Args:
            layer: Only its name is read.
            tiling: Which weights go together.

        Returns:
            `(N, B)` float64.
        """
        digest = hashlib.sha256(f"{self.seed}:{layer.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(tiling.sizes.shape, dtype=torch.float64, generator=generator)

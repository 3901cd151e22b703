"""Mixtures of experts that several tests cut: stacked in tensors, or modules of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, INNER, EXPERTS, CHOSEN = 6, 5, 4, 2


class Expert(nn.Module):
    """One that stands in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class Mixture(nn.Module, ABC):
    """Experts in stacked tensors; subclasses say how a token reaches those that were chosen.

    `allowed` is the reference: what it leaves out has minus infinity for a score.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(3, WIDTH), nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))
        self.head = self.last()
        self.allowed: Tensor | None = None

    def last(self) -> nn.Module:
        """What comes behind the mixture."""
        return nn.Linear(WIDTH, 2)

    def scores(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        return scores if self.allowed is None else scores.masked_fill(~self.allowed, -torch.inf)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        return self.head(x + self.mixed(x, self.scores(x)))

    @abstractmethod
    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        """What the chosen experts make of every row, weighed."""


class LookedUp(Mixture):
    """Every token takes the weights of its experts along, by `einsum`."""

    def mixed(self, x: Tensor, scores: Tensor) -> Tensor:
        shares, chosen = torch.topk(scores.softmax(-1), CHOSEN, dim=-1)
        gate, up = torch.einsum("bkoi,bi->bko", self.up[chosen], x).chunk(2, -1)
        made = torch.einsum("bkio,bko->bki", self.down[chosen], F.silu(gate) * up)
        return (made * shares.unsqueeze(-1)).sum(1)

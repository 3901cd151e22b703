"""A residual network with a branch that can go."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branch(nn.Module):
    """A layer with its own addition, or with the addition outside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Deep(nn.Module):
    """Branches, of which the third hardly adds anything."""

    BRANCHES = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.read = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList([Branch() for _ in range(self.BRANCHES)])
        with torch.no_grad():
            self.layers[2].down.weight.mul_(1e-3)
            self.layers[2].down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for layer in self.layers:
            x = layer(x)
        return self.read(x)

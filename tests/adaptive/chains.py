"""Small networks with places for exits, and data that some of their inputs are easy in."""

import torch
from torch import nn
from torch.nn import functional as F

from penjing.task import Task

generator = torch.Generator().manual_seed(3)
X = torch.randn(96, 3, 8, 8, generator=generator)
Y = torch.arange(96) % 3
X += torch.tensor([-0.8, 0.0, 0.8])[Y][:, None, None, None]


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)))))


class Chain(nn.Module):
    """Three residual blocks between a stem and a classifier."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), nn.MaxPool2d(2), Block(width), Block(width))
        self.end = nn.Linear(width, 3)

    def forward(self, x):
        return self.end(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Masked(nn.Module):
    """Tokens with a mask that every layer reads, and one layer used twice."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.layer = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.end = nn.Linear(width, 4)

    def forward(self, tokens):
        mask = (tokens != 0)[..., None]
        x = self.embedding(tokens) * mask
        for _ in range(2):
            x = torch.relu(self.layer(x)) * mask + x
        return self.end(self.norm(x).mean(1))


def chain(seed=0):
    torch.manual_seed(seed)
    net = Chain()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return net.eval()


def deep():
    """Three layers."""
    torch.manual_seed(0)
    layers = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(*layers).eval()


def accuracy(outputs, labels):
    return float((outputs.argmax(1) == labels).double().mean())


def task(**settings):
    usual = {
        "train": [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)],
        "val": [(X[64:], Y[64:])],
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
    }
    return Task(**{**usual, **settings})

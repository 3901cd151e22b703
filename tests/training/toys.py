"""A small problem that trains in milliseconds, with everything that can make a run inexact."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from penjing.task import Task

generator = torch.Generator().manual_seed(1)
X = torch.randn(48, 6, generator=generator)
Y = (X[:, :3].sum(1) > 0).long()


class Net(nn.Module):
    """Batch statistics, dropout and a buffer that no state dict has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.outside = nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.outside(self.drop(F.relu(self.norm(self.inside(x)))))


def accuracy(outputs, labels):
    return float((outputs.argmax(1) == labels).double().mean())


def task(**settings):
    """Shuffled by a generator of its own, with noise drawn while batches are made."""
    loader = DataLoader(
        TensorDataset(X[:32], Y[:32]), 8, shuffle=True, generator=torch.Generator().manual_seed(5)
    )
    usual = {
        "train": loader,
        "val": [(X[32:], Y[32:])],
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
        "transform_fn": noisy,
    }
    return Task(**{**usual, **settings})


def noisy(item):
    inputs, labels = item
    return inputs + 0.01 * torch.randn_like(inputs), labels


def state(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def equal(first, second):
    """Bit for bit."""
    return all(torch.equal(a, state(second)[name]) for name, a in state(first).items())

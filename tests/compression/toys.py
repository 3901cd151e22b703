"""A small convolutional net with data, and a stopwatch that needs no runtime."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from penjing.compression.compiled import CompiledStopwatch
from penjing.compression.stopwatch import Stopwatch
from penjing.figures import LatencyFigures
from penjing.task import Task

CLASSES = 4
ORIGINAL_MS = 10.0
OVERHEAD_BYTES = 1024


class Net(nn.Module):
    """Two convolutions and a head; a little above 10 000 MACs."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, CLASSES)
        self.eval()
        with torch.no_grad():  # so that every class is decided for about as often
            self.head.bias -= self(scans()).mean(0)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))).mean((2, 3)))


EXAMPLE = torch.zeros(1, 1, 4, 4)


def scans(samples=96, seed=1):
    return torch.randn(samples, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def accuracy(outputs, labels):
    return float((outputs.argmax(1) == labels).double().mean())


def task(**settings):
    """Labels are the original's own decisions, so that its accuracy is 1."""
    x = scans()
    with torch.no_grad():
        y = Net()(x).argmax(1)
    usual = {
        "train": [(x[:48], y[:48])],
        "val": [(x[48:80], y[48:80])],
        "test": [(x[80:], y[80:])],
        "loss": F.cross_entropy,
        "metrics": {"accuracy": accuracy},
    }
    return Task(**{**usual, **settings})


def timed(milliseconds):
    return LatencyFigures("fake", 1, 1, 5, milliseconds, milliseconds, milliseconds)


class FakeWatch:
    """Latency and bytes by formula; counts how many networks were measured.

    Args:
        speedup: Of a share of the original's MACs.
        dies_at: Number of the network at which the process is killed.
        busy: How many times longer everything takes once the first network was measured.
    """

    def __init__(self, speedup=lambda share: 1 / share, dies_at=None, busy=1.0):
        self.speedup = speedup
        self.busy = busy
        self.dies_at = dies_at
        self.measured = 0
        self.original = None

    def add(self, _model, figures, path):
        self.measured += 1
        if self.measured == self.dies_at:
            raise KeyboardInterrupt
        self.original = self.original or figures.macs
        ratio = self.speedup(figures.macs / self.original)
        theirs = ORIGINAL_MS * (self.busy if self.measured > 1 else 1.0)
        milliseconds = theirs / ratio
        latency = replace(timed(milliseconds), ratio=ratio, original=timed(theirs))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")
        size = 4 * figures.params + OVERHEAD_BYTES
        return replace(figures, size_bytes=size, latency_ms=milliseconds, latency=latency)

    def install(self, monkeypatch):
        for kind in (Stopwatch, CompiledStopwatch):
            monkeypatch.setattr(kind, "add", lambda _self, *given: self.add(*given))
        return self


class ZeroWatch(FakeWatch):
    """A runtime that takes as long as there are numbers other than zero."""

    def add(self, model, figures, path):
        counted = replace(figures, macs=figures.nonzero)
        return replace(super().add(model, counted, path), macs=figures.macs)


def state(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def equal(first, second):
    """Bit for bit."""
    return state(first).keys() == state(second).keys() and all(
        torch.equal(a, state(second)[name]) for name, a in state(first).items()
    )


def rows(result):
    """Candidates without the time that making them took."""
    return [replace(row, seconds=0.0) for row in result.pareto]

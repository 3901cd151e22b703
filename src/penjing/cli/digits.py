"""The demo's network and data: scikit-learn's scans of handwritten digits, real and small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penjing.errors import require
from penjing.task import Task
from penjing.training import Fit, fit

SPLIT = (1097, 300, 400)  # of 1797 scans, drawn once with SPLIT_SEED: train, val, test
SPLIT_SEED = 0
BATCH = 64
EPOCHS = 10


class Block(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        before: Channels in.
        after: Channels out.
        stride: Of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        plain = before == after and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways, rectified."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """A small residual network for 8x8 scans of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits, shape (batch, 10), of scans, shape (batch, 1, 8, 8)."""
        y = self.blocks(F.relu(self.bn(self.stem(x))))
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


@dataclass(frozen=True, eq=False, slots=True)
class Digits:
    """The scans, divided.

    Args:
        splits: Images of shape (samples, 1, 8, 8) in [0, 1] and labels, for train, val and test.
    """

    splits: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def read(cls) -> Digits:
        """The 1797 scans that come with scikit-learn: 1097 to train, 300 to choose, 400 to test.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
        """
        raw = require("sklearn.datasets", extra="demo").load_digits()
        images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(raw.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        parts = order.split(SPLIT)
        return cls(tuple((images[part], labels[part]) for part in parts))

    def task(self, seed: int) -> Task:
        """Data, loss and accuracy; training batches are shuffled by `seed`."""
        from torchmetrics import Accuracy

        train, val, test = (torch.utils.data.TensorDataset(*part) for part in self.splits)
        return Task(
            train=torch.utils.data.DataLoader(
                train, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed)
            ),
            val=torch.utils.data.DataLoader(val, 300),
            test=torch.utils.data.DataLoader(test, 400),
            loss=F.cross_entropy,
            metrics={"accuracy": Accuracy(task="multiclass", num_classes=10)},
            classes=[str(digit) for digit in range(10)],
        )


def trained(task: Task, seed: int) -> DigitNet:
    """A network trained on the digits; no random state is moved.

    Args:
        task: Their task.
        seed: Of the weights and the order of the data.

    Returns:
        The network in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitNet()
    fit(net, task, Fit(epochs=EPOCHS, lr=3e-3, weight_decay=1e-2, seed=seed))
    return net.eval()

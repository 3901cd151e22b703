"""Tiny networks, one per way in which channels couple.

Each function takes a seed and returns an `nn.Module` in eval mode with a few hundred parameters and
randomised norm statistics. `NETWORKS` holds all of them by name with the shape of their input at
batch one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def example(name: str, batch: int = 1, seed: int = 0) -> Tensor:
    """Random input of the network called `name`.

    Args:
        name: A key of `NETWORKS`.
        batch: Samples.
        seed: Of the input.

    Returns:
        Standard normal numbers, shape `(batch, *shape)`, float32.

    Example:
        >>> example("mlp").shape
        torch.Size([1, 6])
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *NETWORKS[name][1]), generator=generator)


def make(name: str, seed: int = 0) -> nn.Module:
    """The network called `name`.

    Args:
        name: A key of `NETWORKS`.
        seed: Of weights and norm statistics.

    Returns:
        The network in eval mode.

    Example:
        >>> make("residual")(example("residual")).shape
        torch.Size([1, 4])
    """
    return NETWORKS[name][0](seed)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Random weights, biases and norm statistics, in place; nothing is left at 0 or 1.

    Args:
        model: Changed and put in eval mode.
        seed: Same seed, same values; the global random state is not moved.

    Returns:
        `model`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for module in model.modules():
            if isinstance(module, _NORMS):
                _randomise_norm(module, generator)
    return model.eval()


def plain(seed: int = 0) -> nn.Module:
    """Convolutions with norms in a row."""
    return randomise(
        nn.Sequential(
            *_block(3, 8), *_block(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        ),
        seed,
    )


def residual(seed: int = 0) -> nn.Module:
    """Residual blocks; the second widens the stream by a projection (option B)."""
    return randomise(_Residual(option_a=False), seed)


def residual_a(seed: int = 0) -> nn.Module:
    """Residual blocks; the second widens the stream by strided, zero-padded identity (option A)."""
    return randomise(_Residual(option_a=True), seed)


def concat(seed: int = 0) -> nn.Module:
    """Each layer reads all earlier ones."""
    return randomise(_Concat(), seed)


def depthwise(seed: int = 0) -> nn.Module:
    """Inverted bottleneck: expansion, depthwise, squeeze-and-excitation, projection."""
    return randomise(_Depthwise(), seed)


def grouped(seed: int = 0) -> nn.Module:
    """A grouped convolution between dense ones."""
    return randomise(
        nn.Sequential(
            *_block(3, 8),
            *_block(8, 8, groups=4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ),
        seed,
    )


def shared(seed: int = 0) -> nn.Module:
    """One convolution used twice."""
    return randomise(_Shared(), seed)


def conv1d(seed: int = 0) -> nn.Module:
    """Convolutions over a sequence."""
    return randomise(
        nn.Sequential(
            nn.Conv1d(2, 8, 3, padding=1),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 6, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        ),
        seed,
    )


def transposed(seed: int = 0) -> nn.Module:
    """Down and up again by a transposed convolution."""
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 2, stride=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 2, 1),
        ),
        seed,
    )


def mlp(seed: int = 0) -> nn.Module:
    """Linear layers."""
    return randomise(
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)),
        seed,
    )


def flatten(seed: int = 0) -> nn.Module:
    """A linear layer reads every position of every channel."""
    return randomise(
        nn.Sequential(*_block(3, 6), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(6 * 4, 4)), seed
    )


NETWORKS: Mapping[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "plain": (plain, (3, 8, 8)),
    "residual": (residual, (3, 8, 8)),
    "residual_a": (residual_a, (3, 8, 8)),
    "concat": (concat, (3, 8, 8)),
    "depthwise": (depthwise, (3, 8, 8)),
    "grouped": (grouped, (3, 8, 8)),
    "shared": (shared, (3, 8, 8)),
    "conv1d": (conv1d, (2, 16)),
    "transposed": (transposed, (3, 8, 8)),
    "mlp": (mlp, (6,)),
    "flatten": (flatten, (3, 8, 8)),
}


def _block(inputs: int, outputs: int, groups: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, groups=groups)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


def _randomise_norm(norm: nn.Module, generator: torch.Generator) -> None:
    """Scales and variances in [0.5, 1.5), shifts and means around 0."""
    state = dict(norm.named_parameters()) | dict(norm.named_buffers())
    for name, tensor in state.items():
        if name in ("weight", "running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name in ("bias", "running_mean"):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, option_a: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.extra = outputs - inputs
        self.project = (
            nn.Conv2d(inputs, outputs, 1, stride) if self.extra and not option_a else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.project is not None:
            x = self.project(x)
        elif self.extra:
            x = F.pad(
                x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
            )
        return F.relu(x + y)


class _Residual(nn.Module):
    def __init__(self, *, option_a: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block1 = _ResidualBlock(4, 4, 1, option_a=option_a)
        self.block2 = _ResidualBlock(4, 8, 2, option_a=option_a)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.block2(self.block1(F.relu(self.stem(x)))).mean((2, 3)))
        return y


class _Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.conv3 = nn.Conv2d(10, 4, 3, padding=1)
        self.fc = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.conv1(x))
        both = torch.cat([first, F.relu(self.conv2(first))], dim=1)
        all_three = torch.cat([both, F.relu(self.conv3(self.norm(both)))], dim=1)
        y: Tensor = self.fc(all_three.mean((2, 3)))
        return y


class _Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.project = nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.depthwise(F.relu6(self.norm(self.expand(x)))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        y: Tensor = self.fc(F.relu(self.project(x * gate)).mean((2, 3)))
        return y


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        y: Tensor = self.fc(x.mean((2, 3)))
        return y

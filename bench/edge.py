"""Networks of the sizes that people deploy, with random weights: speed does not ask what they know.

MobileNetV1 (arXiv:1704.04861), MobileNetV2 (arXiv:1801.04381), DS-CNN (arXiv:1711.07128) and
ResNets for CIFAR (arXiv:1512.03385, shortcuts of kind A), written for the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    channels: int, filters: int, kernel: int | tuple[int, int] = 3, stride: int = 1, *,
    groups: int = 1, activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    """Convolution, norm, activation."""
    padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers = [
        nn.Conv2d(channels, filters, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


class Residual(nn.Module):
    """Two convolutions and a shortcut that subsamples and pads."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = conv(channels, filters, 3, stride)
        self.second = conv(filters, filters, 3, activation=None)
        self.stride, self.extra = stride, filters - channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W)."""
        y = self.second(self.first(x))
        if self.extra:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(x + y)


def cifar_resnet(depth: int, width: int = 16) -> nn.Module:
    """ResNet for 32x32 images, three stages."""
    layers: list[nn.Module] = [conv(3, width)]
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            filters = width << stage
            layers.append(Residual(channels, filters, 2 if stage and not block else 1))
            channels = filters
    return nn.Sequential(*layers, *head(channels, 10))


def head(channels: int, classes: int) -> list[nn.Module]:
    """Average, flatten, classify."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def separable(channels: int, filters: int, stride: int = 1) -> list[nn.Module]:
    """Depthwise, then pointwise."""
    return [conv(channels, channels, 3, stride, groups=channels), conv(channels, filters, 1)]


def mobilenet_v1() -> nn.Module:
    """Width 0.25 (person detection at 96x96, two classes)."""
    rows = [
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ]
    layers: list[nn.Module] = [conv(3, 8, 3, 2)]
    channels = 8
    for filters, stride in rows:
        layers += separable(channels, filters, stride)
        channels = filters
    return nn.Sequential(*layers, *head(channels, 2))


class Inverted(nn.Module):
    """Expand, filter, project."""

    def __init__(self, channels: int, filters: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = channels * expand
        self.layers = nn.Sequential(
            *([conv(channels, wide, 1, activation=nn.ReLU6)] if expand > 1 else []),
            conv(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6),
            conv(wide, filters, 1, activation=None),
        )
        self.same = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W)."""
        return x + self.layers(x) if self.same else self.layers(x)


def mobilenet_v2() -> nn.Module:
    """Width 1, 1000 classes."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [conv(3, 32, 3, 2, activation=nn.ReLU6)]
    channels = 32
    for expand, filters, count, stride in rows:
        for i in range(count):
            layers.append(Inverted(channels, filters, 1 if i else stride, expand))
            channels = filters
    return nn.Sequential(*layers, conv(channels, 1280, 1, activation=nn.ReLU6), *head(1280, 1000))


def ds_cnn() -> nn.Module:
    """Keyword spotting: 49x10 features, 64 channels, twelve words."""
    layers = [conv(1, 64, (10, 4), 2)]
    for _ in range(4):
        layers += separable(64, 64)
    return nn.Sequential(*layers, *head(64, 12))


def mlp() -> nn.Module:
    """Four hidden layers of 1024, ten classes."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


class Gru(nn.Module):
    """One GRU over 50 steps, as many inputs as hidden units, twelve classes of the last step."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.classify = nn.Linear(hidden, 12)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, hidden)."""
        return self.classify(self.gru(x)[0][:, -1])


Made = tuple[nn.Module, Tensor]
STEPS = 50

NETWORKS: dict[str, Callable[[], Made]] = {
    "resnet20": lambda: (cifar_resnet(20), torch.randn(1, 3, 32, 32)),
    "resnet56": lambda: (cifar_resnet(56), torch.randn(1, 3, 32, 32)),
    "resnet20-64": lambda: (cifar_resnet(20, 64), torch.randn(1, 3, 32, 32)),
    "mobilenet_v1-0.25": lambda: (mobilenet_v1(), torch.randn(1, 3, 96, 96)),
    "mobilenet_v2-96": lambda: (mobilenet_v2(), torch.randn(1, 3, 96, 96)),
    "mobilenet_v2-224": lambda: (mobilenet_v2(), torch.randn(1, 3, 224, 224)),
    "ds_cnn": lambda: (ds_cnn(), torch.randn(1, 1, 49, 10)),
    "mlp": lambda: (mlp(), torch.randn(1, 1024)),
    "gru-64": lambda: (Gru(64), torch.randn(1, STEPS, 64)),
    "gru-256": lambda: (Gru(256), torch.randn(1, STEPS, 256)),
}


def make(name: str, batch: int) -> Made:
    """A network in eval mode with lively norms, and an input."""
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval(), torch.randn(batch, *x.shape[1:])

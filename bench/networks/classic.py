"""Plain and concatenating families up to 2016: AlexNet, VGG, SqueezeNet, GoogLeNet, Inception."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import PooledClassifier, conv_bn_act


def alexnet(width: int = 16, classes: int = 10) -> nn.Module:
    """Krizhevsky et al. 2012: large kernels, flattened maps into three linear layers."""
    w = width
    return nn.Sequential(
        nn.Conv2d(3, w, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(w, 3 * w, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(3 * w, 4 * w, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4 * w, 4 * w, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Dropout(), nn.Linear(36 * w, 128), nn.ReLU(),
        nn.Dropout(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


VGG11 = (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M")


def vgg11_bn(width: int = 8, classes: int = 10) -> nn.Module:
    """Simonyan and Zisserman 2015, arXiv:1409.1556, configuration A with batch norm."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in VGG11:
        if entry == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += conv_bn_act(channels, width * int(entry))
        channels = width * int(entry)
    hidden = [nn.Linear(channels, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(64, classes))


class Fire(nn.Module):
    """Squeeze to few channels, expand by two kernels, concatenate."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1(x)), F.relu(self.expand3(x))], 1)


class SqueezeNet(nn.Module):
    """Iandola et al. 2016, arXiv:1602.07360: the classifier is a convolution."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, 4 * w, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(4 * w, w, 4 * w), Fire(8 * w, w, 4 * w), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(8 * w, 2 * w, 8 * w), Fire(16 * w, 2 * w, 8 * w),
        )  # fmt: skip
        self.dropout = nn.Dropout()
        self.classifier = nn.Conv2d(16 * w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.classifier(self.dropout(self.features(x))))
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)


class Inception(nn.Module):
    """Four branches side by side (Szegedy et al. 2015, arXiv:1409.4842)."""

    def __init__(self, inputs: int, w: int) -> None:
        super().__init__()
        self.one = conv_bn_act(inputs, 2 * w, 1)
        self.three = nn.Sequential(conv_bn_act(inputs, 2 * w, 1), conv_bn_act(2 * w, 4 * w))
        self.five = nn.Sequential(conv_bn_act(inputs, w, 1), conv_bn_act(w, 2 * w, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn_act(inputs, 2 * w, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class GoogLeNet(nn.Module):
    """Four inception blocks; in training also an auxiliary classifier, so that eval leaves it."""

    def __init__(self, width: int = 4, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv_bn_act(3, 4 * w, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.first = nn.Sequential(Inception(4 * w, w), Inception(10 * w, w), nn.MaxPool2d(2))
        self.second = nn.Sequential(Inception(10 * w, 2 * w), Inception(20 * w, 2 * w))
        self.auxiliary = PooledClassifier(10 * w, classes)
        self.head = PooledClassifier(20 * w, classes, dropout=0.2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = self.first(self.stem(x))
        late = self.head(self.second(early))
        return (late, self.auxiliary(early)) if self.training else late


def asymmetric(inputs: int, outputs: int, length: int, across: bool) -> nn.Sequential:
    """A 1 x n or n x 1 convolution."""
    kernel = (1, length) if across else (length, 1)
    padding = (0, length // 2) if across else (length // 2, 0)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU())


class FactorisedInception(nn.Module):
    """Inception-v3's block of 1 x 7 and 7 x 1 convolutions (arXiv:1512.00567, figure 6)."""

    def __init__(self, inputs: int, w: int) -> None:
        super().__init__()
        self.one = conv_bn_act(inputs, w, 1)
        self.seven = nn.Sequential(
            conv_bn_act(inputs, w, 1), asymmetric(w, w, 7, True), asymmetric(w, 2 * w, 7, False)
        )
        self.pool = conv_bn_act(inputs, w, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.seven(x), pooled], 1)


class ForkedInception(nn.Module):
    """Inception-v3's last block: a branch that forks and concatenates (figure 7)."""

    def __init__(self, inputs: int, w: int) -> None:
        super().__init__()
        self.one = conv_bn_act(inputs, w, 1)
        self.before = conv_bn_act(inputs, w, 1)
        self.across, self.down = asymmetric(w, w, 3, True), asymmetric(w, w, 3, False)

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.before(x)
        return torch.cat([self.one(x), torch.cat([self.across(trunk), self.down(trunk)], 1)], 1)


class InceptionReduction(nn.Module):
    """Halve the maps by a strided convolution and a pooling side by side."""

    def __init__(self, inputs: int, w: int) -> None:
        super().__init__()
        self.conv = conv_bn_act(inputs, 2 * w, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), F.max_pool2d(x, 3, 2, 1)], 1)


class InceptionV3(nn.Module):
    """Szegedy et al. 2016, arXiv:1512.00567; the input is rescaled channel by channel."""

    def __init__(self, width: int = 12, classes: int = 10) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            conv_bn_act(3, w, 3, 2), conv_bn_act(w, 2 * w), FactorisedInception(2 * w, w),
            InceptionReduction(4 * w, w), FactorisedInception(6 * w, 2 * w),
            ForkedInception(8 * w, 2 * w),
        )  # fmt: skip
        self.head = PooledClassifier(6 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = x[:, 0:1] * 0.458, x[:, 1:2] * 0.448, x[:, 2:3] * 0.45
        return self.head(self.features(torch.cat([red, green, blue], 1)))

"""Families for small devices: depthwise, inverted, shuffled, ghosted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import (
    Activation,
    PooledClassifier,
    SqueezeExcite,
    channel_shuffle,
    conv_bn,
    conv_bn_act,
)


def mobilenet_v1(width: int = 8) -> nn.Module:
    """Howard et al. 2017, arXiv:1704.04861: depthwise then pointwise."""
    layers: list[nn.Module] = [conv_bn_act(3, width, 3, 2)]
    channels = width
    for factor, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1)):
        layers += [
            conv_bn_act(channels, channels, 3, stride, channels),
            conv_bn_act(channels, width * factor, 1),
        ]
        channels = width * factor
    return nn.Sequential(*layers, PooledClassifier(channels))


@dataclass(frozen=True)
class Stage:
    """One row of an inverted-residual table."""

    outputs: int
    stride: int = 1
    expand: int = 4
    kernel: int = 3
    excite: bool = False
    activation: Activation = nn.ReLU6
    gate: Activation = nn.Sigmoid
    repeats: int = 1


class InvertedResidual(nn.Module):
    """Expand, depthwise, (excite), project; a shortcut where shapes allow (arXiv:1801.04381)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        layers: list[nn.Module] = []
        if stage.expand > 1:
            layers.append(conv_bn_act(inputs, hidden, 1, activation=stage.activation))
        depthwise = conv_bn_act(hidden, hidden, stage.kernel, stride, hidden, stage.activation)
        layers.append(depthwise)
        if stage.excite:
            squeezed = max(inputs // 4, 4)
            layers.append(SqueezeExcite(hidden, squeezed, stage.activation, stage.gate))
        self.body = nn.Sequential(*layers, conv_bn(hidden, stage.outputs, 1))
        self.adds = stride == 1 and inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def inverted_network(
    stem: int, stages: list[Stage], last: int, activation: Activation
) -> nn.Sequential:
    """Stem, stages, pointwise expansion, classifier."""
    layers: list[nn.Module] = [conv_bn_act(3, stem, 3, 2, activation=activation)]
    channels = stem
    for stage in stages:
        for number in range(stage.repeats):
            layers.append(InvertedResidual(channels, stage, stage.stride if number == 0 else 1))
            channels = stage.outputs
    layers.append(conv_bn_act(channels, last, 1, activation=activation))
    return nn.Sequential(*layers, PooledClassifier(last, dropout=0.2))


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, arXiv:1801.04381."""
    table = [Stage(8, expand=1), Stage(12, 2, repeats=2), Stage(16, 2, repeats=2), Stage(24)]
    return inverted_network(16, table, 64, nn.ReLU6)


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019, arXiv:1905.02244: hard swish, hard sigmoid, 5x5 kernels."""
    swish, gate = nn.Hardswish, nn.Hardsigmoid
    table = [
        Stage(8, 2, 1, 3, True, nn.ReLU, gate),
        Stage(12, 2, 4, 3, False, nn.ReLU, gate, 2),
        Stage(20, 2, 4, 5, True, swish, gate, 2),
    ]
    return inverted_network(16, table, 96, swish)


def efficientnet() -> nn.Module:
    """Tan and Le 2019, arXiv:1905.11946: SiLU, excitation in every block."""
    table = [
        Stage(8, 1, 1, 3, True, nn.SiLU),
        Stage(12, 2, 6, 3, True, nn.SiLU, repeats=2),
        Stage(20, 2, 6, 5, True, nn.SiLU, repeats=2),
    ]
    return inverted_network(16, table, 80, nn.SiLU)


def mnasnet() -> nn.Module:
    """Tan et al. 2019, arXiv:1807.11626: 3x3 and 5x5 blocks of different expansion."""
    table = [
        Stage(8, expand=1, activation=nn.ReLU),
        Stage(12, 2, 3, 3, False, nn.ReLU, repeats=3),
        Stage(20, 2, 3, 5, True, nn.ReLU, repeats=3),
        Stage(32, 2, 6, 5, False, nn.ReLU, repeats=2),
    ]
    return inverted_network(16, table, 128, nn.ReLU)


class ShuffleV1(nn.Module):
    """Grouped pointwise convolutions with a shuffle between (arXiv:1707.01083)."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        made, inner = outputs - inputs if stride > 1 else outputs, outputs // 4
        self.reduce = conv_bn_act(inputs, inner, 1, groups=groups)
        self.depthwise = conv_bn(inner, inner, 3, stride, inner)
        self.expand = conv_bn(inner, made, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        if self.stride > 1:
            return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))
        return F.relu(x + y)


def shufflenet_v1(groups: int = 4) -> nn.Module:
    """Two stages of three units."""
    units = [ShuffleV1(32, 64, 2, groups), ShuffleV1(64, 64, 1, groups)]
    units += [ShuffleV1(64, 128, 2, groups), ShuffleV1(128, 128, 1, groups)]
    return nn.Sequential(conv_bn_act(3, 32, 3, 2), *units, PooledClassifier(128))


class ShuffleV2(nn.Module):
    """Half of the channels pass, half are worked on (Ma et al. 2018, arXiv:1807.11164)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn_act(half, half, 1), conv_bn(half, half, 3, 1, half), conv_bn_act(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return channel_shuffle(torch.cat([left, self.branch(right)], 1), 2)


class ShuffleV2Down(nn.Module):
    """Both branches work and halve the maps; the channels double."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            conv_bn(inputs, inputs, 3, 2, inputs), conv_bn_act(inputs, inputs, 1)
        )
        self.right = nn.Sequential(
            conv_bn_act(inputs, inputs, 1),
            conv_bn(inputs, inputs, 3, 2, inputs),
            conv_bn_act(inputs, inputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.left(x), self.right(x)], 1), 2)


def shufflenet_v2(width: int = 16) -> nn.Module:
    """Two stages of two units."""
    w = width
    units = [ShuffleV2Down(w), ShuffleV2(2 * w), ShuffleV2(2 * w)]
    units += [ShuffleV2Down(2 * w), ShuffleV2(4 * w), ShuffleV2(4 * w)]
    last = conv_bn_act(4 * w, 8 * w, 1)
    return nn.Sequential(conv_bn_act(3, w, 3, 2), *units, last, PooledClassifier(8 * w))


class Ghost(nn.Module):
    """Half of the maps by a convolution, the others from them by a depthwise one."""

    def __init__(self, inputs: int, outputs: int, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        half = outputs // 2
        self.primary = conv_bn_act(inputs, half, 1, activation=activation)
        self.cheap = conv_bn_act(half, half, 3, 1, half, activation)

    def forward(self, x: Tensor) -> Tensor:
        made = self.primary(x)
        return torch.cat([made, self.cheap(made)], 1)


class GhostBottleneck(nn.Module):
    """Two ghost modules with excitation between and a shortcut (arXiv:1911.11907)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.expand = Ghost(inputs, hidden)
        self.strided = conv_bn(hidden, hidden, 3, stride, hidden) if stride > 1 else nn.Identity()
        self.excite = SqueezeExcite(hidden, hidden // 4, gate=nn.Hardsigmoid)
        self.project = Ghost(hidden, outputs, nn.Identity)
        fits = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if fits
            else nn.Sequential(
                conv_bn(inputs, inputs, 3, stride, inputs), conv_bn(inputs, outputs, 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.excite(self.strided(self.expand(x)))) + self.shortcut(x)


def ghostnet() -> nn.Module:
    """Han et al. 2020, arXiv:1911.11907."""
    blocks = [
        GhostBottleneck(16, 32, 16, 1),
        GhostBottleneck(16, 48, 24, 2),
        GhostBottleneck(24, 72, 24, 1),
        GhostBottleneck(24, 96, 40, 2),
    ]
    return nn.Sequential(conv_bn_act(3, 16, 3, 2), *blocks, PooledClassifier(40))


def ds_cnn(width: int = 32, classes: int = 12) -> nn.Module:
    """Depthwise separable keyword network (Zhang et al. 2017, arXiv:1711.07128)."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, width, (10, 4), 2, (4, 1), bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    for _ in range(4):
        layers += [conv_bn_act(width, width, 3, 1, width), conv_bn_act(width, width, 1)]
    return nn.Sequential(*layers, nn.Dropout(0.4), PooledClassifier(width, classes))

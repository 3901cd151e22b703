"""Families with shortcuts: ResNets of every kind, DenseNet, RegNet, ConvNeXt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import PooledClassifier, SqueezeExcite, conv_bn, conv_bn_act


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn_act(inputs, width, 3, stride)
        self.second = conv_bn(width, width)
        fits = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if fits else conv_bn(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in ResNeXt, wider in Wide ResNet), 1x1, and a shortcut."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int = 1, groups: int = 1, wide: int = 1
    ) -> None:
        super().__init__()
        inner, outputs = width * wide, width * self.expansion
        self.reduce = conv_bn_act(inputs, inner, 1)
        self.conv = conv_bn_act(inner, inner, 3, stride, groups)
        self.expand = conv_bn(inner, outputs, 1)
        fits = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if fits else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.expand(self.conv(self.reduce(x))) + self.shortcut(x))


def resnet(
    block: type[nn.Module], depths: tuple[int, ...], width: int, **options: int
) -> nn.Module:
    """Stem, stages of blocks, classifier."""
    layers: list[nn.Module] = [conv_bn_act(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if number == 0 and stage else 1
            layers.append(block(channels, width * 2**stage, stride, **options))
            channels = width * 2**stage * block.expansion
    return nn.Sequential(*layers, PooledClassifier(channels))


class OptionA(nn.Module):
    """A CIFAR block whose shortcut strides and pads with zeros, without parameters."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn_act(inputs, width, 3, stride)
        self.second = conv_bn(width, width)
        self.stride, self.extra = stride, width - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.extra:
            half = self.extra // 2
            strided = x[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(strided, (0, 0, 0, 0, half, half), "constant", 0)
        return F.relu(self.second(self.first(x)) + shortcut)


def resnet20_option_a(width: int = 8) -> nn.Module:
    """ResNet-20 for CIFAR (arXiv:1512.03385, section 4.2) with shortcuts of option A."""
    layers: list[nn.Module] = [conv_bn_act(3, width)]
    channels = width
    for stage in range(3):
        for number in range(3):
            layers.append(OptionA(channels, width * 2**stage, 2 if stage and number == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*layers, PooledClassifier(channels))


class PreActivation(nn.Module):
    """Norm and activation before each convolution (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1)
        fits = stride == 1 and inputs == width
        self.shortcut = None if fits else nn.Conv2d(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        opened = F.relu(self.norm1(x))
        residue = x if self.shortcut is None else self.shortcut(opened)
        return residue + self.conv2(F.relu(self.norm2(self.conv1(opened))))


def wide_preactivation_resnet(width: int = 12) -> nn.Module:
    """A wide pre-activation ResNet (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""
    blocks: list[nn.Module] = []
    channels = width
    for outputs, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)):
        blocks.append(PreActivation(channels, outputs, stride))
        channels = outputs
    last = [nn.BatchNorm2d(channels), nn.ReLU(), PooledClassifier(channels)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, *last)


class DenseLayer(nn.Module):
    """Reads everything before it in its block (Huang et al. 2017, arXiv:1608.06993)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = (
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
        )
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    """Keeps a list of maps and concatenates it anew for every layer."""

    def __init__(self, inputs: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + i * growth, growth) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def densenet(depths: tuple[int, ...] = (3, 4, 3), growth: int = 8) -> nn.Module:
    """Dense blocks with halving transitions between them."""
    layers: list[nn.Module] = [conv_bn_act(3, 2 * growth, 3, 2)]
    channels = 2 * growth
    for stage, depth in enumerate(depths):
        layers.append(DenseBlock(channels, growth, depth))
        channels += depth * growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage + 1 < len(depths):
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, PooledClassifier(channels))


class RegNetBlock(nn.Module):
    """Block Y: grouped 3x3 with squeeze-and-excitation (Radosavovic 2020, arXiv:2003.13678)."""

    def __init__(self, inputs: int, width: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_act(inputs, width, 1),
            conv_bn_act(width, width, 3, stride, width // group_width),
            SqueezeExcite(width, max(inputs // 4, 2)),
            conv_bn(width, width, 1),
        )
        fits = stride == 1 and inputs == width
        self.shortcut = nn.Identity() if fits else conv_bn(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def regnet_y(widths: tuple[int, ...] = (16, 32, 64), group_width: int = 8) -> nn.Module:
    """Two blocks a stage."""
    layers: list[nn.Module] = [conv_bn_act(3, 16, 3, 2)]
    channels = 16
    for width in widths:
        layers += [
            RegNetBlock(channels, width, 2, group_width),
            RegNetBlock(width, width, 1, group_width),
        ]
        channels = width
    return nn.Sequential(*layers, PooledClassifier(channels))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map, by permuting them last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, an inverted bottleneck of linear layers, a layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.reduce = (
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.reduce(F.gelu(self.expand(y)))).permute(0, 3, 1, 2)


def convnext(widths: tuple[int, ...] = (16, 32, 64)) -> nn.Module:
    """Liu et al. 2022, arXiv:2201.03545: patch stem, two blocks a stage, pooled head."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
    for stage, width in enumerate(widths):
        if stage:
            layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
        layers += [ConvNeXtBlock(width), ConvNeXtBlock(width)]
    return nn.Sequential(*layers, PooledClassifier(widths[-1]))

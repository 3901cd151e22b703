"""Topologies no paper names: several inputs and outputs, shared and tied weights, odd views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import PooledClassifier, conv_bn, conv_bn_act


def trunk(inputs: int, width: int) -> nn.Sequential:
    """Two convolutions that halve the maps once."""
    return nn.Sequential(conv_bn_act(inputs, width), conv_bn_act(width, 2 * width, 3, 2))


class Siamese(nn.Module):
    """One trunk sees both inputs; the absolute difference is judged."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.trunk = nn.Sequential(trunk(1, width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.judge = nn.Sequential(nn.Linear(2 * width, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.judge((self.trunk(left) - self.trunk(right)).abs())


class TwoSensors(nn.Module):
    """An image and a vector, two answers in a tuple; the inputs come as keywords."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.eye = nn.Sequential(trunk(3, width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.body = nn.Sequential(nn.Linear(7, 2 * width), nn.ReLU())
        self.mix = nn.Sequential(nn.Linear(4 * width, 3 * width), nn.ReLU())
        self.steer, self.speed = nn.Linear(3 * width, 2), nn.Linear(3 * width, 1)

    def forward(self, image: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.mix(torch.cat([self.eye(image), self.body(state)], 1))
        return self.steer(mixed), self.speed(mixed)


class FiLM(nn.Module):
    """A vector scales and shifts the maps channel by channel (arXiv:1709.07871)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.entry, self.conv = conv_bn_act(3, width), conv_bn(width, width)
        self.condition = nn.Linear(5, 2 * width)
        self.head = PooledClassifier(width)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        scale, shift = self.condition(inputs["vector"]).chunk(2, 1)
        x = self.conv(self.entry(inputs["image"]))
        x = F.relu((1 + scale[:, :, None, None]) * x + shift[:, :, None, None])
        return {"logits": self.head(x)}


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's weight transposed."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 4, 3, 2, 1)
        )
        self.encode = nn.Linear(64, hidden)
        self.bias = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.flatten(self.features(x), 1)
        return F.linear(F.relu(self.encode(flat)), self.encode.weight.t(), self.bias)


class SharedConvolution(nn.Module):
    """One convolution is applied three times, unrolled in depth with its own norms."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.entry = conv_bn_act(3, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.head = PooledClassifier(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for norm in self.norms:
            x = F.relu(x + norm(self.conv(x)))
        return self.head(x)


class ChunkedGates(nn.Module):
    """One convolution makes value, gate and scale; chunk takes them apart."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.entry, self.all = conv_bn_act(3, width), nn.Conv2d(width, 3 * width, 3, padding=1)
        self.leave, self.head = conv_bn_act(width, 2 * width), PooledClassifier(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate, scale = self.all(self.entry(x)).chunk(3, dim=1)
        pooled = scale.mean((2, 3), keepdim=True)
        return self.head(
            self.leave(torch.tanh(value) * torch.sigmoid(gate) * torch.sigmoid(pooled))
        )


class SlicedHalves(nn.Module):
    """Plain slices: each part goes its own way, then both are concatenated the other way round."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.third = width // 3
        self.entry = conv_bn_act(3, width)
        self.small = conv_bn_act(self.third, self.third)
        self.large = conv_bn_act(width - self.third, 16)
        self.head = PooledClassifier(16 + self.third)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        small, large = self.small(x[:, : self.third]), self.large(x[:, self.third :])
        return self.head(torch.cat([large, small], 1))


def group_norm_net(width: int = 16) -> nn.Module:
    """Group norm with SiLU, as diffusion networks have it."""
    w = width
    return nn.Sequential(
        nn.Conv2d(3, w, 3, padding=1), nn.GroupNorm(4, w), nn.SiLU(),
        nn.Conv2d(w, 2 * w, 3, 2, 1), nn.GroupNorm(8, 2 * w), nn.SiLU(),
        nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.GroupNorm(1, 2 * w), nn.SiLU(),
        PooledClassifier(2 * w),
    )  # fmt: skip


def prelu_net(width: int = 16) -> nn.Module:
    """PReLU per channel and in common, ELU, leaky ReLU, local response norm left out."""
    w = width
    return nn.Sequential(
        nn.Conv2d(3, w, 3, padding=1), nn.PReLU(w), nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Conv2d(w, 2 * w, 3), nn.PReLU(2 * w), nn.Conv2d(2 * w, 2 * w, 2), nn.PReLU(),
        nn.Conv2d(2 * w, 4 * w, 2), nn.LeakyReLU(0.1), nn.Flatten(),
        nn.Linear(4 * w * 144, 32), nn.ELU(), nn.Linear(32, 10),
    )  # fmt: skip


class MultiScaleInput(nn.Module):
    """The image enters again at half size; average and max pooling are concatenated at the end."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        w = width
        self.large, self.small = conv_bn_act(3, w, 3, 2), conv_bn_act(3, w)
        self.join = conv_bn_act(2 * w, 3 * w)
        self.fc = nn.Linear(6 * w, 10)

    def forward(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(x, 2)
        x = self.join(torch.cat([self.large(x), self.small(small)], 1))
        pooled = [F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)]
        return self.fc(torch.cat(pooled, 1).flatten(1))


class SpatialAttention(nn.Module):
    """Channel attention by two poolings and one shared MLP, then spatial (arXiv:1807.06521)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.entry = conv_bn_act(3, w)
        self.mlp = nn.Sequential(nn.Linear(w, w // 4), nn.ReLU(), nn.Linear(w // 4, w))
        self.where = nn.Conv2d(2, 1, 7, padding=3)
        self.leave, self.head = conv_bn_act(w, 2 * w), PooledClassifier(2 * w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        channels = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(channels)[:, :, None, None]
        spatial = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.leave(x * torch.sigmoid(self.where(spatial))))


class SelectiveKernel(nn.Module):
    """Two kernels weighed against each other by a softmax over the branches (arXiv:1903.06586)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.entry = conv_bn_act(3, w)
        self.three, self.five = conv_bn_act(w, w, 3, groups=4), conv_bn_act(w, w, 5, groups=4)
        self.squeeze = nn.Sequential(nn.Linear(w, w // 2), nn.ReLU(), nn.Linear(w // 2, 2 * w))
        self.head = PooledClassifier(w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        both = torch.stack([self.three(x), self.five(x)], 1)
        weights = self.squeeze(both.sum(1).mean((2, 3))).view(x.shape[0], 2, x.shape[1])
        return self.head((both * torch.softmax(weights, 1)[..., None, None]).sum(1))


class MaxOut(nn.Module):
    """Pairs of channels compete (Goodfellow et al. 2013, arXiv:1302.4389)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2 * width, 3, padding=1), nn.Conv2d(width, 20, 3)
        self.head = PooledClassifier(20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        return self.head(F.relu(self.second(x.view(n, c // 2, 2, h, w).amax(2))))


class ExpandedContext(nn.Module):
    """A pooled context is expanded over the map and concatenated to it; addition of a constant."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.entry, self.context = conv_bn_act(3, width), nn.Linear(width, width)
        self.register_buffer("offset", torch.rand(1, width, 1, 1))
        self.merge, self.head = conv_bn_act(2 * width, 24), PooledClassifier(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x) + self.offset
        context = F.relu(self.context(x.mean((2, 3))))[:, :, None, None]
        return self.head(self.merge(torch.cat([x, context.expand(-1, -1, *x.shape[2:])], 1)))


class CrossCovariance(nn.Module):
    """Bilinear pooling: the Gram matrix of two branches is classified (arXiv:1504.07889)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.left, self.right = conv_bn_act(3, width, 3, 2), conv_bn_act(3, width, 5, 2)
        self.fc = nn.Linear(width * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x).flatten(2), self.right(x).flatten(2)
        return self.fc(torch.bmm(a, b.transpose(1, 2)).flatten(1))

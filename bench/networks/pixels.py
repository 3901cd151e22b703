"""Networks whose output is a map: segmentation, detection, super-resolution, reconstruction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import conv_bn, conv_bn_act
from networks.residual import Basic


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of the U-Net."""
    return nn.Sequential(conv_bn_act(inputs, outputs), conv_bn_act(outputs, outputs))


class UNet(nn.Module):
    """Ronneberger et al. 2015, arXiv:1505.04597: transposed convolutions and concatenation."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        w = width
        self.down1, self.down2, self.bottom = twice(3, w), twice(w, 2 * w), twice(2 * w, 4 * w)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), twice(4 * w, 2 * w)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * w, w, 2, 2), twice(2 * w, w)
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        three = self.bottom(F.max_pool2d(two, 2))
        two = self.join2(torch.cat([two, self.up2(three)], 1))
        return self.head(self.join1(torch.cat([one, self.up1(two)], 1)))


class FCN(nn.Module):
    """Long et al. 2015, arXiv:1411.4038: scores of two depths are upsampled and added."""

    def __init__(self, width: int = 12, classes: int = 5) -> None:
        super().__init__()
        w = width
        self.early = nn.Sequential(conv_bn_act(3, w, 3, 2), Basic(w, 2 * w, 2))
        self.late = nn.Sequential(Basic(2 * w, 4 * w, 2), Basic(4 * w, 4 * w))
        self.score_early = nn.Conv2d(2 * w, classes, 1)
        self.score_late = nn.Sequential(
            conv_bn_act(4 * w, w), nn.Dropout(0.1), nn.Conv2d(w, classes, 1)
        )
        self.grow = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        score = self.grow(self.score_late(self.late(early))) + self.score_early(early)
        return F.interpolate(score, size=x.shape[-2:], mode="bilinear", align_corners=False)


class DeepLab(nn.Module):
    """Atrous pyramid with an image-level branch and a decoder (arXiv:1802.02611)."""

    def __init__(self, width: int = 12, classes: int = 5) -> None:
        super().__init__()
        w = width
        self.low = nn.Sequential(conv_bn_act(3, w, 3, 2), Basic(w, w))
        self.high = nn.Sequential(
            Basic(w, 2 * w, 2), conv_bn(2 * w, 2 * w, 3, dilation=2), nn.ReLU()
        )
        branches = [conv_bn_act(2 * w, w, 1)]
        branches += [nn.Sequential(conv_bn(2 * w, w, 3, dilation=d), nn.ReLU()) for d in (2, 4)]
        self.branches = nn.ModuleList(branches)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2 * w, w, 1), nn.ReLU())
        self.project = nn.Sequential(conv_bn_act(4 * w, 2 * w, 1), nn.Dropout(0.5))
        self.narrow = conv_bn_act(w, w // 2, 1)
        self.decode = nn.Sequential(conv_bn_act(2 * w + w // 2, w), nn.Conv2d(w, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        image = F.interpolate(self.image(high), size=high.shape[-2:], mode="bilinear")
        high = self.project(torch.cat([*(b(high) for b in self.branches), image], 1))
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear")
        decoded = self.decode(torch.cat([high, self.narrow(low)], 1))
        return F.interpolate(decoded, size=x.shape[-2:], mode="bilinear")


class CrossStage(nn.Module):
    """Split the channels, work on one part, keep every step (CSP, arXiv:1911.11929)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 2) -> None:
        super().__init__()
        self.half = outputs // 2
        self.entry = conv_bn_act(inputs, outputs, 1, activation=nn.SiLU)
        self.steps = nn.ModuleList(
            conv_bn_act(self.half, self.half, activation=nn.SiLU) for _ in range(depth)
        )
        self.leave = conv_bn_act((2 + depth) * self.half, outputs, 1, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(torch.split(self.entry(x), self.half, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class PooledPyramid(nn.Module):
    """Spatial pyramid pooling: the same maps pooled again and again, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_act(channels, channels // 2, 1, activation=nn.SiLU)
        self.merge = conv_bn_act(2 * channels, channels, 1, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.merge(torch.cat(maps, 1))


class Detector(nn.Module):
    """A detector with a path-aggregation neck and one head a scale; its output is a list."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        w, act = width, nn.SiLU
        self.stem = conv_bn_act(3, w, 3, 2, activation=act)
        self.stage1 = CrossStage(w, 2 * w)
        self.down1 = conv_bn_act(2 * w, 2 * w, 3, 2, activation=act)
        self.stage2 = nn.Sequential(CrossStage(2 * w, 4 * w), PooledPyramid(4 * w))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.narrow = conv_bn_act(4 * w, 2 * w, 1, activation=act)
        self.fine = CrossStage(4 * w, 2 * w)
        self.down2 = conv_bn_act(2 * w, 2 * w, 3, 2, activation=act)
        self.coarse = CrossStage(4 * w, 4 * w)
        self.heads = nn.ModuleList(nn.Conv2d(c, 5 + classes, 1) for c in (2 * w, 4 * w))

    def forward(self, x: Tensor) -> list[Tensor]:
        early = self.stage1(self.stem(x))
        late = self.stage2(self.down1(early))
        narrow = self.narrow(late)
        fine = self.fine(torch.cat([self.up(narrow), early], 1))
        coarse = self.coarse(torch.cat([self.down2(fine), narrow], 1))
        return [head(maps) for head, maps in zip(self.heads, (fine, coarse), strict=True)]


class FeaturePyramid(nn.Module):
    """Top-down sums of three depths (Lin et al. 2017, arXiv:1612.03144); a dict of outputs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        depths = (w, 2 * w, 4 * w)
        self.stages = nn.ModuleList([Basic(3, w), Basic(w, 2 * w, 2), Basic(2 * w, 4 * w, 2)])
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c in depths)
        self.smooth = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for _ in depths)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for fine in (1, 0):
            grown = F.interpolate(maps[fine + 1], scale_factor=2, mode="nearest")
            maps[fine] = maps[fine] + grown
        return {
            f"p{i}": smooth(m) for i, (smooth, m) in enumerate(zip(self.smooth, maps, strict=True))
        }


class SuperResolution(nn.Module):
    """Residual blocks without norm, then two pixel shuffles (EDSR, arXiv:1707.02921)."""

    def __init__(self, width: int = 16, scale_residue: float = 0.1) -> None:
        super().__init__()
        self.scale_residue = scale_residue
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(3)
        )
        self.grow = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.head(x)
        for block in self.blocks:
            x = x + self.scale_residue * block(x)
        return self.tail(self.grow(x + first))


def unshuffled_denoiser(width: int = 16) -> nn.Module:
    """Works on pixels folded into channels, then unfolds them (FFDNet, arXiv:1710.04026)."""
    return nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), nn.ReLU(),
        conv_bn_act(width, width), conv_bn_act(width, 2 * width),
        nn.PixelUnshuffle(2), conv_bn_act(8 * width, 4 * width),
        nn.PixelShuffle(2), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def autoencoder(width: int = 12) -> nn.Module:
    """Strided convolutions down to a code, transposed ones up again."""
    w = width
    return nn.Sequential(
        conv_bn_act(3, w, 3, 2), conv_bn_act(w, 2 * w, 3, 2), nn.Flatten(),
        nn.Linear(2 * w * 64, 32), nn.ReLU(), nn.Linear(32, 2 * w * 64), nn.ReLU(),
        nn.Unflatten(1, (2 * w, 8, 8)),
        nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.BatchNorm2d(w), nn.ReLU(),
        nn.ConvTranspose2d(w, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


class Generator(nn.Module):
    """Style transfer: instance norm, reflection padding, nearest upsampling (arXiv:1603.08155)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        w = width
        self.down = nn.Sequential(
            nn.ReflectionPad2d(4), nn.Conv2d(3, w, 9), nn.InstanceNorm2d(w, affine=True), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(w, 2 * w, 3, 2),
            nn.InstanceNorm2d(2 * w, affine=True), nn.ReLU(),
        )  # fmt: skip
        self.residues = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(2 * w, 2 * w, 3),
                nn.InstanceNorm2d(2 * w, affine=True), nn.ReLU(),
                nn.ReflectionPad2d(1), nn.Conv2d(2 * w, 2 * w, 3),
                nn.InstanceNorm2d(2 * w, affine=True),
            )
            for _ in range(2)
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(2 * w, w, 3), nn.ReLU()
        )
        self.tail = nn.Conv2d(w, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        for residue in self.residues:
            x = x + residue(x)
        return torch.tanh(self.tail(self.up(x)))

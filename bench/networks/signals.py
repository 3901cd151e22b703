"""One- and three-dimensional networks: sound, sensors, video."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from networks.blocks import conv_bn_act


class TemporalBlock(nn.Module):
    """Dilated causal convolutions and a shortcut (Bai et al. 2018, arXiv:1803.01271)."""

    def __init__(self, inputs: int, outputs: int, dilation: int, normed: bool) -> None:
        super().__init__()
        wrap = weight_norm if normed else lambda layer: layer
        self.padding = 2 * dilation
        self.conv1 = wrap(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.conv2 = wrap(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.pad(x, (self.padding, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.padding, 0))))
        return F.relu(y + self.shortcut(x))


class TCN(nn.Module):
    """Three blocks; the last step is classified."""

    def __init__(self, width: int = 16, classes: int = 6, normed: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            TemporalBlock(4, width, 1, normed),
            TemporalBlock(width, width, 2, normed),
            TemporalBlock(width, 2 * width, 4, normed),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class GatedWave(nn.Module):
    """Gated dilated convolutions with skip sums (WaveNet, arXiv:1609.03499)."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.entry = nn.Conv1d(1, width, 1)
        self.filters = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 3, padding=2**i, dilation=2**i) for i in range(depth)
        )
        self.residues = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(depth))
        self.tail = nn.Sequential(
            nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        total = torch.zeros_like(x)
        for filters, residue, skip in zip(self.filters, self.residues, self.skips, strict=True):
            a, b = filters(x).chunk(2, 1)
            gated = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(gated)
            x = x + residue(gated)
        return self.tail(total)


def glu_speech(width: int = 16, letters: int = 12) -> nn.Module:
    """Gated linear units over time (Collobert et al. 2016, arXiv:1609.03193)."""
    return nn.Sequential(
        nn.Conv1d(13, 2 * width, 5, 2, 2), nn.GLU(1), nn.Dropout(0.1),
        nn.Conv1d(width, 4 * width, 5, 1, 2), nn.GLU(1), nn.Dropout(0.1),
        nn.Conv1d(2 * width, letters, 1), nn.LogSoftmax(1),
    )  # fmt: skip


def keyword_cnn(width: int = 16, classes: int = 12) -> nn.Module:
    """Two convolutions over a spectrogram (Sainath and Parada 2015)."""
    return nn.Sequential(
        nn.Conv2d(1, width, (20, 8)), nn.ReLU(), nn.Dropout(), nn.MaxPool2d((1, 3)),
        nn.Conv2d(width, width, (10, 4)), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(width * 22 * 8, 32), nn.ReLU(), nn.Linear(32, classes),
    )  # fmt: skip


class KeywordResNet(nn.Module):
    """Temporal convolutions: the spectrogram's bins are channels (arXiv:1904.03814)."""

    def __init__(self, width: int = 16, classes: int = 12) -> None:
        super().__init__()
        self.entry = nn.Conv1d(40, width, 3, padding=1, bias=False)
        shapes = ((width, 2 * width), (2 * width, 3 * width))
        self.bodies = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(i, o, 9, 2, 4, bias=False), nn.BatchNorm1d(o), nn.ReLU(),
                nn.Conv1d(o, o, 9, 1, 4, bias=False), nn.BatchNorm1d(o),
            )
            for i, o in shapes
        )  # fmt: skip
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv1d(i, o, 1, 2, bias=False), nn.BatchNorm1d(o), nn.ReLU())
            for i, o in shapes
        )
        self.head = nn.Linear(3 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for body, shortcut in zip(self.bodies, self.shortcuts, strict=True):
            x = F.relu(body(x) + shortcut(x))
        return self.head(x.mean(-1))


def video_net(width: int = 8, classes: int = 5) -> nn.Module:
    """3-D convolutions (C3D, arXiv:1412.0767) with batch norm and a transposed tail."""
    w = width
    return nn.Sequential(
        nn.Conv3d(3, w, 3, padding=1), nn.BatchNorm3d(w), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(w, 2 * w, 3, padding=1), nn.BatchNorm3d(2 * w), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(2 * w, 4 * w, (3, 1, 1), padding=(1, 0, 0)), nn.ReLU(),
        nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(16 * w, 32), nn.ReLU(),
        nn.Linear(32, classes),
    )  # fmt: skip


class VolumeSegmenter(nn.Module):
    """A small V-Net: 3-D, PReLU, transposed convolution, sum instead of concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.one = nn.Sequential(nn.Conv3d(1, w, 3, padding=1), nn.GroupNorm(2, w), nn.PReLU(w))
        self.two = nn.Sequential(
            nn.Conv3d(w, 2 * w, 2, 2), nn.GroupNorm(2, 2 * w), nn.PReLU(2 * w),
            nn.Conv3d(2 * w, 2 * w, 3, padding=1), nn.PReLU(2 * w),
        )  # fmt: skip
        self.up = nn.ConvTranspose3d(2 * w, w, 2, 2)
        self.head = nn.Sequential(nn.Conv3d(w, w, 3, padding=1), nn.PReLU(), nn.Conv3d(w, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.one(x)
        return self.head(fine + self.up(self.two(fine)))


class CrowdedMap(nn.Module):
    """A column network: three kernel sizes side by side over a map (Zhang et al. 2016)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.columns = nn.ModuleList(
            nn.Sequential(
                conv_bn_act(1, width, k), nn.MaxPool2d(2), conv_bn_act(width, 2 * width, k - 2)
            )
            for k in (9, 7, 5)
        )
        self.merge = nn.Conv2d(6 * width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([column(x) for column in self.columns], 1))

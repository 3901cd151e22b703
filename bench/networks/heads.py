"""Heads of detectors and segmenters over a small backbone, as far as they export: no boxes' NMS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.blocks import conv_bn_act


class Pyramid(nn.Module):
    """A backbone of three depths and top-down sums."""

    def __init__(self, width: int = 8, made: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = conv_bn_act(3, w, 3, 2)
        self.stages = nn.ModuleList(
            conv_bn_act(i, o, 3, 2) for i, o in ((w, 2 * w), (2 * w, 3 * w), (3 * w, 4 * w))
        )
        self.laterals = nn.ModuleList(nn.Conv2d(c, made, 1) for c in (2 * w, 3 * w, 4 * w))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.stem(x), []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            found.append(lateral(x))
        for i in (1, 0):
            found[i] = found[i] + F.interpolate(found[i + 1], size=found[i].shape[-2:])
        return found


def shared_tower(width: int, depth: int = 2) -> nn.Sequential:
    """Convolutions with group norm that every scale goes through."""
    layers = [
        nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())
        for _ in range(depth)
    ]
    return nn.Sequential(*layers)


def rows(x: Tensor, values: int) -> Tensor:
    """Maps (N, A * values, H, W) as rows (N, H * W * A, values)."""
    n, _, h, w = x.shape
    return x.view(n, -1, values, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, values)


class RetinaNet(nn.Module):
    """Two towers shared by all scales (Lin et al. 2017, arXiv:1708.02002)."""

    def __init__(self, width: int = 16, classes: int = 4, anchors: int = 3) -> None:
        super().__init__()
        self.backbone, self.classes = Pyramid(made=width), classes
        self.tell, self.place = shared_tower(width), shared_tower(width)
        self.scores = nn.Conv2d(width, anchors * classes, 3, padding=1)
        self.boxes = nn.Conv2d(width, anchors * 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.backbone(x)
        scores = [rows(self.scores(self.tell(y)), self.classes) for y in found]
        boxes = [rows(self.boxes(self.place(y)), 4) for y in found]
        return {"scores": torch.cat(scores, 1), "boxes": torch.cat(boxes, 1)}


class FCOS(nn.Module):
    """Without anchors: classes, distances with a learned scale, centre (arXiv:1904.01355)."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.backbone = Pyramid(made=width)
        self.tell, self.place = shared_tower(width), shared_tower(width)
        self.scores = nn.Conv2d(width, classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centre = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        made = []
        for y, scale in zip(self.backbone(x), self.scales, strict=True):
            place = self.place(y)
            far = F.relu(self.distances(place) * scale)
            parts = [self.scores(self.tell(y)), far, self.centre(place)]
            made.append(torch.cat([part.flatten(2) for part in parts], 1))
        return made


class SSD(nn.Module):
    """One pair of heads a scale, an L2 norm before the first (arXiv:1512.02325)."""

    def __init__(self, width: int = 12, classes: int = 4, anchors: int = 3) -> None:
        super().__init__()
        w = width
        self.one, self.two = conv_bn_act(3, w, 3, 2), conv_bn_act(w, 2 * w, 3, 2)
        self.three = nn.Sequential(conv_bn_act(2 * w, w, 1), conv_bn_act(w, 3 * w, 3, 2))
        self.scale = nn.Parameter(torch.full((2 * w,), 20.0))
        self.scores = nn.ModuleList(
            nn.Conv2d(c, anchors * classes, 3, padding=1) for c in (2 * w, 3 * w)
        )
        self.boxes = nn.ModuleList(nn.Conv2d(c, anchors * 4, 3, padding=1) for c in (2 * w, 3 * w))
        self.classes = classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.two(self.one(x))
        late = self.three(early)
        early = self.scale.view(1, -1, 1, 1) * F.normalize(early)
        found = (early, late)
        pairs = list(zip(self.scores, self.boxes, found, strict=True))
        scores = torch.cat([rows(score(y), self.classes) for score, _, y in pairs], 1)
        return scores, torch.cat([rows(box(y), 4) for _, box, y in pairs], 1)


class DistributionHead(nn.Module):
    """A detector whose box sides are expectations over bins (arXiv:2006.04388)."""

    def __init__(self, width: int = 16, classes: int = 4, bins: int = 8) -> None:
        super().__init__()
        self.backbone, self.bins = Pyramid(made=width), bins
        self.boxes = nn.ModuleList(
            nn.Sequential(conv_bn_act(width, width), nn.Conv2d(width, 4 * bins, 1))
            for _ in range(3)
        )
        self.scores = nn.ModuleList(
            nn.Sequential(
                conv_bn_act(width, width, 3, 1, width), conv_bn_act(width, width, 1),
                nn.Conv2d(width, classes, 1),
            )
            for _ in range(3)
        )  # fmt: skip
        self.register_buffer("values", torch.arange(float(bins)))

    def forward(self, x: Tensor) -> Tensor:
        found = self.backbone(x)
        boxes = torch.cat([m(y).flatten(2) for m, y in zip(self.boxes, found, strict=True)], 2)
        scores = torch.cat([m(y).flatten(2) for m, y in zip(self.scores, found, strict=True)], 2)
        n, _, places = boxes.shape
        shares = boxes.view(n, 4, self.bins, places).softmax(2)
        sides = (shares * self.values.view(1, 1, -1, 1)).sum(2)
        return torch.cat([sides, scores.sigmoid()], 1)


class LRASPP(nn.Module):
    """The light segmentation head of MobileNetV3 (Howard et al. 2019, arXiv:1905.02244)."""

    def __init__(self, width: int = 12, classes: int = 4) -> None:
        super().__init__()
        w = width
        self.low, self.high = conv_bn_act(3, w, 3, 2), conv_bn_act(w, 3 * w, 3, 2)
        self.branch = conv_bn_act(3 * w, 2 * w, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(3 * w, 2 * w, 1, bias=False), nn.Sigmoid()
        )
        self.low_scores = nn.Conv2d(w, classes, 1)
        self.high_scores = nn.Conv2d(2 * w, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        y = self.branch(high) * self.gate(high)
        y = F.interpolate(y, size=low.shape[-2:], mode="bilinear", align_corners=False)
        made = self.low_scores(low) + self.high_scores(y)
        return F.interpolate(made, size=x.shape[-2:], mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Context of several bin sizes, upsampled and concatenated (arXiv:1612.01105)."""

    def __init__(self, width: int = 12, classes: int = 4) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(conv_bn_act(3, w, 3, 2), conv_bn_act(w, 2 * w, 3, 2))
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv_bn_act(2 * w, w // 2, 1))
            for size in (1, 2, 4)
        )
        self.head = nn.Sequential(conv_bn_act(2 * w + 3 * (w // 2), w), nn.Conv2d(w, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        size = y.shape[-2:]
        wide = [F.interpolate(p(y), size, mode="bilinear", align_corners=False) for p in self.pools]
        return F.interpolate(self.head(torch.cat([y, *wide], 1)), x.shape[-2:])


class KeyPoints(nn.Module):
    """High resolution kept beside a low one, exchanged twice (HRNet, arXiv:1902.09212)."""

    def __init__(self, width: int = 8, joints: int = 5) -> None:
        super().__init__()
        w = width
        self.stem = conv_bn_act(3, w, 3, 2)
        self.high, self.low = conv_bn_act(w, w), conv_bn_act(w, 2 * w, 3, 2)
        self.up, self.down = nn.Conv2d(2 * w, w, 1), nn.Conv2d(w, 2 * w, 3, 2, 1)
        self.high2, self.low2 = conv_bn_act(w, w), conv_bn_act(2 * w, 2 * w)
        self.head = nn.Conv2d(3 * w, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = self.high(x), self.low(x)
        high, low = (
            F.relu(high + F.interpolate(self.up(low), scale_factor=2.0)),
            F.relu(low + self.down(high)),
        )
        high, low = self.high2(high), self.low2(low)
        return self.head(torch.cat([high, F.interpolate(low, scale_factor=2.0)], 1))


class Hourglass(nn.Module):
    """Down and up with sums across, twice, scores fed back (arXiv:1603.06937)."""

    def __init__(self, width: int = 12, joints: int = 4) -> None:
        super().__init__()
        w = width
        self.stem = conv_bn_act(3, w, 3, 2)
        self.down = nn.ModuleList(conv_bn_act(w, w, 3, 2) for _ in range(2))
        self.across = nn.ModuleList(conv_bn_act(w, w) for _ in range(2))
        self.scores = nn.ModuleList(nn.Conv2d(w, joints, 1) for _ in range(2))
        self.back = nn.Conv2d(joints, w, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, made = self.stem(x), []
        for down, across, scores in zip(self.down, self.across, self.scores, strict=True):
            y = across(x) + F.interpolate(down(x), scale_factor=2.0)
            made.append(scores(y))
            x = x + y + self.back(made[-1])
        return made

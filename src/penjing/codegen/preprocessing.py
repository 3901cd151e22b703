"""Images as cameras give them: the program itself makes of bytes what the network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor as TorchTensor

from penjing.codegen.ir import Layer, Net, Tensor
from penjing.errors import StrategyError

ImageLayout = Literal["NHWC", "NCHW"]
LAYOUTS = ("NHWC", "NCHW")
LARGEST = 255  # of a byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Bytes of an image to floats, inside the program: `(byte * scale - mean) / std` per channel.

    Args:
        mean: One per channel, in the unit that `scale` gives: that of torchvision's `Normalize`.
        std: One per channel, positive.
        scale: Of a byte; 1/255 gives [0, 1].
        layout: "NHWC" has the channels of a pixel together, as cameras and image files do; "NCHW"
            has planes, as the network.

    Raises:
        StrategyError: Numbers that do not fit together, or an unknown layout.

    Example:
        >>> grey = Normalize(mean=(0.5,), std=(0.25,))
        >>> grey(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2, 1)).flatten()
        tensor([-2.,  2.])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    layout: ImageLayout = "NHWC"

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            object.__setattr__(self, key, tuple(float(v) for v in getattr(self, key)))
        if not self.mean or len(self.mean) != len(self.std):
            raise StrategyError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give one of each per "
                "channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.scale))):
            raise StrategyError(f"mean {self.mean}, std {self.std}, scale {self.scale}: not finite")
        if min(self.std) <= 0 or self.scale <= 0:
            raise StrategyError(f"std is {self.std} and scale {self.scale}; both are positive")
        if self.layout not in LAYOUTS:
            raise StrategyError(f"layout is {self.layout!r}; give one of {', '.join(LAYOUTS)}")

    def __call__(self, image: TorchTensor, /) -> TorchTensor:
        """What the network takes for an image.

        Args:
            image: uint8 of the layout, the batch first.

        Returns:
            float32, `(N, C, H, W)`.
        """
        planes = image.permute(0, 3, 1, 2) if self.layout == "NHWC" else image
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return ((planes.float() * self.scale - mean) / std).contiguous()

    def image_of(self, values: TorchTensor, /) -> TorchTensor:
        """The image whose normalised form is nearest; the reverse of a call.

        Args:
            values: What the network takes, `(N, C, H, W)`.

        Returns:
            uint8 of the layout.
        """
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (self.mean, self.std))
        planes = ((values * std + mean) / self.scale).round().clamp(0, LARGEST).to(torch.uint8)
        placed = planes.permute(0, 2, 3, 1) if self.layout == "NHWC" else planes
        return placed.contiguous()

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the image for an input `(N, C, H, W)` of the network."""
        batch, channels, height, width = shape
        if self.layout == "NHWC":
            return batch, height, width, channels
        return batch, channels, height, width

    @property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor of a byte and what is added, `(C,)` each, float64."""
        mean, std = np.array(self.mean), np.array(self.std)
        return self.scale / std, -mean / std

    @property
    def note(self) -> str:
        """What the header of a program says of the input."""
        mean, std = (", ".join(f"{v:g}" for v in each) for each in (self.mean, self.std))
        return (
            f"image, {self.layout}; the program computes (byte * {self.scale:.9g} - mean) / std "
            f"with mean {mean} and std {std}"
        )


def image_position(shapes: Sequence[tuple[int, ...]], image: Normalize) -> int:
    """Which input is the image.

    Args:
        shapes: Of the inputs of floats; others are ().
        image: How it comes.

    Returns:
        The position of the only one that can be.

    Raises:
        StrategyError: None, or several.
    """
    channels = len(image.mean)
    found = [i for i, shape in enumerate(shapes) if len(shape) == 4 and shape[1] == channels]
    if len(found) != 1:
        given = ", ".join(str(shape) for shape in shapes if shape) or "no floats"
        raise StrategyError(
            f"preprocessing is for one input (N, {channels}, H, W), a mean for each channel, and "
            f"{len(found)} inputs are like that; the network takes {given}"
        )
    return found[0]


def position_of(tensors: Sequence[Any], image: Normalize) -> int:
    """Which of the tensors that a network takes is the image.

    Raises:
        StrategyError: None, or several.
    """
    shapes = [tuple(t.shape) if t.is_floating_point() else () for t in tensors]
    return image_position(shapes, image)


def with_image(net: Net, image: Normalize) -> Net:
    """The net with bytes as its input and the normalisation as its first layers.

    Args:
        net: As lowered.
        image: How the image comes.

    Returns:
        A net of one more map. The rearrangement of NHWC is a move, which becomes a view; the map
        writes what the first layer wants, its border included, so it takes the place of the copy
        that would be there. Nothing goes into the weights of a first convolution: the map has to
        make floats of bytes in any case, and its product and sum are free.

    Raises:
        StrategyError: There is not one input that can be an image.
    """
    tensors = [net.tensors[name] for name in net.inputs]
    shapes = [t.shape if t.dtype == "f32" else () for t in tensors]
    position = image_position(shapes, image)
    x = tensors[position]
    given = Tensor(f"{x.name}_image", image.shape_of(x.shape), "u8")
    planes = replace(given, name=f"{x.name}_planes", shape=x.shape)
    index = np.arange(given.elements).reshape(given.shape)
    if image.layout == "NHWC":
        index = np.ascontiguousarray(index.transpose(0, 3, 1, 2))
    arrays = {
        f"{x.name}_{key}": value.reshape(1, -1, 1, 1).astype(np.float32)
        for key, value in zip(("scale", "shift"), image.affine, strict=True)
    }
    scale, shift = arrays
    term = ("add", ("mul", ("input", 0), ("input", 1)), ("input", 2))
    layers = (
        Layer("move", planes.name, (given.name,), (planes.name,), {"index": index, "fill": 0.0}),
        Layer(
            "map",
            f"{x.name}_normalize",
            (planes.name, scale, shift),
            (x.name,),
            {"expression": term},
            source="preprocessing",
        ),
    )
    added = [given, planes, *(Tensor(n, a.shape) for n, a in arrays.items())]
    return replace(
        net,
        inputs=tuple(given.name if i == position else n for i, n in enumerate(net.inputs)),
        layers=(*layers, *net.layers),
        tensors={**net.tensors, **{t.name: t for t in added}},
        constants={**net.constants, **arrays},
    )

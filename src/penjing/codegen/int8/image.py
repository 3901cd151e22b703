"""Images as bytes in front of an integer network: normalised and quantized by a table."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from penjing.codegen.preprocessing import LARGEST, Normalize, image_position
from penjing.errors import StrategyError
from penjing.quantization.integers import BYTE, IntegerLayer, IntegerNet, IntegerTensor


def with_bytes(net: IntegerNet, image: Normalize) -> IntegerNet:
    """The network with an image of bytes as its input.

    Args:
        net: The network.
        image: How the image comes; channels last, as everything lies in integer programs.

    Returns:
        A network of one more layer, an "image": its table holds for every channel and byte the
        integer that normalising and then quantizing give. The bytes are replaced in their place.

    Raises:
        StrategyError: Planes, or there is not one input that can be an image.
    """
    channels = len(image.mean)
    if any(net.tensors[name].bits > BYTE for name in net.inputs):
        raise StrategyError(
            "bytes of an image are replaced in their place, which takes 8-bit activations; this "
            "network has 16. Quantize with 8, or normalise the image before the network"
        )
    if image.layout != "NHWC" and channels > 1:
        raise StrategyError(
            "integer programs have channels last and replace an image in its place; give it as "
            "layout='NHWC'"
        )
    tensors = [net.tensors[name] for name in net.inputs]
    shapes = [(1, *t.given) if t.channels_first else () for t in tensors]
    x = tensors[image_position(shapes, image)]
    shape = image.shape_of((1, *x.given))[1:]
    given = IntegerTensor(f"{x.name}_image", x.shape, image.scale, 0, shape, False)
    bytes_NHWC = torch.arange(LARGEST + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    seen_NCHW = replace(image, layout="NHWC")(bytes_NHWC.expand(-1, 1, 1, channels))
    layer = IntegerLayer(
        "image",
        f"{x.name}_normalize",
        (given.name,),
        x.name,
        {"preprocessing": asdict(image), "note": image.note},
        {"table": x.quantize(seen_NCHW[:, :, 0, 0].T.numpy())},
    )
    return replace(
        net,
        inputs=tuple(given.name if name == x.name else name for name in net.inputs),
        layers=(layer, *net.layers),
        tensors={**net.tensors, given.name: given},
    )


def images(net: IntegerNet) -> dict[str, IntegerLayer]:
    """The inputs that are bytes of an image, with the layer that reads them."""
    return {layer.inputs[0]: layer for layer in net.layers if layer.kind == "image"}

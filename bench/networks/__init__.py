"""A zoo of convolutional networks with random weights, small enough to cut each in about a second.

The families are written from their papers; `hub` takes the convolutional ones of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks import classic, custom, hub, mobile, pixels, residual, signals

SEED = 0


@dataclass(frozen=True)
class Net:
    """How to make one network.

    Args:
        make: The network, with the weights that its construction draws.
        example: Its example inputs.
        heads: Names of the layers whose outputs are the network's: what other tools must be told
            to leave.
        family: Where it comes from.
    """

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    heads: tuple[str, ...]
    family: str

    def build(self) -> tuple[nn.Module, Any]:
        """The network in float64 and eval mode with every stored value distinct, and an example.

        Distinct values tell afterwards which positions of a tensor a pruner kept.
        """
        torch.manual_seed(SEED)
        model, example = self.make().eval(), self.example()
        generator = torch.Generator().manual_seed(SEED)
        model.double()
        with torch.no_grad():
            for _, tensor in stored(model):
                tensor.copy_(_lively(tensor, generator))
            for name, tensor in model.named_buffers():
                if name.endswith("running_var"):
                    tensor.copy_(0.5 + tensor.abs())
        return model, _double(example)


def stored(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Floating-point parameters and buffers by name, tied ones once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor) for name, tensor in named if tensor.is_floating_point()]


def _lively(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values around the present ones, none of them equal, none of them dead."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    spread = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
    return tensor + noise * (0.1 if tensor.dim() < 2 or spread < 1e-3 else 0.05 * spread)


def _double(example: Any) -> Any:
    if isinstance(example, Tensor):
        return example.double() if example.is_floating_point() else example
    if isinstance(example, dict):
        return {name: _double(value) for name, value in example.items()}
    return tuple(_double(value) for value in example)


def image(size: int = 32, channels: int = 3) -> Callable[[], Tensor]:
    """One random image."""
    return lambda: torch.randn(1, channels, size, size)


def _plain(family: str, table: dict[str, tuple[Any, ...]]) -> dict[str, Net]:
    """Rows of make, heads and (image of 32 x 32 when left out) example."""
    return {
        name: Net(make, rest[0] if rest else image(), heads, family)
        for name, (make, heads, *rest) in table.items()
    }


def _resnet(block: type[nn.Module], depths: tuple[int, ...], width: int, **options: int) -> Any:
    return lambda: residual.resnet(block, depths, width, **options)


def _film() -> tuple[dict[str, Tensor]]:
    return ({"image": torch.randn(1, 3, 16, 16), "vector": torch.randn(1, 5)},)


def _sensors() -> dict[str, Tensor]:
    return {"image": torch.randn(1, 3, 16, 16), "state": torch.randn(1, 7)}


CLASSIC = {
    "alexnet": (classic.alexnet, ("20",), image(96)),
    "vgg11_bn": (classic.vgg11_bn, ("35",)),
    "squeezenet": (classic.SqueezeNet, ("classifier",)),
    "googlenet": (classic.GoogLeNet, ("head.fc",)),
    "inception_v3": (classic.InceptionV3, ("head.fc",)),
}
RESIDUAL = {
    "resnet18": (_resnet(residual.Basic, (2, 2, 2, 2), 8), ("10.fc",)),
    "resnet50": (_resnet(residual.Bottleneck, (3, 4, 6, 3), 8), ("18.fc",)),
    "wide_resnet": (_resnet(residual.Bottleneck, (1, 2, 1), 8, wide=2), ("6.fc",)),
    "resnext": (_resnet(residual.Bottleneck, (1, 2, 1), 16, groups=4), ("6.fc",)),
    "resnet20_option_a": (residual.resnet20_option_a, ("10.fc",)),
    "wide_preactivation_resnet": (residual.wide_preactivation_resnet, ("7.fc",)),
    "densenet": (residual.densenet, ("14.fc",)),
    "regnet_y": (residual.regnet_y, ("7.fc",)),
    "convnext": (residual.convnext, ("12.fc",), image(64)),
}
MOBILE = {
    "mobilenet_v1": (mobile.mobilenet_v1, ("11.fc",)),
    "mobilenet_v2": (mobile.mobilenet_v2, ("8.fc",)),
    "mobilenet_v3": (mobile.mobilenet_v3, ("7.fc",)),
    "efficientnet": (mobile.efficientnet, ("7.fc",)),
    "mnasnet": (mobile.mnasnet, ("11.fc",)),
    "shufflenet_v1": (mobile.shufflenet_v1, ("5.fc",)),
    "shufflenet_v2": (mobile.shufflenet_v2, ("8.fc",)),
    "ghostnet": (mobile.ghostnet, ("5.fc",)),
    "ds_cnn": (mobile.ds_cnn, ("12.fc",), lambda: torch.randn(1, 1, 49, 10)),
}
PIXELS = {
    "unet": (pixels.UNet, ("head",)),
    "fcn": (pixels.FCN, ("score_early", "score_late.2", "grow")),
    "deeplab": (pixels.DeepLab, ("decode.1",), image(64)),
    "detector": (pixels.Detector, ("heads.0", "heads.1")),
    "feature_pyramid": (pixels.FeaturePyramid, ("smooth.0", "smooth.1", "smooth.2")),
    "super_resolution": (pixels.SuperResolution, ("tail",), image(12)),
    "unshuffled_denoiser": (pixels.unshuffled_denoiser, ("8",)),
    "autoencoder": (pixels.autoencoder, ("11",)),
    "generator": (pixels.Generator, ("tail",)),
}
SIGNALS = {
    "tcn": (signals.TCN, ("head",), lambda: torch.randn(1, 4, 32)),
    "tcn_weight_norm": (
        lambda: signals.TCN(normed=True),
        ("head",),
        lambda: torch.randn(1, 4, 32),
    ),
    "gated_wave": (signals.GatedWave, ("tail.3",), lambda: torch.randn(1, 1, 64)),
    "glu_speech": (signals.glu_speech, ("6",), lambda: torch.randn(1, 13, 64)),
    "keyword_cnn": (signals.keyword_cnn, ("10",), lambda: torch.randn(1, 1, 50, 40)),
    "keyword_resnet": (signals.KeywordResNet, ("head",), lambda: torch.randn(1, 40, 51)),
    "video_net": (signals.video_net, ("14",), lambda: torch.randn(1, 3, 4, 16, 16)),
    "volume_segmenter": (
        signals.VolumeSegmenter,
        ("head.2",),
        lambda: torch.randn(1, 1, 8, 16, 16),
    ),
    "crowded_map": (signals.CrowdedMap, ("merge",), image(32, 1)),
}
CUSTOM = {
    "siamese": (custom.Siamese, ("judge.2",), lambda: (image(16, 1)(), image(16, 1)())),
    "two_sensors": (custom.TwoSensors, ("steer", "speed"), _sensors),
    "film": (custom.FiLM, ("head.fc",), _film),
    "tied_autoencoder": (custom.TiedAutoencoder, (), image(16, 1)),
    "shared_convolution": (custom.SharedConvolution, ("head.fc",), image(16)),
    "chunked_gates": (custom.ChunkedGates, ("head.fc",), image(16)),
    "sliced_halves": (custom.SlicedHalves, ("head.fc",), image(16)),
    "group_norm_net": (custom.group_norm_net, ("9.fc",)),
    "prelu_net": (custom.prelu_net, ("12",)),
    "multi_scale_input": (custom.MultiScaleInput, ("fc",)),
    "spatial_attention": (custom.SpatialAttention, ("head.fc",)),
    "selective_kernel": (custom.SelectiveKernel, ("head.fc",)),
    "maxout": (custom.MaxOut, ("head.fc",)),
    "expanded_context": (custom.ExpandedContext, ("head.fc",)),
    "cross_covariance": (custom.CrossCovariance, ("fc",), image(16)),
}
HUB = {
    "hub_resnet": (hub.resnet, ("classifier.1",), hub.pixels),
    "hub_regnet": (hub.regnet, ("classifier.1",), hub.pixels),
    "hub_mobilenet_v1": (hub.mobilenet_v1, ("classifier",), hub.pixels),
    "hub_mobilenet_v2": (hub.mobilenet_v2, ("classifier",), hub.pixels),
    "hub_mobilenet_v2_deeplab": (
        hub.mobilenet_v2_deeplab,
        ("segmentation_head.classifier.convolution",),
        hub.pixels,
    ),
    "hub_convnext": (hub.convnext, ("classifier",), hub.pixels),
    "hub_convnext_v2": (hub.convnext_v2, ("classifier",), hub.pixels),
    "hub_efficientnet": (hub.efficientnet, ("classifier",), hub.pixels),
    "hub_bit": (hub.bit, ("classifier.1",), hub.pixels),
    "hub_poolformer": (hub.poolformer, ("classifier",), hub.pixels),
    "hub_hgnet_v2": (hub.hgnet_v2, ("fc",), hub.pixels),
    "hub_textnet": (hub.textnet, ("fc",), hub.pixels),
    "hub_lcnet": (hub.lcnet, ("head",), hub.pixels),
    "hub_focalnet": (hub.focalnet, ("classifier",), hub.pixels),
    "hub_upernet": (
        hub.upernet,
        ("decode_head.classifier", "auxiliary_head.classifier"),
        hub.pixels,
    ),
    "hub_vocoder": (hub.vocoder, ("conv_post",), lambda: torch.randn(1, 12, 20)),
    "hub_audio_codec": (hub.audio_codec, ("conv2",), lambda: torch.randn(1, 1, 128)),
}

NETWORKS: dict[str, Net] = {
    **_plain("plain and concatenating", CLASSIC),
    **_plain("residual", RESIDUAL),
    **_plain("mobile", MOBILE),
    **_plain("maps out", PIXELS),
    **_plain("one and three dimensions", SIGNALS),
    **_plain("custom", CUSTOM),
    **_plain("transformers", HUB),
}

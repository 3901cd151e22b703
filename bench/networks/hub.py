"""Convolutional networks of `transformers`, made from small configurations, nothing downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def build(kind: str, config: str, **options: Any) -> nn.Module:
    """A network of class `kind` from a configuration of class `config`."""
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, kind)(getattr(transformers, config)(**options))


def pixels(size: int = 64) -> dict[str, Tensor]:
    """An image under the keyword that these networks take."""
    return {"pixel_values": torch.randn(1, 3, size, size)}


def resnet() -> nn.Module:
    """ResNet with bottlenecks."""
    return build(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=16,
        hidden_sizes=[16, 32, 64], depths=[2, 2, 2], layer_type="bottleneck", num_labels=10,
    )  # fmt: skip


def regnet() -> nn.Module:
    """RegNet, kind Y."""
    return build(
        "RegNetForImageClassification", "RegNetConfig", embedding_size=16,
        hidden_sizes=[16, 32, 64], depths=[1, 2, 2], groups_width=8, layer_type="y", num_labels=10,
    )  # fmt: skip


def mobilenet_v1() -> nn.Module:
    """MobileNetV1 at a quarter of its width."""
    return build(
        "MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.25,
        min_depth=8, num_labels=10,
    )  # fmt: skip


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 at a quarter of its width."""
    return build(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.25,
        num_labels=10,
    )  # fmt: skip


def mobilenet_v2_deeplab() -> nn.Module:
    """MobileNetV2 with the DeepLabV3+ head."""
    return build(
        "MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", depth_multiplier=0.25,
        num_labels=5,
    )  # fmt: skip


def convnext() -> nn.Module:
    """ConvNeXt."""
    return build(
        "ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1], num_labels=10,
    )  # fmt: skip


def convnext_v2() -> nn.Module:
    """ConvNeXt V2 with global response norm."""
    return build(
        "ConvNextV2ForImageClassification", "ConvNextV2Config", hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1], num_labels=10,
    )  # fmt: skip


def efficientnet() -> nn.Module:
    """EfficientNet at a quarter of its width, one block a stage."""
    return build(
        "EfficientNetForImageClassification", "EfficientNetConfig", width_coefficient=0.25,
        depth_coefficient=0.5, hidden_dim=320, num_labels=10,
    )  # fmt: skip


def bit() -> nn.Module:
    """BiT: weight-standardised convolutions and group norm."""
    return build(
        "BitForImageClassification", "BitConfig", embedding_size=16, hidden_sizes=[32, 64, 96],
        depths=[1, 2, 1], num_groups=8, num_labels=10,
    )  # fmt: skip


def poolformer() -> nn.Module:
    """PoolFormer: average pooling mixes, group norm of one group."""
    return build(
        "PoolFormerForImageClassification", "PoolFormerConfig", hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 2, 1], num_labels=10,
    )  # fmt: skip


def hgnet_v2() -> nn.Module:
    """HGNet V2: long concatenations of light blocks."""
    return build(
        "HGNetV2ForImageClassification", "HGNetV2Config", stem_channels=[3, 8, 16],
        stage_in_channels=[16, 32, 48, 64], stage_mid_channels=[8, 12, 16, 24],
        stage_out_channels=[32, 48, 64, 96], stage_num_blocks=[1, 1, 2, 1],
        stage_numb_of_layers=[3, 3, 3, 3], hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 2, 1],
        embedding_size=16, num_labels=10,
    )  # fmt: skip


def textnet() -> nn.Module:
    """TextNet: asymmetric convolutions of re-parametrised branches."""
    return build(
        "TextNetForImageClassification", "TextNetConfig", stem_out_channels=16,
        hidden_sizes=[16, 16, 24, 32, 48], num_labels=10,
    )  # fmt: skip


def lcnet() -> nn.Module:
    """PP-LCNet: depthwise with excitation late."""
    return build("PPLCNetForImageClassification", "PPLCNetConfig", scale=0.25, num_labels=10)


def focalnet() -> nn.Module:
    """FocalNet: gated contexts of several kernel sizes."""
    return build(
        "FocalNetForImageClassification", "FocalNetConfig", embed_dim=16,
        hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], focal_levels=[2, 2, 2, 2],
        image_size=64, num_labels=10,
    )  # fmt: skip


def upernet() -> nn.Module:
    """UPerNet on a ConvNeXt: pyramid pooling and a feature pyramid."""
    import transformers

    backbone = transformers.ConvNextConfig(
        hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=24, num_labels=5, auxiliary_in_channels=32,
        auxiliary_channels=16,
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(config)


def vocoder() -> nn.Module:
    """HiFi-GAN of SpeechT5: transposed convolutions and sums of residual stacks."""
    return build(
        "SpeechT5HifiGan", "SpeechT5HifiGanConfig", model_in_dim=20, upsample_initial_channel=32,
        upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8], resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3], [1, 3]],
    )  # fmt: skip


def audio_codec() -> nn.Module:
    """The encoder of DAC: snake activations, weight-normalised 1-D convolutions."""
    import transformers

    config = transformers.DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4], decoder_hidden_size=32,
        upsampling_ratios=[4, 2], hidden_size=32, n_codebooks=2, codebook_dim=4,
    )  # fmt: skip
    return transformers.DacModel(config).encoder

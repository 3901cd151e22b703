"""Attention on images and video: networks of `transformers` from small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from networks.hub import build, pixels

S: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
PATCHES: dict[str, Any] = {**S, "image_size": 32, "patch_size": 8, "num_labels": 10}
Row = tuple[Any, tuple[str, ...], Any]


def _row(kind: str, config: str, *heads: str, size: int = 32, **options: Any) -> Row:
    return partial(build, kind, config, **options), heads, partial(pixels, size)


def _clip(frames: int, size: int = 32) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, frames, 3, size, size)}


def _video(kind: str, config: str, *heads: str, frames: int, **options: Any) -> Row:
    return partial(build, kind, config, **options), heads, partial(_clip, frames)


class Outputs(nn.Module):
    """Some of the outputs of a network of the hub, by name."""

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, **inputs: Tensor) -> list[Tensor]:
        made = self.network(**inputs)
        return [made[name] for name in self.names]


def _backbone(config: Any) -> Any:
    import transformers

    return getattr(transformers, config)(
        **{**S, "num_hidden_layers": 4}, image_size=32, patch_size=8, reshape_hidden_states=False,
        out_indices=[1, 2, 3, 4],
    )  # fmt: skip


def _depth_anything() -> nn.Module:
    return build(
        "DepthAnythingForDepthEstimation", "DepthAnythingConfig", patch_size=8,
        backbone_config=_backbone("Dinov2Config"), reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 12, 16, 16], fusion_hidden_size=12, head_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip


def _upernet_swin() -> nn.Module:
    import transformers

    stages = ["stage1", "stage2", "stage3"]
    backbone = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 2, 1], num_heads=[2, 4, 8],
        window_size=4, out_features=stages,
    )  # fmt: skip
    return build(
        "UperNetForSemanticSegmentation", "UperNetConfig", backbone_config=backbone,
        hidden_size=16, num_labels=5, use_auxiliary_head=False, pool_scales=[1, 2],
    )  # fmt: skip


def _detr(kind: str, config: str, **options: Any) -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=options.pop("stages", ["stage4"]),
    )  # fmt: skip
    return Outputs(build(
        kind, config, backbone_config=backbone, use_timm_backbone=False, backbone=None,
        use_pretrained_backbone=False, num_labels=5, num_queries=6, d_model=32, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, **options,
    ), "logits", "pred_boxes")  # fmt: skip


def _rt_detr(kind: str, config: str) -> nn.Module:
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Outputs(build(
        kind, config, backbone_config=backbone, encoder_hidden_dim=32,
        encoder_in_channels=[24, 32, 48], encoder_layers=1, encoder_ffn_dim=48,
        encoder_attention_heads=4, d_model=32, decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=48, num_queries=6, decoder_layers=2, decoder_attention_heads=4,
        num_labels=5, num_denoising=0, anchor_image_size=[64, 64],
    ), "logits", "pred_boxes")  # fmt: skip


DETECTION = ("network.class_labels_classifier", "network.bbox_predictor.layers.2")
STAGES: dict[str, Any] = {"num_labels": 10, "image_size": 64}
NETS: dict[str, Row] = {
    "vit": _row("ViTForImageClassification", "ViTConfig", "classifier", **PATCHES),
    "deit": _row(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", "cls_classifier",
        "distillation_classifier", **PATCHES,
    ),
    "beit": _row(
        "BeitForImageClassification", "BeitConfig", "classifier", **PATCHES,
        use_relative_position_bias=True, layer_scale_init_value=0.1,
    ),
    "data2vec_vision": _row(
        "Data2VecVisionForImageClassification", "Data2VecVisionConfig", "classifier", **PATCHES,
        use_shared_relative_position_bias=True,
    ),
    "dinov2": _row("Dinov2ForImageClassification", "Dinov2Config", "classifier", **PATCHES),
    "dinov2_registers": _row(
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", "classifier",
        **PATCHES, use_swiglu_ffn=True,
    ),
    "dinov3": _row("DINOv3ViTModel", "DINOv3ViTConfig", **PATCHES, num_register_tokens=2),
    "ijepa": _row("IJepaForImageClassification", "IJepaConfig", "classifier", **PATCHES),
    "vit_msn": _row("ViTMSNForImageClassification", "ViTMSNConfig", "classifier", **PATCHES),
    "pixio": _row("PixioModel", "PixioConfig", **PATCHES),
    "swin": _row(
        "SwinForImageClassification", "SwinConfig", "classifier", image_size=32, patch_size=2,
        embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10,
    ),
    "swin_v2": _row(
        "Swinv2ForImageClassification", "Swinv2Config", "classifier", image_size=32, patch_size=2,
        embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10,
    ),
    "swin2sr": _row(
        "Swin2SRForImageSuperResolution", "Swin2SRConfig", "upsample.final_convolution", size=16,
        image_size=16, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, upscale=2,
    ),
    "pvt": _row(
        "PvtForImageClassification", "PvtConfig", "classifier", size=64, **STAGES,
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 32, 64], num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2],
    ),
    "pvt_v2": _row(
        "PvtV2ForImageClassification", "PvtV2Config", "classifier", size=64, **STAGES,
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 32, 64], num_attention_heads=[1, 2, 2, 4],
        mlp_ratios=[2, 2, 2, 2], linear_attention=True,
    ),
    "cvt": _row(
        "CvtForImageClassification", "CvtConfig", "classifier", size=64, depth=[1, 2, 3],
        embed_dim=[16, 32, 64], num_heads=[1, 2, 4], num_labels=10,
    ),
    "mobilevit": _row(
        "MobileViTForImageClassification", "MobileViTConfig", "classifier", size=64, **STAGES,
        hidden_sizes=[32, 40, 48], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4,
    ),
    "mobilevit_v2": _row(
        "MobileViTV2ForImageClassification", "MobileViTV2Config", "classifier", size=64, **STAGES,
        width_multiplier=0.25, base_attn_unit_dims=[32, 48, 64], n_attn_blocks=[1, 1, 1],
    ),
    "levit": _row(
        "LevitForImageClassificationWithTeacher", "LevitConfig", "classifier.linear",
        "classifier_distill.linear", size=64, **STAGES, hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8],
    ),
    "segformer": _row(
        "SegformerForSemanticSegmentation", "SegformerConfig", "decode_head.classifier", size=64,
        num_labels=5, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 32, 64],
        num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=32, mlp_ratios=[2, 2, 2, 2],
    ),
    "glpn": _row(
        "GLPNForDepthEstimation", "GLPNConfig", "head.head.2", size=64, depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 32, 64], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16,
        mlp_ratios=[2, 2, 2, 2],
    ),
    "hiera": _row(
        "HieraForImageClassification", "HieraConfig", "classifier", size=64, image_size=[64, 64],
        embed_dim=16, num_heads=[1, 2, 4], depths=[1, 2, 1], num_query_pool=2, num_labels=10,
        masked_unit_size=[4, 4],
    ),
    "swiftformer": _row(
        "SwiftFormerForImageClassification", "SwiftFormerConfig", "head", "dist_head", size=64,
        depths=[1, 1, 1, 1], embed_dims=[16, 24, 32, 48], num_labels=10,
    ),
    "yolos": _row(
        "YolosForObjectDetection", "YolosConfig", "class_labels_classifier.layers.2",
        "bbox_predictor.layers.2", **{**S, "num_labels": 5}, image_size=[32, 32], patch_size=8,
        num_detection_tokens=5,
    ),
    "dpt": _row(
        "DPTForDepthEstimation", "DPTConfig", "head.head.4", **{**S, "num_hidden_layers": 4},
        image_size=32, patch_size=8, is_hybrid=False, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 12, 16, 24], fusion_hidden_size=16, reassemble_factors=[4, 2, 1, 0.5],
    ),
    "depth_anything": (_depth_anything, ("head.conv3",), partial(pixels, 32)),
    "upernet_swin": (_upernet_swin, ("decode_head.classifier",), partial(pixels, 32)),
    "detr": (partial(_detr, "DetrForObjectDetection", "DetrConfig"), DETECTION,
             partial(pixels, 64)),
    "table_transformer": (
        partial(_detr, "TableTransformerForObjectDetection", "TableTransformerConfig"), DETECTION,
        partial(pixels, 64),
    ),
    "conditional_detr": (
        partial(_detr, "ConditionalDetrForObjectDetection", "ConditionalDetrConfig"), DETECTION,
        partial(pixels, 64),
    ),
    "rt_detr": (
        partial(_rt_detr, "RTDetrForObjectDetection", "RTDetrConfig"), (), partial(pixels, 64),
    ),
    "vit_bare": _row("ViTModel", "ViTConfig", **PATCHES),
    "vit_det": _row(
        "VitDetModel", "VitDetConfig", **S, image_size=32, patch_size=8, window_size=2,
        window_block_indices=[0], use_relative_position_embeddings=True,
    ),
    "timesformer": _video(
        "TimesformerForVideoClassification", "TimesformerConfig", "classifier", frames=2,
        **PATCHES, num_frames=2,
    ),
    "videomae": _video(
        "VideoMAEForVideoClassification", "VideoMAEConfig", "classifier", frames=4, **PATCHES,
        num_frames=4,
    ),
    "vivit": _video(
        "VivitForVideoClassification", "VivitConfig", "classifier", frames=4, **S, image_size=32,
        num_frames=4, tubelet_size=[2, 8, 8], num_labels=10,
    ),
    "clip_vision": _row("CLIPVisionModelWithProjection", "CLIPVisionConfig", "visual_projection",
                        **PATCHES, projection_dim=16),
    "siglip_vision": _row("SiglipVisionModel", "SiglipVisionConfig", **PATCHES),
    "mlcd": _row("MLCDVisionModel", "MLCDVisionConfig", **PATCHES),
    "donut_swin": _row("DonutSwinModel", "DonutSwinConfig", image_size=32, patch_size=2,
                           embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4),
    "sam_vision": _row(
        "SamVisionModel", "SamVisionConfig", "vision_encoder.neck.conv2", hidden_size=32,
        num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8, output_channels=16,
        window_size=2, global_attn_indexes=[1], mlp_dim=64, mlp_ratio=2.0,
    ),
}  # fmt: skip

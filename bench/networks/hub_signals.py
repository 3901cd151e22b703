"""Sound, time series and several kinds of input at once: networks of `transformers`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from networks.hub import build, pixels
from networks.hub_text import BART, WORDS, words
from networks.hub_vision import Outputs, Row

S: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
WAVE: dict[str, Any] = {
    **S, "vocab_size": 12, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    **S, "vocab_size": WORDS, "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
VISION: dict[str, Any] = {**S, "image_size": 32, "patch_size": 8}
SERIES: dict[str, Any] = {
    "prediction_length": 4, "context_length": 16, "lags_sequence": [1, 2], "num_time_features": 2,
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "use_cache": False,
}  # fmt: skip


def _wave(length: int = 800) -> dict[str, Tensor]:
    return {"input_values": torch.randn(1, length)}


def _frames(length: int = 24, bins: int = 16) -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, length, bins)}


def _spectrum() -> dict[str, Tensor]:
    return {"input_values": torch.randn(1, 32, 16)}


def _speech_to_text() -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 24, 16), "decoder_input_ids": words(6)}


def _whisper() -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": words(6)}


def _moonshine() -> dict[str, Tensor]:
    return {"input_values": torch.randn(1, 3000), "decoder_input_ids": words(6)}


def _past(length: int = 32, channels: int = 3) -> dict[str, Tensor]:
    return {"past_values": torch.randn(1, length, channels)}


def _forecast() -> dict[str, Tensor]:
    return {
        "past_values": torch.randn(1, 18), "past_time_features": torch.randn(1, 18, 2),
        "past_observed_mask": torch.ones(1, 18), "future_values": torch.randn(1, 4),
        "future_time_features": torch.randn(1, 4, 2),
    }  # fmt: skip


def _image_and_text() -> dict[str, Tensor]:
    ids = words(8)
    ids[0, -1] = 2
    return {**pixels(32), "input_ids": ids}


def _text_and_image() -> dict[str, Tensor]:
    return {"input_ids": words(8), **pixels(32), "pixel_mask": torch.ones(1, 32, 32).long()}


def _regions() -> dict[str, Tensor]:
    return {
        "input_ids": words(8), "visual_feats": torch.randn(1, 4, 20),
        "visual_pos": torch.rand(1, 4, 4),
    }  # fmt: skip


def _visual_embeds() -> dict[str, Tensor]:
    return {"input_ids": words(8), "visual_embeds": torch.randn(1, 4, 20)}


def _sound_and_text() -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 1, 32, 16), "input_ids": words(8)}


def _states() -> dict[str, Tensor]:
    return {
        "states": torch.randn(1, 4, 5), "actions": torch.randn(1, 4, 3),
        "rewards": torch.randn(1, 4, 1), "returns_to_go": torch.randn(1, 4, 1),
        "timesteps": torch.arange(4)[None], "attention_mask": torch.ones(1, 4),
    }  # fmt: skip


def _row(kind: str, config: str, example: Any, *heads: str, **options: Any) -> Row:
    return partial(build, kind, config, **options), heads, example


def _ctc(family: str, example: Any = _wave, **options: Any) -> Row:
    return _row(f"{family}ForCTC", f"{family}Config", example, "lm_head", **options)


def _pair(kind: str, config: str, *names: str, **options: Any) -> nn.Module:
    return Outputs(build(kind, config, **options), *names)


def _contrast(family: str, text: dict[str, Any] | None = None, **options: Any) -> Row:
    """A text and an image tower that meet in one space."""
    make = partial(
        _pair, f"{family}Model", f"{family}Config", "text_embeds", "image_embeds",
        text_config=text or TEXT, vision_config=VISION, **options,
    )  # fmt: skip
    projections = ("network.text_projection", "network.visual_projection")
    return make, projections if options else (), _image_and_text


def _siglip() -> nn.Module:
    return _pair(
        "SiglipModel", "SiglipConfig", "text_embeds", "image_embeds", text_config=TEXT,
        vision_config=VISION,
    )  # fmt: skip


def _llava() -> nn.Module:
    import transformers

    return build(
        "LlavaForConditionalGeneration", "LlavaConfig", image_token_id=3,
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT, num_key_value_heads=2, use_cache=False),
        vision_feature_layer=-1,
    )  # fmt: skip


def _llava_example() -> dict[str, Tensor]:
    ids = words(24)
    ids[0, 2:18] = 3
    return {"input_ids": ids, **pixels(32)}


def _image_to_text() -> nn.Module:
    import transformers

    encoder = transformers.ViTConfig(**VISION)
    decoder = transformers.TrOCRConfig(
        d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64,
        vocab_size=WORDS, max_position_embeddings=32, cross_attention_hidden_size=32,
        use_cache=False,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.use_cache = False
    return Outputs(transformers.VisionEncoderDecoderModel(config=config), "logits")


SOUND: dict[str, Row] = {
    "wav2vec2": _ctc("Wav2Vec2", **WAVE),
    "wav2vec2_stable": _ctc("Wav2Vec2", **WAVE, do_stable_layer_norm=True,
                            feat_extract_norm="layer", conv_bias=True),
    "hubert": _ctc("Hubert", **WAVE),
    "wavlm": _ctc("WavLM", **WAVE, num_buckets=16, max_bucket_distance=32),
    "unispeech": _ctc("UniSpeech", **WAVE, num_ctc_classes=12),
    "unispeech_sat": _ctc("UniSpeechSat", **WAVE),
    "sew": _ctc("SEW", **WAVE, squeeze_factor=2),
    "data2vec_audio": _ctc("Data2VecAudio", **WAVE, conv_pos_kernel_size=3),
    "wav2vec2_conformer": _ctc("Wav2Vec2Conformer", **WAVE, conv_depthwise_kernel_size=3,
                               position_embeddings_type="rotary"),
    "wav2vec2_bert": _ctc("Wav2Vec2Bert", _frames, **S, vocab_size=12,
                          feature_projection_input_dim=16, conv_depthwise_kernel_size=3),
    "wav2vec2_classifier": _row(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _wave, "classifier", **WAVE,
        num_labels=4, classifier_proj_size=16,
    ),
    "ast": _row("ASTForAudioClassification", "ASTConfig", _spectrum, "classifier.dense", **S,
                patch_size=8, max_length=32, num_mel_bins=16, frequency_stride=8, time_stride=8,
                num_labels=4),
    "speech2text": _row("Speech2TextForConditionalGeneration", "Speech2TextConfig",
                        _speech_to_text, "lm_head", **BART, input_feat_per_channel=16,
                        conv_channels=32, max_source_positions=64, max_target_positions=32,
                        conv_kernel_sizes=[3, 3]),
    "whisper": _row("WhisperForConditionalGeneration", "WhisperConfig", _whisper,
                    "proj_out", **BART, num_mel_bins=16, max_source_positions=20,
                    max_target_positions=32),
    "moonshine": _row("MoonshineForConditionalGeneration", "MoonshineConfig", _moonshine,
                      "proj_out", hidden_size=32, intermediate_size=64, encoder_num_hidden_layers=1,
                      decoder_num_hidden_layers=1, encoder_num_attention_heads=4,
                      decoder_num_attention_heads=4, vocab_size=WORDS, use_cache=False,
                      max_position_embeddings=64),
    "parakeet": _row("ParakeetForCTC", "ParakeetCTCConfig", partial(_frames, 32, 16), "ctc_head",
                     vocab_size=12, encoder_config={**S, "num_mel_bins": 16,
                     "subsampling_conv_channels": 16, "subsampling_factor": 4}),
    "clap": (partial(_pair, "ClapModel", "ClapConfig", "text_embeds", "audio_embeds",
             text_config={**TEXT}, audio_config={
                 "spec_size": 32, "window_size": 2, "num_mel_bins": 16, "patch_size": 4,
                 "patch_stride": [4, 4], "patch_embeds_hidden_size": 16, "hidden_size": 32,
                 "depths": [1, 1], "num_attention_heads": [2, 4], "num_hidden_layers": 2,
             }, projection_dim=16),
             ("network.text_projection.linear2", "network.audio_projection.linear2"),
             _sound_and_text),
}  # fmt: skip

TIME: dict[str, Row] = {
    "patchtst": _row("PatchTSTForPrediction", "PatchTSTConfig", _past,
                     num_input_channels=3, context_length=32, patch_length=8, patch_stride=4,
                     d_model=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                     prediction_length=4, loss="mse"),
    "patchtst_classifier": _row("PatchTSTForClassification", "PatchTSTConfig", _past,
                                "head.linear", num_input_channels=3, context_length=32,
                                patch_length=8, patch_stride=4, d_model=32, ffn_dim=48,
                                num_hidden_layers=2, num_attention_heads=4, num_targets=3,
                                use_cls_token=True),
    "patchtsmixer": _row("PatchTSMixerForPrediction", "PatchTSMixerConfig", _past,
                         num_input_channels=3, context_length=32, patch_length=8, patch_stride=8,
                         d_model=16, num_layers=2, prediction_length=4, loss="mse",
                         mode="mix_channel"),
    "time_series": _row("TimeSeriesTransformerModel", "TimeSeriesTransformerConfig", _forecast,
                        **SERIES),
    "informer": _row("InformerModel", "InformerConfig", _forecast, **SERIES,
                     attention_type="full", distil=False),
    "decision_transformer": _row("DecisionTransformerModel", "DecisionTransformerConfig", _states,
                                 "predict_state", "predict_action.0", "predict_return",
                                 state_dim=5, act_dim=3, hidden_size=32, n_layer=2, n_head=4,
                                 max_ep_len=16, n_positions=64, use_cache=False),
}  # fmt: skip

SEVERAL: dict[str, Row] = {
    "clip": _contrast("CLIP", projection_dim=16),
    "metaclip2": _contrast("MetaClip2", projection_dim=16),
    "chinese_clip": _contrast("ChineseCLIP", projection_dim=16),
    "altclip": _contrast("AltCLIP", text={**TEXT, "project_dim": 24}, projection_dim=16),
    "siglip": (_siglip, (), _image_and_text),
    "visual_bert": _row("VisualBertModel", "VisualBertConfig", _visual_embeds, **TEXT,
                        visual_embedding_dim=20),
    "lxmert": _row("LxmertModel", "LxmertConfig", _regions, vocab_size=WORDS, hidden_size=32,
                   num_attention_heads=4, intermediate_size=64, l_layers=1, x_layers=1, r_layers=1,
                   visual_feat_dim=20, max_position_embeddings=32),
    "git": _row("GitForCausalLM", "GitConfig", _image_and_text, "output", **TEXT,
                vision_config=VISION, use_cache=False),
    "llava": (_llava, ("lm_head",), _llava_example),
    "trocr": (_image_to_text, ("network.decoder.output_projection",),
              lambda: {**pixels(32), "decoder_input_ids": words(6)}),
    "flava_image": _row("FlavaImageModel", "FlavaImageConfig", partial(pixels, 32), **VISION),
    "clipseg": _row("CLIPSegForImageSegmentation", "CLIPSegConfig", _image_and_text,
                    text_config=TEXT, vision_config=VISION, projection_dim=32,
                    extract_layers=[0, 1], reduce_dim=16,
                    decoder_num_attention_heads=4, decoder_intermediate_size=32),
    "owlvit": (partial(_pair, "OwlViTModel", "OwlViTConfig", "text_embeds", "image_embeds",
                       text_config=TEXT, vision_config=VISION, projection_dim=16),
               ("network.text_projection", "network.visual_projection"), _image_and_text),
    "bridgetower": _row(
        "BridgeTowerModel", "BridgeTowerConfig", _text_and_image, hidden_size=128,
        num_hidden_layers=2, num_attention_heads=4, text_config={**TEXT, "hidden_size": 128},
        vision_config={"hidden_size": 128, "num_hidden_layers": 2, "patch_size": 8,
                       "image_size": 32},
    ),
}  # fmt: skip

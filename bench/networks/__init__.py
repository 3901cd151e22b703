"""A zoo of networks with random weights, small enough to cut each in seconds.

The families are written from their papers; `hub` and its siblings take those of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from networks import (
    attention,
    classic,
    custom,
    heads,
    hub,
    hub_signals,
    hub_text,
    hub_vision,
    mobile,
    pixels,
    recurrent,
    residual,
    signals,
    tabular,
)

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


def _words(length: int = 9, count: int = 40) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, count, (1, length))


def _noise(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(1, *shape)


def _both(*parts: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(part() for part in parts)


RECURRENT = {
    "lstm_tagger": (lambda: recurrent.Tagger(nn.LSTM), ("head",), _words()),
    "lstm_two_ways": (
        lambda: recurrent.Tagger(nn.LSTM, bidirectional=True, num_layers=2),
        ("head",),
        _words(),
    ),
    "lstm_projected": (lambda: recurrent.Tagger(nn.LSTM, proj_size=12), ("head",), _words()),
    "gru_tagger": (lambda: recurrent.Tagger(nn.GRU), ("head",), _words()),
    "gru_two_ways": (lambda: recurrent.Tagger(nn.GRU, bidirectional=True), ("head",), _words()),
    "rnn_tagger": (lambda: recurrent.Tagger(nn.RNN, nonlinearity="relu"), ("head",), _words()),
    "gru_last_state": (recurrent.LastState, ("head.2",), _noise(7, 8)),
    "lstm_last_state": (lambda: recurrent.LastState(nn.LSTM), ("head.2",), _noise(7, 8)),
    "gru_cell": (lambda: recurrent.CellLoop(nn.GRUCell), ("head",), _noise(5, 6)),
    "lstm_cell": (lambda: recurrent.CellLoop(nn.LSTMCell), ("head",), _noise(5, 6)),
    "rnn_cell": (lambda: recurrent.CellLoop(nn.RNNCell), ("head",), _noise(5, 6)),
    "own_gates": (recurrent.OwnGates, ("head",), _noise(5, 6)),
    "speech_gru": (recurrent.Speech, ("head",), _noise(1, 16, 24)),
    "speech_lstm": (lambda: recurrent.Speech(nn.LSTM), ("head",), _noise(1, 16, 24)),
    "keyword_crnn": (recurrent.KeywordCRNN, ("head.2",), _noise(1, 20, 40)),
    "translator": (recurrent.Translator, ("head",), _both(_words(), _words(6))),
    "recurrent_autoencoder": (recurrent.RecurrentAutoencoder, ("head",), _noise(7, 5)),
    "convolutional_lstm": (recurrent.ConvolutionalCell, ("head",), _noise(3, 2, 8, 8)),
}
TABLES = {
    "dlrm": (tabular.DLRM, ("top.2",), _both(_noise(8), _words(3, 30))),
    "wide_and_deep": (tabular.WideAndDeep, ("deep.4", "wide"), _both(_words(2, 30), _noise(6))),
    "neural_factors": (
        tabular.NeuralFactors,
        ("head",),
        lambda: (torch.randint(0, 30, (1,)), torch.randint(0, 30, (1,))),
    ),
    "factorisation_machine": (tabular.FactorisationMachine, ("deep.2",), _words(4)),
    "crossing": (tabular.Crossing, ("head",), _words(3)),
    "two_towers": (tabular.TwoTowers, (), _both(_words(5), _noise(6))),
    "expert_mixture": (tabular.ExpertMixture, ("heads.0.2", "heads.1.2"), _noise(10)),
    "residual_table": (tabular.ResidualTable, ("tail.2",), _noise(10)),
    "field_transformer": (tabular.FieldTransformer, ("head",), _noise(6)),
}
ATTENTION = {
    "swin_restated": (attention.Swin, ("head",)),
    "maxvit": (attention.MaxViT, ("tail.5",)),
    "vision_transformer": (attention.VisionTransformer, ("head",)),
    "sequence_transformer": (attention.Sequences, ("head",), _both(_words(), _words(6))),
    "grouped_queries": (attention.GroupedQueries, ("head",), _words()),
    "linear_bias": (attention.LinearBias, ("head",), _words()),
    "mixer": (attention.Mixer, ("head",)),
    "gated_mixer": (lambda: attention.Mixer(attention.GatedTokens), ("head",)),
    "affine_mixer": (lambda: attention.Mixer(attention.AffineBlock), ("head",)),
    "conv_mixer": (attention.conv_mixer, ("7",)),
    "perceiver": (attention.Perceiver, ("head",), _noise(9, 5)),
    "graph_convolution": (
        attention.GraphConvolution,
        ("head",),
        lambda: (torch.randn(1, 6, 7), torch.rand(1, 6, 6)),
    ),
    "point_net": (attention.PointNet, ("points.2",), _noise(3, 20)),
}
HEADS = {
    "retina_net": (heads.RetinaNet, ("scores", "boxes"), image(64)),
    "fcos": (heads.FCOS, ("scores", "distances", "centre"), image(64)),
    "ssd": (heads.SSD, ("scores.0", "scores.1", "boxes.0", "boxes.1")),
    "distribution_head": (
        heads.DistributionHead,
        tuple(
            f"{kind}.{i}.{last}" for i in range(3) for kind, last in (("boxes", 1), ("scores", 2))
        ),
        image(64),
    ),
    "lraspp": (heads.LRASPP, ("low_scores", "high_scores")),
    "pyramid_pooling": (heads.PyramidPooling, ("head.1",)),
    "key_points": (heads.KeyPoints, ("head",)),
    "hourglass": (heads.Hourglass, ("scores.0", "scores.1")),
}

NETWORKS: dict[str, Net] = {
    **_plain("plain and concatenating", CLASSIC),
    **_plain("residual", RESIDUAL),
    **_plain("mobile", MOBILE),
    **_plain("maps out", PIXELS),
    **_plain("one and three dimensions", SIGNALS),
    **_plain("custom", CUSTOM),
    **_plain("recurrent", RECURRENT),
    **_plain("tables", TABLES),
    **_plain("attention", ATTENTION),
    **_plain("maps out", HEADS),
    **_plain("transformers: convolutions", HUB),
    **_plain("transformers: vision", hub_vision.NETS),
    **_plain("transformers: text encoders", hub_text.ENCODERS),
    **_plain("transformers: text decoders", hub_text.DECODERS),
    **_plain("transformers: text to text", hub_text.BOTH),
    **_plain("transformers: sound", hub_signals.SOUND),
    **_plain("transformers: time series", hub_signals.TIME),
    **_plain("transformers: several inputs", hub_signals.SEVERAL),
}

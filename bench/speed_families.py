"""What does half of every family cost on ONNX Runtime?

    python bench/speed_families.py --network resnet50     one row
    python bench/speed_families.py --all                  every missing row

A row is one network of the zoo at its own width with random weights, at `pruning_ratio=0.5` in
steps of 8 units: latency before and after on ONNX Runtime, one thread, batch one, call by call in
turns; the ratio is the median of the ratios of neighbouring calls. Accuracy means nothing with
random weights and is not told. Both files are compared with their networks before they are timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import penjing as pj
from networks import attention, recurrent, residual
from networks.classic import vgg11_bn
from networks.hub import build
from networks.mobile import mobilenet_v2
from record import Record
from speed import timed

CALLS = 100
ROUND_TO = 8
IMAGE = (1, 3, 64, 64)
WORDS = (1, 32)
Row = tuple[Callable[[], nn.Module], tuple[int, ...]]


def _hub(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: Logits(build(kind, config, **options))


class Logits(nn.Module):
    """The logits of a network of the hub, its input given by position."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).logits


ENCODER: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 768,
}  # fmt: skip
NETWORKS: dict[str, Row] = {
    "vgg": (lambda: vgg11_bn(32), (1, 3, 32, 32)),
    "resnet": (lambda: residual.resnet(residual.Bottleneck, (2, 2, 2, 2), 32), IMAGE),
    "densenet": (lambda: residual.densenet((3, 4, 3), 24), IMAGE),
    "convnext": (lambda: residual.convnext((48, 96, 192)), IMAGE),
    "mobilenet_v2": (mobilenet_v2, IMAGE),
    "vit": (
        _hub("ViTForImageClassification", "ViTConfig", **ENCODER, image_size=64, patch_size=8),
        IMAGE,
    ),
    "bert": (
        _hub("BertForSequenceClassification", "BertConfig", **ENCODER, vocab_size=1000),
        WORDS,
    ),
    "llama": (
        _hub(
            "LlamaForSequenceClassification", "LlamaConfig", **ENCODER, vocab_size=1000,
            num_key_value_heads=3, use_cache=False, pad_token_id=0,
        ),
        WORDS,
    ),
    "gru": (lambda: recurrent.LastState(nn.GRU, 192), (1, 40, 8)),
    "mixer": (lambda: attention.Mixer(width=192), (1, 3, 32, 32)),
}  # fmt: skip


def row(name: str, calls: int) -> dict[str, Any]:
    """Prune, export, time."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().eval()
    example = torch.randint(0, 1000, shape) if shape is WORDS else torch.randn(shape)
    pruned = pj.prune(model, example, pruning_ratio=0.5, round_to=ROUND_TO)
    data = pruned.report.data
    assert data.before is not None
    assert data.after is not None
    fewer = data.before.macs / data.after.macs
    return {
        "network": name,
        "round_to": ROUND_TO,
        "form": data.proof.form if data.proof else "",
        "fewer_macs": fewer,
        "fewer_params": data.before.params / data.after.params,
        **timed(model, pruned.model, example, calls, fewer),
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(NETWORKS))
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = "python bench/speed_families.py --all"
    results = Record("speed_families", __doc__.splitlines()[0], command)
    for name in [given.network] if given.network else NETWORKS if given.all else []:
        if not results.has(network=name):
            results.add(row(name, given.calls))
    shown = [
        f"{r['network']}: {r['fewer_macs']:.2f}x fewer MACs, {r['times_faster']:.2f}x faster"
        for r in results.content["rows"]
    ]
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()

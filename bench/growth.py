"""How long does the analysis take, and how does it grow with the network?

    python bench/growth.py --kind plain --layers 100      one row
    python bench/growth.py --all                          every missing row, then the slopes
    python bench/growth.py --summary                      the slopes alone
    python bench/growth.py --kind residual --layers 300 --profile     where the time goes

A row is one network: `torch.export` counted apart, penjing's analysis (labels, groups, proof of
every data movement) and Torch-Pruning's `build_dependency`, alone and with a walk over all its
groups, alternating in one process after a garbage collection each: minima and medians of n, in
process time of one thread, which other work on the machine hardly moves. The slope is that of
log(minimum) over log(layers).
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import math
import pstats
import statistics
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from networks.blocks import PooledClassifier, conv_bn_act
from networks.hub import build
from networks.residual import Basic, Bottleneck, resnet
from peers.depgraph import build_seconds
from penjing.graph.capture import Program, capture
from penjing.graph.network import Network
from record import Record

LAYERS = (10, 30, 100, 300, 1000)
WIDTH = 16
REPEATS = {10: 31, 30: 15, 100: 9, 300: 5, 1000: 3}
REPEATS_OF_WHOLE = 5
FIGURES = (
    "penjing_min_seconds",
    "torch_pruning_min_seconds",
    "torch_pruning_with_groups_min_seconds",
    "export_seconds",
)
PEER_LIMIT = 300.0  # seconds of one peer run after which it is not run again


def plain(layers: int) -> nn.Module:
    """Convolution, batch norm, ReLU, `layers` times."""
    body = [conv_bn_act(WIDTH, WIDTH) for _ in range(layers - 2)]
    return nn.Sequential(conv_bn_act(3, WIDTH), *body, PooledClassifier(WIDTH))


def residual(layers: int) -> nn.Module:
    """Basic blocks of two convolutions on one stream."""
    body = [Basic(WIDTH, WIDTH) for _ in range((layers - 2) // 2)]
    return nn.Sequential(conv_bn_act(3, WIDTH), *body, PooledClassifier(WIDTH))


def resnet50(_layers: int) -> nn.Module:
    """ResNet-50 of full width."""
    return resnet(Bottleneck, (3, 4, 6, 3), 64)


class Stack(nn.Module):
    """Torch's own encoder layers, six linear layers each with those of the attention."""

    def __init__(self, layers: int, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.body = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)
            for _ in range(max(1, layers // 6))
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.body:
            x = block(x)
        return self.head(x.mean(1))


def vit_b(_layers: int) -> nn.Module:
    """ViT-B/16 of `transformers`."""
    return build("ViTForImageClassification", "ViTConfig", num_labels=1000)


def bert_base(_layers: int) -> nn.Module:
    """BERT-base of `transformers`."""
    return build("BertForSequenceClassification", "BertConfig")


KINDS = {"plain": plain, "residual": residual, "attention": Stack}
WHOLE = {"resnet50": (resnet50, 53), "vit_b": (vit_b, 74), "bert_base": (bert_base, 75)}
"""Networks of one size, and how many weighted layers they have."""


def make(kind: str, layers: int) -> tuple[nn.Module, Any]:
    """A network and its example."""
    torch.manual_seed(0)
    if kind in KINDS:
        return KINDS[kind](layers).eval(), torch.randn(1, 3, 8, 8)
    model = WHOLE[kind][0](layers).eval()
    if kind == "bert_base":
        return model, {"input_ids": torch.randint(0, 1000, (1, 128))}
    image = torch.randn(1, 3, 224, 224)
    return model, {"pixel_values": image} if kind == "vit_b" else image


def analysed(program: Program) -> tuple[float, Network]:
    """Seconds of the analysis, and what it found; the program remembers nothing of a run before."""
    program = replace(program)
    gc.collect()
    start = time.process_time()
    network = Network(program)
    return time.process_time() - start, network


def row(kind: str, layers: int) -> dict[str, Any]:
    """Time both tools on one network, alternating."""
    model, example = make(kind, layers)
    start = time.process_time()
    program = capture(model, example)
    export = time.process_time() - start
    repeats = REPEATS.get(layers, REPEATS_OF_WHOLE)
    ours: list[float] = []
    theirs: list[tuple[float, float]] = []
    error = ""
    for _ in range(repeats):
        seconds, network = analysed(program)
        ours.append(seconds)
        if not error and (not theirs or theirs[-1][1] < PEER_LIMIT):
            gc.collect()
            try:
                theirs.append(build_seconds(model, example))
            except (RuntimeError, RecursionError, ValueError) as failure:
                error = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
    assert network.groups.reachable > 0.9  # a wrong answer has no speed
    return {
        "kind": kind,
        "layers": layers,
        "nodes": len(program.nodes),
        "params": network.groups.params,
        "groups": len(network.groups),
        "export_seconds": export,
        "penjing_seconds": statistics.median(ours),
        "penjing_min_seconds": min(ours),
        "n": len(ours),
        "torch_pruning_seconds": median(built for built, _ in theirs),
        "torch_pruning_min_seconds": min((built for built, _ in theirs), default=None),
        "torch_pruning_with_groups_seconds": median(whole for _, whole in theirs),
        "torch_pruning_with_groups_min_seconds": min((whole for _, whole in theirs), default=None),
        "torch_pruning_n": len(theirs),
        "torch_pruning_raised": error,
    }


def median(values: Iterable[float]) -> float | None:
    """Median, or None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def slope(rows: list[dict[str, Any]], figure: str) -> float | None:
    """Least squares of log(figure) over log(layers)."""
    points = [(math.log(r["layers"]), math.log(r[figure])) for r in rows if r[figure]]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Slopes by kind, over all sizes and over the larger ones."""
    said: dict[str, Any] = {}
    for kind, figure in product(KINDS, FIGURES):
        mine = [r for r in rows if r["kind"] == kind]
        large = [r for r in mine if r["layers"] >= 100]
        said[f"{kind} {figure}"] = {
            "slope": slope(mine, figure),
            "slope_from_100": slope(large, figure),
            "layers": {r["layers"]: r[figure] for r in mine},
        }
    return said


def profile(kind: str, layers: int) -> None:
    """Print the functions of the analysis that take longest."""
    program = capture(*make(kind, layers))
    with cProfile.Profile() as profiler:
        Network(program)
    for order in ("tottime", "cumulative"):
        pstats.Stats(profiler).sort_stats(order).print_stats(25)


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted({*KINDS, *WHOLE}))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--again", action="store_true", help="also the rows that are there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.profile:
        profile(given.kind or "residual", given.layers or 100)
        return
    results = Record("growth", __doc__.splitlines()[0], "python bench/growth.py --all")
    layers = (given.layers,) if given.layers else LAYERS
    todo = [*product(KINDS, layers), *((kind, size) for kind, (_, size) in WHOLE.items())]
    if given.kind:
        todo = [(kind, size) for kind, size in todo if kind == given.kind]
    for kind, layers in [] if given.summary else todo:
        if given.again or not results.has(kind=kind, layers=layers):
            made = row(kind, layers)
            results.drop(kind=kind, layers=layers)
            results.add(made)
    print(json.dumps(summary(results.content["rows"]), indent=1))


if __name__ == "__main__":
    main()

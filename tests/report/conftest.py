"""A report as a real run would fill it: ResNet-56 on CIFAR-10, with numbers that hang together."""

import math
import random

import pytest

from penjing.figures import (
    EpochFigures,
    Figures,
    GroupFigures,
    LatencyFigures,
    LayerFigures,
    Proof,
    RepairFigures,
    SparsityFigures,
)
from penjing.plan import Lock
from penjing.report import CandidateFigures, ClassFigures, Histogram, ReportData
from penjing.task import Recovered

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BLOCKS = [(stage, block) for stage in (1, 2, 3) for block in range(9)]


@pytest.fixture
def full():
    return resnet56()


def resnet56():
    dice = random.Random(0)
    groups = tuple(_group(stage, block, dice) for stage, block in BLOCKS)
    before, after = _layers(groups, cut=False), _layers(groups, cut=True)
    return ReportData(
        kind="compress",
        title="ResNet-56 on CIFAR-10",
        before=_figures(before, 853_018, 3_437_120, 196_608, 6.84, None),
        after=_figures(after, 431_442, 1_761_280, 163_840, 4.21, 1.62),
        metrics_before={"accuracy": 0.9339, "loss": 0.2871},
        metrics_after={"accuracy": 0.9162, "loss": 0.3314},
        higher_is_better={"accuracy": True, "loss": False},
        agreement=0.9431,
        per_class=tuple(_class(name, dice) for name in CLASSES),
        candidates=tuple(_candidates(dice, sum(layer.macs for layer in after))),
        groups=groups,
        sparsity=(
            SparsityFigures("conv1", 432, 432, reason="it is the first layer"),
            SparsityFigures("layer1.0.conv2", 2304, 230, "element", 0.013),
        ),
        repair=tuple(_repair(g, dice) for g in groups),
        epochs=tuple(_epoch(i) for i in range(1, 9)),
        histograms=tuple(_histogram(g, dice) for g in groups[::3]),
        locked=(
            Lock("fc.weight", 0, 10, "output of the network", ""),
            Lock("conv1.weight", 1, 3, "input of the network", ""),
            Lock("layer2.0.conv1.weight", 1, 16, "aten.pad: option A shortcut", "resnet.py:61"),
        ),
        proof=Proof(3.1e-15, 0.42, 4.4e-7, 208, "module"),
        choices={
            "importance": "obs",
            "allocation": "dp",
            "repair": "least_squares",
            "scope": "inner",
            "round_to": "1",
            "seed": "0",
            "calibration": "1000 images, no labels",
        },
        constraints={"macs": "50%", "max_drop": "0.02", "flash_kb": "1800"},
        environment={
            "python": "3.11.9",
            "penjing": "0.1.0",
            "torch": "2.13.0",
            "onnxruntime": "1.31.1",
            "platform": "Linux x86_64",
            "cpu": "AMD EPYC 7R13 Processor",
            "cores": "2",
            "threads": "1",
        },
        recovery=tuple(
            Recovered(step, split, figure, original, before, after)
            for split, better in (("val", 0.002), ("test", 0.0))
            for step, figure, original, before, after in (
                ("cut", "accuracy", 0.9339 + better, 0.9339 + better, 0.281),
                ("repaired", "accuracy", 0.9339 + better, 0.281, 0.9148 + better),
                ("fine-tuned", "accuracy", 0.9339 + better, 0.9148 + better, 0.9302),
                ("cut", "loss", 0.29, 0.29, 3.1),
                ("repaired", "loss", 0.29, 3.1, 0.35 - better),
                ("fine-tuned", "loss", 0.29, 0.35 - better, 0.301),
            )
        ),
        command="penjing compress resnet56.py --macs 50% --max-drop 2% --flash-kb 1800 --seed 0",
        seconds=372.4,
        notes=("Accuracy is that of 5000 test images on which nothing was chosen.",),
    )


def _group(stage, block, dice):
    units = 8 * 2**stage
    share = 0.31 + 0.36 * dice.random() - (0.15 if block in (3, 4, 5) else 0)
    kept = max(1, min(units, round(units * share)))
    return GroupFigures(
        f"layer{stage}.{block}.conv1.weight", units, kept, (1 - kept / units) ** 2 / 9
    )


def _layers(groups, *, cut):
    side = {1: 32, 2: 16, 3: 8}
    rows = [LayerFigures("conv1", "conv2d", 432, 432, 442_368, (1, 16, 32, 32))]
    for (stage, block), group in zip(BLOCKS, groups, strict=True):
        width, pixels = 8 * 2**stage, side[stage] ** 2
        inner = group.kept if cut else group.units
        name = f"layer{stage}.{block}"
        for layer, (rows_in, rows_out) in {
            "conv1": (width, inner),
            "conv2": (inner, width),
        }.items():
            params = 9 * rows_in * rows_out
            shape = (1, rows_out, side[stage], side[stage])
            rows.append(
                LayerFigures(f"{name}.{layer}", "conv2d", params, params, params * pixels, shape)
            )
    return (*rows, LayerFigures("fc", "linear", 650, 650, 640, (1, 10)))


def _figures(layers, params, size, ram, latency, ratio):
    timed = LatencyFigures(
        "onnxruntime 1.31.1", 1, 1, 200, latency, latency * 0.97, latency * 1.1, ratio
    )
    how = {
        "params": "elements of all parameters, tied ones once",
        "macs": "counted on the graph at batch one, without bias",
        "size_bytes": "bytes of the ONNX file that was written and read again",
        "ram_bytes": "peak of live activations on the graph at batch one",
        "latency_ms": "onnxruntime 1.31.1, 1 thread, median of 200 calls, alternating",
    }
    macs = sum(layer.macs for layer in layers)
    return Figures(params, params, macs, size, ram, latency, None, how, layers, timed)


def _class(name, dice):
    before = 0.93 + 0.05 * (dice.random() - 0.5) - (0.08 if name == "cat" else 0)
    change = -0.045 * dice.random() + 0.012
    return ClassFigures(name, 500, before, before + change, 0.95 - 0.04 * dice.random())


def _candidates(dice, chosen_macs):
    macs = 127_844_992
    for i in range(20):
        chosen = i == 6
        share = chosen_macs / macs if chosen else 0.28 + 0.034 * i + 0.01 * dice.random()
        drop = 0.08 * math.exp(-7.5 * (share - 0.28)) + 0.004 * dice.random()
        drop = 0.0177 if chosen else drop + (0.02 if i in (4, 9, 13) else 0)
        name = f"dp-{share:.2f}" if i not in (4, 9, 13) else f"uniform-{share:.2f}"
        yield CandidateFigures(
            name,
            int(macs * share),
            int(853_018 * share),
            int(3_437_120 * share),
            6.84 * (0.25 + 0.75 * share) if i % 2 == 0 else None,
            0.9339 - drop,
            drop,
            chosen,
            drop <= 0.02 and share <= 0.5,
            14 + 5 * dice.random(),
            "chosen for its accuracy within the budget" if chosen else "",
        )


def _repair(group, dice):
    layer = group.name.replace("conv1.weight", "conv2")
    if dice.random() < 0.08:
        return RepairFigures(layer, 0.012, None, None, "the error did not fall on held-out samples")
    error = 0.08 + 0.3 * dice.random()
    return RepairFigures(
        layer, error, error * (0.1 + 0.3 * dice.random()), 10 ** dice.randint(-6, -2)
    )


def _epoch(i):
    return EpochFigures(
        i,
        0.42 * math.exp(-0.3 * i) + 0.11,
        {"accuracy": 0.921 - 0.02 * math.exp(-0.5 * i)},
        0.01 / i,
        46.0,
    )


def _histogram(group, dice):
    bins, reach = 41, 0.2 + 0.3 * dice.random()
    edges = tuple(reach * (2 * i / bins - 1) for i in range(bins + 1))
    before = tuple(round(900 * math.exp(-(((i - 20) / 7) ** 2))) for i in range(bins))
    share = group.kept / group.units
    after = tuple(round(share * 820 * math.exp(-(((i - 20) / 7.8) ** 2))) for i in range(bins))
    return Histogram(group.name, edges, before, after)

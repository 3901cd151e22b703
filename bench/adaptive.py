"""What do networks give that adapt at run time: accuracy against mean and 95th-percentile latency?

    python bench/adaptive.py --study slimmable --network resnet20
    python bench/adaptive.py --study gating --network resnet20 --target 0.6
    python bench/adaptive.py --study channels --network resnet20 --target 0.5
    python bench/adaptive.py --study gathering
    python bench/adaptive.py --study tokens --method merge --r 8

One row per call (one per width for `slimmable`, one per network for `gathering`); rows that are
there are left alone. Early exits are in bench/exits.py. Tokens: the vision transformer of
bench/train_vit.py, without training, timed in turns with the original. Slimmable: all widths are
trained together from the trained network. Gating: gates in front of every residual block that keeps
its shape are trained with the network, or (`--static`) switches that look at no input, with which
the same training removes whole blocks. Channels: gates that choose the channels inside every
residual block. Gates learn at a rate of their own (`--gate-lr`). Gathering: layers with random
weights and such gates, timed against the same layers without. Test images are looked at once, for
the row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from encoders import VisionTransformer
from penjing.adaptive import ChannelDensity, GateRate, Sandwich, write_channels
from penjing.exporters import write_program
from penjing.graph.capture import capture
from penjing.latency.samples import spread as distribution
from penjing.latency.samples import time_samples
from record import Record, paired_interval
from schooling import cache_folder, decisions, restore
from train_vit import SHAPE, data
from workloads import BATCH, Workload, flips_and_shifts, workload

QUESTION = "What do networks give that adapt at run time?"
HEADS = 8000  # training images per epoch of the exits
SAMPLES = 500  # test images that are timed one by one
WIDTHS = (0.25, 0.5, 0.75, 1.0)
DENSITIES = (0.25, 0.5)
GATHERINGS = 30  # timed calls of a layer, each the fastest of a few
SLIM_IMAGES = 10000
SEED = 0


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of right decisions."""
    return float((outputs.argmax(1) == labels).double().mean())


def task_of(job: Workload, images: int) -> pj.Task:
    """Training images, 5000 others to validate, and the test images."""
    x, y = job.examples(SEED, images)
    order = torch.Generator().manual_seed(SEED)
    held = job.validation(SEED)
    labels = torch.from_numpy(job.labels).long()

    def train():
        for rows in torch.randperm(len(x), generator=order).split(128):
            yield flips_and_shifts(x[rows]), y[rows]

    return pj.Task(
        train=train,
        val=list(zip(held[0].split(BATCH), held[1].split(BATCH), strict=True)),
        test=list(zip(job.test.split(BATCH), labels.split(BATCH), strict=True)),
        loss=F.cross_entropy,
        metrics={"accuracy": accuracy},
    )


def spread(latency: pj.Figures) -> dict[str, float]:
    """The distribution over single samples."""
    return {
        "n": latency.n,
        "mean": latency.mean_ms,
        "median": latency.median_ms,
        "p95": latency.p95_ms,
        "min": latency.min_ms,
    }


def slimmable(name: str, images: int, epochs: int) -> None:
    """Four rows: one network, each of its widths."""
    rows = Record("adaptive", QUESTION, "python bench/adaptive.py --study slimmable ...")
    key = {"study": "slimmable", "network": name, "training_images": images, "epochs": epochs}
    if all(rows.has(**key, width=width) for width in WIDTHS):
        return
    job = workload(name)
    task = task_of(job, images)
    started = time.process_time()
    calibration = [job.calibration(SEED, 500)]
    made = pj.slimmable(job.model, job.test[:1], widths=WIDTHS, calibration=calibration)
    tuned = pj.train(
        made.model,
        pj.Task(train=task.train, loss=task.loss),
        callbacks=[Sandwich()],
        epochs=epochs,
        optimizer="sgd",
        lr=0.02,
        workdir=cache_folder() / f"slimmable-{name}-{images}-{epochs}",
    ).model
    spent = time.process_time() - started
    for width in WIDTHS:
        if rows.has(**key, width=width):
            continue
        cut, untrained = tuned.at_width(width), made.model.at_width(width)
        figures = pj.measure(cut, job.test[:1], against=job.model)
        rows.add(
            {
                **key,
                "width": width,
                "train_cpu_seconds": spent,
                "accuracy": 100 * job.quality(job.correct(cut.eval())),
                "untrained_accuracy": 100 * job.quality(job.correct(untrained.eval())),
                "dense_accuracy": 100 * job.quality(job.dense()),
                "macs": figures.macs,
                "params": figures.params,
                "latency_ms": figures.latency_ms,
                "times_faster": figures.latency.ratio,
                "n": figures.latency.n,
                "one_network_equals_it": equal(tuned, cut, width, job.test[:8]),
            }
        )


@torch.inference_mode()
def equal(network: nn.Module, cut: nn.Module, width: float, x: Tensor) -> float:
    """Largest difference between a width and the network cut to it, relative; asserted small."""
    with network.eval().at(width):
        wanted = network(x)
    apart = float((cut(x) - wanted).abs().max() / wanted.abs().max())
    assert apart < 1e-4, apart
    return apart


class Switch(nn.Module):
    """A gate that says the same of every input: what it learns is which blocks can go."""

    def __init__(self, _feature: Tensor, _outputs: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((1, 1), 2.0))

    def forward(self, stream: Tensor) -> Tensor:
        """One logit for all."""
        return self.logit.expand(len(stream), 1)


def gating(given: argparse.Namespace) -> None:
    """One row: one network, one target."""
    rows = Record("adaptive", QUESTION, "python bench/adaptive.py --study gating ...")
    name, images, epochs = given.network, given.images or HEADS, given.epochs or 3
    lr, channels = given.lr or 1e-3, given.study == "channels"
    key = {
        "study": given.study,
        "network": name,
        "target": given.target,
        "static": given.static,
        "training_images": images,
        "epochs": epochs,
        "lr": lr,
        "gate_lr": given.gate_lr,
    }
    if rows.has(**key):
        return
    job = workload(name)
    task = task_of(job, images)
    started = time.process_time()
    if channels:
        made, control = pj.gate_channels(job.model, job.test[:1]), ChannelDensity(given.target)
    else:
        gate = Switch if given.static else "linear"
        made = pj.gate_blocks(job.model, job.test[:1], gate=gate)
        control = GateRate(given.target)
    tuned = pj.train(
        made.model,
        pj.Task(train=task.train, loss=task.loss),
        teacher=job.model,
        callbacks=[control],
        epochs=epochs,
        optimizer="adamw",
        lr=lr,
        lr_by={"gates": given.gate_lr},
        seed=SEED,
        workdir=cache_folder() / f"gating-{'-'.join(str(part) for part in key.values())}",
    ).model
    spent = time.process_time() - started
    done = pj.measure_gates(tuned, pj.Task(test=task.test), split="test", samples=SAMPLES)
    data = done.report.data
    right = job.correct(tuned.eval())
    macs = tuned.macs_of(done.opened)
    rows.add(
        {
            **key,
            "train_cpu_seconds": spent,
            "dense_accuracy": 100 * job.quality(job.dense()),
            "accuracy": 100 * job.quality(right),
            "every_block_accuracy": 100 * job.quality(job.correct(tuned.original().eval())),
            "difference": paired_interval(right, job.dense()),
            "blocks": [row.name for row in data.gates],
            "opened": [row.taken for row in data.gates],
            "macs": data.after.macs,
            "dense_macs": data.before.macs,
            "macs_p5_p95": [float(macs.quantile(share)) for share in (0.05, 0.95)],
            "latency_ms": spread(data.after.latency),
            "dense_latency_ms": spread(data.before.latency),
        }
    )


def convolutions(width: int) -> nn.Module:
    """The inside of a residual block, three-wide."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
    )


def feed_forward(width: int) -> nn.Module:
    """The feed-forward layer of a transformer."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


GATHERED = {
    "two 3x3 convolutions, 32 channels, 16x16": (convolutions, 32, (32, 16, 16)),
    "two 3x3 convolutions, 128 channels, 16x16": (convolutions, 128, (128, 16, 16)),
    "two 3x3 convolutions, 256 channels, 8x8": (convolutions, 256, (256, 8, 8)),
    "feed-forward layer, 256 wide, 64 tokens": (feed_forward, 256, (64, 256)),
    "feed-forward layer, 768 wide, 128 tokens": (feed_forward, 768, (128, 768)),
}


def gathering() -> None:
    """A row per layer: what it costs to choose rows of weights while it runs."""
    rows = Record("adaptive", QUESTION, "python bench/adaptive.py --study gathering")
    for name, (make, width, shape) in GATHERED.items():
        key = {"study": "gathering", "network": name}
        if rows.has(**key):
            continue
        torch.manual_seed(SEED)
        x = torch.rand(1, *shape)
        network = pj.gate_channels(make(width).eval(), x).model
        with tempfile.TemporaryDirectory() as folder:
            files = [write_program(capture(network.original(), x), Path(folder) / "whole.onnx")]
            for density in DENSITIES:
                path = Path(folder) / f"{density}.onnx"
                files.append(write_channels(network.set_density(density), x, path))
            feeds = [[{one.inputs[0]: x.numpy()}] * GATHERINGS for one in files]
            times = time_samples([one.path for one in files], feeds).T
        whole, *gated = (spread(distribution(column)) for column in times)
        ms = dict(zip(map(str, DENSITIES), gated, strict=True))
        rows.add({**key, "dense_latency_ms": whole, "latency_ms": ms})


def tokens(method: str, r: int) -> None:
    """One row: one way to choose tokens, one number of them."""
    rows = Record("adaptive", QUESTION, "python bench/adaptive.py --study tokens ...")
    key = {"study": "tokens", "network": "vit", "method": method, "r": r}
    if rows.has(**key):
        return
    model = restore(VisionTransformer(**SHAPE), "vit")
    x, y = data().test
    made = pj.reduce_tokens(model, x[:1], r=r, method=method)
    timed = {batch: pj.measure(made.model, x[:1], against=model, batch=batch) for batch in (1, 32)}
    right, dense = ((decisions(net, x) == y).float() for net in (made.model, model))
    rows.add(
        {
            **key,
            "tokens": made.report.data.choices["tokens behind each layer"],
            "accuracy": 100 * float(right.mean()),
            "dense_accuracy": 100 * float(dense.mean()),
            "difference": paired_interval(right, dense),
            "macs": made.report.data.after.macs,
            "dense_macs": made.report.data.before.macs,
            "latency_ms": {b: t.latency_ms for b, t in timed.items()},
            "times_faster": {b: t.latency.ratio for b, t in timed.items()},
            "n": timed[1].latency.n,
        }
    )


def main() -> None:
    """One call, one row (or one per width)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--study", choices=("slimmable", "gating", "channels", "gathering", "tokens"), required=True
    )
    parser.add_argument("--network", default="resnet20", choices=("resnet20", "resnet56"))
    parser.add_argument("--images", type=int, help="training images; fewer for quicker rows")
    parser.add_argument("--epochs", type=int, help="3 for gating and channels, 1 for slimmable")
    parser.add_argument("--lr", type=float, help="of gating and channels")
    parser.add_argument("--gate-lr", type=float, default=1e-2)
    parser.add_argument(
        "--target", type=float, default=0.6, help="share of the work, or of channels"
    )
    parser.add_argument("--static", action="store_true", help="gates that look at no input")
    parser.add_argument("--method", default="merge", choices=("merge", "attention", "norm"))
    parser.add_argument("--r", type=int, default=8, help="tokens that go behind each layer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.study in {"gating", "channels"}:
        gating(given)
    elif given.study == "gathering":
        gathering()
    elif given.study == "slimmable":
        slimmable(given.network, given.images or SLIM_IMAGES, given.epochs or 1)
    else:
        tokens(given.method, given.r)


if __name__ == "__main__":
    main()

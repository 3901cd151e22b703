"""What do networks give that adapt at run time: accuracy against mean and 95th-percentile latency?

    python bench/adaptive.py --study exits --network resnet20 --max-drop 0.01
    python bench/adaptive.py --study slimmable --network resnet20
    python bench/adaptive.py --study gating --network resnet20 --target 0.6
    python bench/adaptive.py --study tokens --method merge --r 8

One row per call (one per width for `slimmable`); rows that are there are left alone. Exits: two
heads, on the trunk as it is (`--frozen`) or trained with it; thresholds are chosen on 5000 other
training images. The trunks have seen these in their own training, so their end looks better there
than it is, and the drop on test data is usually smaller than the one asked for. Tokens: the vision
transformer of bench/train_vit.py, without training, timed in turns with the original. Slimmable:
all widths are trained together from the trained network. Gating: gates in front of every residual
block that keeps its shape are trained with the network, or (`--static`) switches that look at no
input, with which the same training removes whole blocks. Test images are looked at once, for the
row.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from encoders import VisionTransformer
from penjing.adaptive import EarlyExitNetwork, GateRate, Sandwich
from penjing.training import ExitTeacher
from record import Record, paired_interval
from schooling import cache_folder, decisions, restore
from train_vit import SHAPE, data
from workloads import BATCH, Workload, flips_and_shifts, workload

QUESTION = "What do networks give that adapt at run time?"
HEADS = 8000  # training images per epoch of the exits
SAMPLES = 500  # test images that are timed one by one
WIDTHS = (0.25, 0.5, 0.75, 1.0)
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


def with_heads(
    job: Workload, images: int, epochs: int, lr: float, *, frozen: bool
) -> tuple[EarlyExitNetwork, float]:
    """The network with trained exits, from the cache where they are, and the CPU-seconds."""
    folder = cache_folder() / f"exits-{job.name}-{images}-{epochs}-{lr}-{frozen}"
    seconds = folder / "seconds.txt"
    if not seconds.exists():
        started = time.process_time()
        made = pj.early_exits(job.model, job.test[:1], exits=2, freeze_trunk=frozen).model
        task = made.task(task_of(job, images))
        tuned = pj.train(
            made,
            pj.Task(train=task.train, loss=task.loss),
            callbacks=[ExitTeacher()],
            epochs=epochs,
            lr=lr,
            seed=SEED,
        )
        pj.save(tuned.model, folder)
        seconds.write_text(str(time.process_time() - started))
    loaded = pj.load(folder)
    assert isinstance(loaded, EarlyExitNetwork)
    return loaded, float(seconds.read_text())


def exits(given: argparse.Namespace) -> None:
    """One row: one network, one criterion, one drop."""
    rows = Record("adaptive", QUESTION, "python bench/adaptive.py --study exits ...")
    name, max_drop, criterion = given.network, given.max_drop, given.criterion
    images, epochs = given.images or HEADS, given.epochs or 3
    lr = given.lr or (3e-3 if given.frozen else 1e-3)
    key = {
        "study": "exits",
        "network": name,
        "max_drop": max_drop,
        "criterion": criterion,
        "training_images": images,
        "epochs": epochs,
        "lr": lr,
        "frozen": given.frozen,
    }
    if rows.has(**key):
        return
    job = workload(name)
    made, spent = with_heads(job, images, epochs, lr, frozen=given.frozen)
    task = task_of(job, images)
    done = pj.calibrate_exits(made, task, max_drop=max_drop, criterion=criterion, samples=SAMPLES)
    data = done.report.data
    with torch.inference_mode():
        taken = torch.cat([done.model.infer(x).exits for x in job.test.split(BATCH)])
    right = job.correct(done.model.routed())
    plain, early = data.before.latency, data.after.latency
    rows.add(
        {
            **key,
            "heads_cpu_seconds": spent,
            "dense_accuracy": 100 * job.quality(job.dense()),
            "accuracy": 100 * job.quality(right),
            "difference": paired_interval(right, job.dense()),
            "places": [row.name for row in data.exits],
            "macs_share": [row.macs_share for row in data.exits],
            "accuracy_of_each": [100 * a for a in each_exit(done.model, job)],
            "taken": (torch.bincount(taken, minlength=3) / len(taken)).tolist(),
            "macs": data.after.macs,
            "dense_macs": data.before.macs,
            "latency_ms": spread(early),
            "dense_latency_ms": spread(plain),
        }
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


def each_exit(network: EarlyExitNetwork, job: Workload) -> list[float]:
    """Test accuracy when every sample leaves at one exit."""
    labels = torch.from_numpy(job.labels).long()
    with torch.inference_mode():
        said = [network(x) for x in job.test.split(BATCH)]
    together = (torch.cat(column) for column in zip(*said, strict=True))
    return [accuracy(logits, labels) for logits in together]


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
    lr = given.lr or 1e-3
    key = {
        "study": "gating",
        "network": name,
        "target": given.target,
        "static": given.static,
        "training_images": images,
        "epochs": epochs,
        "lr": lr,
    }
    if rows.has(**key):
        return
    job = workload(name)
    task = task_of(job, images)
    started = time.process_time()
    gate = Switch if given.static else "linear"
    made = pj.gate_blocks(job.model, job.test[:1], gate=gate).model
    tuned = pj.train(
        made,
        pj.Task(train=task.train, loss=task.loss),
        callbacks=[GateRate(given.target)],
        epochs=epochs,
        optimizer="adamw",
        lr=lr,
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
        "--study", choices=("exits", "slimmable", "gating", "tokens"), required=True
    )
    parser.add_argument("--network", default="resnet20", choices=("resnet20", "resnet56"))
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--criterion", default="confidence")
    parser.add_argument("--images", type=int, help="training images; fewer for quicker rows")
    parser.add_argument("--epochs", type=int, help="3 for exits and gating, 1 for slimmable")
    parser.add_argument("--lr", type=float, help="of exits and gating")
    parser.add_argument("--frozen", action="store_true", help="train the exits' heads alone")
    parser.add_argument("--target", type=float, default=0.6, help="share of the blocks' work")
    parser.add_argument("--static", action="store_true", help="gates that look at no input")
    parser.add_argument("--method", default="merge", choices=("merge", "attention", "norm"))
    parser.add_argument("--r", type=int, default=8, help="tokens that go behind each layer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.study == "exits":
        exits(given)
    elif given.study == "gating":
        gating(given)
    elif given.study == "slimmable":
        slimmable(given.network, given.images or SLIM_IMAGES, given.epochs or 1)
    else:
        tokens(given.method, given.r)


if __name__ == "__main__":
    main()

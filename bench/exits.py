"""What do early exits save: accuracy against mean and 95th-percentile latency?

    python bench/exits.py --network resnet56 --frozen
    python bench/exits.py --network resnet56 --images 10000 --epochs 2

One row per drop that is allowed; rows that are there are left alone, a call that was killed goes
on where it was. Two exits are trained on training images and taught by the network's own end: on
the trunk as it is (`--frozen`, on features that are computed once), or, from these heads on, with
the trunk, which learns slowly (`--lr`) and the heads fast (`--head-lr`).

The trunks were trained by their authors on all training images, so their end looks better there
than it is. Thresholds are therefore chosen on a fixed half of the test images, and all figures are
those of the other half. The files are timed sample by sample, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import penjing as pj
from adaptive import SEED, accuracy, spread, task_of
from penjing.adaptive import EarlyExitNetwork, ExitPolicy, write_conditional
from penjing.adaptive.calibration import Answers, Calibration
from penjing.adaptive.exit_files import stage_programs
from penjing.adaptive.exits import score_of
from penjing.counts.macs import count_macs
from penjing.exporters import write_program
from penjing.graph.capture import capture
from penjing.latency.samples import spread as distribution
from penjing.latency.samples import time_samples
from penjing.training import ExitTeacher
from record import Record, paired_interval
from schooling import cache_folder
from workloads import SPLIT_SEED, Workload, flips_and_shifts, workload

QUESTION = "What do early exits save: accuracy against mean and 95th-percentile latency?"
TRAINED = ("network", "head", "frozen", "images", "epochs", "lr", "head_lr")
DROPS = (0.0025, 0.005, 0.01, 0.02)
SAMPLES = 300  # images that are timed one by one
FROZEN = {"images": 20000, "epochs": 6, "head_lr": 3e-3}
"""How heads are trained on a frozen trunk, by themselves or before the trunk learns with them."""

PART = 1000  # images whose features are computed and kept at a time
BATCH = 32  # at which the trunk is quickest, and which fits into the cache


def named(given: argparse.Namespace) -> str:
    """Folder of the trained network."""
    return f"exits-{'-'.join(str(getattr(given, name)) for name in TRAINED)}"


def halves(job: Workload) -> tuple[pj.Task, pj.Task]:
    """A fixed half of the test images to choose thresholds on, and the other to report on."""
    order = np.random.RandomState(SPLIT_SEED).permutation(len(job.test))
    labels = torch.from_numpy(job.labels).long()

    def over(rows: np.ndarray) -> pj.Task:
        batches = zip(job.test[rows].split(BATCH), labels[rows].split(BATCH), strict=True)
        return pj.Task(val=list(batches), loss=F.cross_entropy, metrics={"accuracy": accuracy})

    return over(order[: len(order) // 2]), over(order[len(order) // 2 :])


class Heads(nn.Module):
    """The exits of a network alone, fed with what crosses at them; its own end is given.

    Args:
        network: Its heads are shared.
    """

    def __init__(self, network: EarlyExitNetwork) -> None:
        super().__init__()
        self.heads = network.heads

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What every exit says."""
        *features, end = given
        said = [head(one) for head, one in zip(self.heads, features, strict=True)]
        return (*said, end)


@torch.no_grad()
def crossing(network: EarlyExitNetwork, x: Tensor) -> list[Tensor]:
    """What the heads read, and what the end says; float16 keeps it small."""
    values, found = network.segments[0](x), []
    for place, piece in zip(network.attachments, list(network.segments)[1:], strict=True):
        found.append(values[place.feature])
        values = piece(*values)
    return [one.half() for one in (*found, score_of(values))]


def features(job: Workload, network: EarlyExitNetwork, images: int, folder: Path) -> list[Tensor]:
    """What crosses at the exits for training images, flipped and shifted once."""
    x, _ = job.examples(SEED, images)
    parts = []
    for start in range(0, images, PART):
        path = folder / f"features-{start}.pt"
        if not path.exists():
            torch.manual_seed(start)
            views = map(flips_and_shifts, x[start : start + PART].split(BATCH))
            columns = zip(*(crossing(network, one) for one in views), strict=True)
            torch.save([torch.cat(column) for column in columns], path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
            print(f"features of {min(start + PART, images)} images", flush=True)
        parts.append(torch.load(path, weights_only=True))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def train_heads(
    job: Workload, network: EarlyExitNetwork, given: argparse.Namespace, folder: Path
) -> None:
    """The heads alone, in place: a frozen trunk gives the same features in every epoch."""
    known = features(job, network, given.images, folder)
    labels = job.examples(SEED, given.images)[1]

    def train():
        for rows in torch.randperm(given.images).split(128):
            yield tuple(one[rows].float() for one in known), labels[rows]

    task = pj.Task(train=train, loss=network.task(pj.Task(loss=F.cross_entropy)).loss)
    pj.train(Heads(network), task, lr=given.head_lr, **schooling(given, folder))
    for path in folder.glob("features-*.pt"):
        path.unlink()


def train_all(
    job: Workload, network: EarlyExitNetwork, given: argparse.Namespace, folder: Path
) -> None:
    """The heads, from those of a frozen trunk, fast and the trunk slowly, in place."""
    first = argparse.Namespace(**{**vars(given), **FROZEN, "frozen": True, "lr": None})
    heads = with_heads(job, first, cache_folder() / named(first))[0].heads
    network.heads.load_state_dict(heads.state_dict())
    task = network.task(replace(task_of(job, given.images), val=None, test=None))
    rates = {"lr": given.lr, "lr_by": {"heads": given.head_lr}}
    pj.train(network, task, **rates, **schooling(given, folder))


def schooling(given: argparse.Namespace, folder: Path) -> dict:
    """Settings of both."""
    where = {"workdir": folder / "training", "save_seconds": 20.0, "inplace": True}
    return {"callbacks": [ExitTeacher()], "epochs": given.epochs, "seed": SEED, **where}


def with_heads(
    job: Workload, given: argparse.Namespace, folder: Path
) -> tuple[EarlyExitNetwork, float]:
    """The network with trained exits, from the cache where it is, and the CPU-seconds."""
    seconds = folder / "seconds.txt"
    if not seconds.exists():
        folder.mkdir(exist_ok=True)
        started = time.process_time()
        made = pj.early_exits(
            job.model, job.test[:1], exits=2, head=given.head, freeze_trunk=given.frozen
        ).model
        (train_heads if given.frozen else train_all)(job, made, given, folder)
        pj.save(made.eval(), folder / "network")
        seconds.write_text(str(time.process_time() - started))
    loaded = pj.load(folder / "network")
    assert isinstance(loaded, EarlyExitNetwork)
    return loaded, float(seconds.read_text())


def answers(network: EarlyExitNetwork, task: pj.Task, path: Path) -> Answers:
    """What every exit says, from the cache where it is."""
    if not path.exists():
        found = Answers.of(network, task)
        torch.save([*found.logits, found.labels], path)
    *logits, labels = torch.load(path, weights_only=True)
    return Answers(tuple(logits), labels, task)


def written(
    network: EarlyExitNetwork, policies: Mapping[str, ExitPolicy], x: Tensor, folder: Path
) -> list[Path]:
    """The network without exits, and with each policy, as files; those that are there stay."""
    folder.mkdir(exist_ok=True)
    paths = [folder / "whole.onnx"]
    if not paths[0].exists():
        write_program(capture(network.original(), x[:1]), paths[0])
    for name, policy in policies.items():
        paths.append(folder / f"{name}.onnx")
        network.policy = policy
        if not paths[-1].exists():
            write_conditional(network, x[:1], paths[-1])
    return paths


def timed(paths: list[Path], x: Tensor) -> np.ndarray:
    """Milliseconds per image and file."""
    names = [onnxruntime.InferenceSession(path).get_inputs()[0].name for path in paths]
    feeds = [[{name: image.numpy()} for image in x.split(1)] for name in names]
    return time_samples(paths, feeds).T


def study(given: argparse.Namespace) -> None:
    """A row per drop: one network, one criterion."""
    rows = Record("exits", QUESTION, "python bench/exits.py ...")
    key = {name: getattr(given, name) for name in ("criterion", *TRAINED)}
    drops = [drop for drop in given.max_drop if not rows.has(**key, max_drop=drop)]
    if not drops:
        return
    folder = cache_folder() / named(given)
    job = workload(given.network)
    network, spent = with_heads(job, given, folder)
    first, second = halves(job)
    known, unseen = (
        answers(network, task, folder / f"half-{index}.pt")
        for index, task in enumerate((first, second))
    )
    macs = list(accumulate(count_macs(p) for p in stage_programs(network, job.test[:1])))
    alone = [100 * accuracy(logits, unseen.labels) for logits in unseen.logits]
    print(f"exits alone: {alone}", flush=True)
    search = Calibration(known, tuple(map(float, macs)), given.criterion)
    chosen = [search.within_drop(drop) for drop in drops]
    x = torch.cat([batch for batch, _ in second.val])[:SAMPLES]
    names = [f"{given.criterion}-{drop:g}" for drop in drops]
    policies = dict(zip(names, (one.policy for one in chosen), strict=True))
    paths = written(network, policies, x, folder / "files")
    if given.train:
        return
    columns = timed(paths, x)
    dense = answers_of_original(job, second, folder)
    for drop, one, column in zip(drops, chosen, columns[1:], strict=True):
        taken = one.policy.route(unseen.logits)
        right = unseen.stacked[taken, torch.arange(len(taken))].argmax(1) == unseen.labels
        shares = torch.bincount(taken, minlength=len(macs)).double() / len(taken)
        rows.add(
            {
                **key,
                "max_drop": drop,
                "heads_cpu_seconds": spent,
                "dense_accuracy": 100 * float(dense.double().mean()),
                "accuracy": 100 * float(right.double().mean()),
                "difference": paired_interval(right, dense),
                "chosen_drop": 100 * one.drop,
                "places": [place.name for place in network.attachments],
                "macs_share": [place.share for place in network.attachments],
                "thresholds": [str(limit) for limit in one.policy.thresholds],
                "accuracy_of_each": alone,
                "taken": shares.tolist(),
                "macs": float(shares @ torch.tensor(macs, dtype=torch.float64)),
                "dense_macs": count_macs(capture(job.model, job.test[:1])),
                "latency_ms": spread(distribution(column)),
                "dense_latency_ms": spread(distribution(columns[0])),
            }
        )


def answers_of_original(job: Workload, task: pj.Task, folder: Path) -> Tensor:
    """Whether the network as its authors trained it is right, per image."""
    path = folder.parent / f"{job.name}-half.pt"
    if not path.exists():
        with torch.inference_mode():
            torch.save(torch.cat([job.model(x).argmax(1) == y for x, y in task.val]), path)
    found: Tensor = torch.load(path, weights_only=True)
    return found


def main() -> None:
    """One call, one network with exits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet56", choices=("resnet20", "resnet56"))
    parser.add_argument("--criterion", default="confidence")
    parser.add_argument("--max-drop", type=float, nargs="+", default=DROPS)
    parser.add_argument("--head", default="deep", choices=("linear", "conv", "deep"))
    parser.add_argument("--images", type=int, default=FROZEN["images"], help="training images")
    parser.add_argument("--epochs", type=int, default=FROZEN["epochs"])
    parser.add_argument("--lr", type=float, default=3e-4, help="of the trunk")
    parser.add_argument("--head-lr", type=float, default=FROZEN["head_lr"])
    parser.add_argument("--frozen", action="store_true", help="train the heads alone")
    parser.add_argument("--train", action="store_true", help="train and write files, time later")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.frozen:
        given.lr = None
    study(given)


if __name__ == "__main__":
    main()

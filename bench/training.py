"""How fast does a pruned network recover by training, under the same minutes as its peer?

    python bench/training.py --who penjing
    python bench/training.py --who torch_pruning
    python bench/training.py --who narrow           every width smaller, with weights of the parent
    python bench/training.py --who scratch          the same student, from scratch

ResNet-56 for CIFAR-10 with 2.11x fewer MACs, then trained by one loop towards the dense network,
without labels: its outputs, and the sums of every third residual block, which no pruning here
narrows. Adam, a learning rate that falls to zero with the time, products in bfloat16. The minutes
are process time of one thread and include pruning (and penjing's repair). A killed run goes on
where it was. Choices (`--lr`, say) are made on held-out training images; the test set is looked at
for the curve only.
"""

from __future__ import annotations

import argparse
import copy
import math
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import penjing as pj
from clock import NOW, Clock, images, run_folder
from penjing.distillation import Logits, Regression
from penjing.files import write_bytes
from penjing.training import Fit, Teacher, fit
from record import Record
from workloads import Workload, workload

FACTOR = 2.11
BATCH = 128
WARM = 0.03  # share of the time in which the learning rate rises
LR = 1e-3  # of Adam; 1e-3 and 5e-4 are alike on held-out images after 2.5 minutes
FEATURES = 30.0  # weight of the inner error beside that of the outputs, as in `repair="tune"`
EVERY = 3  # blocks


def penjing_pruned(job: Workload, seed: int) -> nn.Module:
    """Pruned, repaired and tuned without labels."""
    x = job.calibration(seed, 1000)
    macs = {"macs": f"{100 / FACTOR}%"}
    given = {"constraints": macs, "calibration": [x], "repair": "tune", "seed": seed}
    return pj.prune(job.model, x[:1], **given).model


def torch_pruning_pruned(job: Workload, _seed: int) -> nn.Module:
    """Pruned in steps by group norm over all layers, as in the benchmark of its authors.

    The channels of the residual stream stay, as they do under penjing's default scope: the
    parameter-free shortcuts of this network are no ops that Torch-Pruning can cut.
    """
    import torch_pruning as tp

    model, example = copy.deepcopy(job.model), job.test[:1]
    cut = {
        f"{name}.conv1" for name, part in model.named_modules() if name and hasattr(part, "conv1")
    }
    layers = (nn.Conv2d, nn.Linear)
    kept = [m for n, m in model.named_modules() if isinstance(m, layers) and n not in cut]
    pruner = tp.pruner.GroupNormPruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.95,
        iterative_steps=400,
        ignored_layers=kept,
    )
    dense, _ = tp.utils.count_ops_and_params(model, example)
    for _ in range(400):
        pruner.step()
        if tp.utils.count_ops_and_params(model, example)[0] * FACTOR <= dense:
            break
    return model


def narrow(job: Workload, seed: int) -> nn.Module:
    """Every width of the residual blocks smaller by the same share; units of the parent."""
    macs = {"macs": f"{100 / FACTOR}%"}
    return pj.shrink_like(job.model, job.test[:1], constraints=macs, scope="inner", seed=seed).model


def scratch(job: Workload, seed: int) -> nn.Module:
    """The same network with every layer's own initialisation."""
    macs, fresh = {"macs": f"{100 / FACTOR}%"}, {"weights": "fresh", "seed": seed}
    return pj.shrink_like(job.model, job.test[:1], constraints=macs, scope="inner", **fresh).model


WHO = {
    "penjing": penjing_pruned,
    "torch_pruning": torch_pruning_pruned,
    "narrow": narrow,
    "scratch": scratch,
}


def start(job: Workload, given: argparse.Namespace, folder: Path) -> tuple[nn.Module, float]:
    """The pruned network and the seconds it took; from the folder where a run was killed."""
    kept = folder / "pruned.pickle"  # our own file, written two lines below
    if not kept.exists():
        begun = NOW[given.clock]()
        model = WHO[given.who](job, given.seed)
        write_bytes(kept, pickle.dumps((model, NOW[given.clock]() - begun)))
    model, seconds = pickle.loads(kept.read_bytes())
    return model, seconds


def lessons_of(teacher: nn.Module, task: pj.Task) -> list[Teacher]:
    """Relative squared errors of the outputs and, weighted, of the sums of blocks."""
    blocks = [n for n, m in teacher.named_modules() if n and hasattr(m, "conv1")]
    with torch.no_grad():
        scores = teacher.eval()(next(task.batches("train")).inputs)
    losses = [
        Logits(kind="values", weight=1.0),
        Regression(weight=FEATURES * float(scores.var()), reader=False),
    ]
    return [Teacher(teacher, losses, {name: name for name in blocks[EVERY - 1 :: EVERY]})]


def row(job: Workload, given: argparse.Namespace, key: dict[str, Any]) -> dict[str, Any]:
    """Prune, train until the time is over, and tell the curve."""
    folder = run_folder("-".join(str(value) for value in key.values()))
    model, seconds = start(job, given, folder)
    model = model.to(memory_format=torch.channels_last)  # convolutions take bfloat16 best that way
    teacher = copy.deepcopy(job.model).to(memory_format=torch.channels_last)
    task = images(BATCH)
    clock = Clock(task, given.minutes, given.clock, given.points, seconds)
    before = {split: 100 * task.evaluate(model, split)["accuracy"] for split in ("val", "test")}
    print({"pruned": before, "seconds": round(seconds, 1)}, flush=True)
    macs = [pj.measure(net, job.test[:1], latency=False).macs for net in (job.model, model)]

    def rate(_progress: float) -> float:
        done = clock.progress
        if done < WARM:
            return done / WARM
        return 0.5 + 0.5 * math.cos(math.pi * (done - WARM) / (1 - WARM))

    fitting = Fit(
        epochs=10_000,  # the clock ends it
        optimizer="adam",
        lr=given.lr,
        schedule=rate,
        warmup=0.0,
        precision=given.precision,
        seed=given.seed,
        workdir=folder,
        progress=False,
    )
    lessons = lessons_of(teacher, task) if given.teacher else []
    wall, cpu = time.perf_counter(), time.process_time()
    unjudged = replace(task, val=None, test=None)  # the clock judges
    result = fit(model, unjudged, fitting, [*lessons, clock])
    last = clock.curve[-1]
    return {
        **key,
        "measured_fewer_macs": macs[0] / macs[1],
        "prune_seconds": seconds,
        "pruned": before,
        "trained": {split: last[split] for split in ("val", "test")},
        "curve": clock.curve,
        "steps": result.steps,
        "samples_seen": result.steps * BATCH,
        "wall_seconds_of_last_call": time.perf_counter() - wall,
        "cpu_seconds_of_last_call": time.process_time() - cpu,
        "split": "trained on 45 000 training images, choices on 2 000 others, the test set for the "
        "record; the dense network had seen all training images",
    }


def main() -> None:
    """Do the row that is asked for, if it is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--who", choices=tuple(WHO), default="penjing")
    parser.add_argument("--minutes", type=float, default=45, help="of the clock")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(NOW), default="cpu")
    parser.add_argument("--points", type=int, default=9, help="of the curve")
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--no-teacher", dest="teacher", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print the row, do not record it")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = ("who", "minutes", "threads", "clock", "lr", "precision", "teacher", "seed")
    key = {name: getattr(given, name) for name in names}
    rows = Record("training-resnet56", __doc__.splitlines()[0], "python bench/training.py --who W")
    if rows.has(**key):
        return
    done = row(workload("resnet56"), given, key)
    if given.dry:
        print(done)
    else:
        rows.add(done)


if __name__ == "__main__":
    main()

"""How much of a transformer's accuracy is left after a cut: at once, and after distillation?

    python bench/attention.py --network vit --fewer-macs 2 --seed 0
    python bench/attention.py --network vit --fewer-macs 2 --seed 0 --epochs 3
    python bench/attention.py --all          every missing row, one after the other

No labels: the cut is judged and repaired with 1000 training inputs, distillation learns the
original's outputs on training inputs, and the epoch that is given back is chosen on validation
data. The networks are those of train_vit.py and train_text.py. Retained is
(accuracy - chance) / (original's accuracy - chance), on test data that are looked at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import ModuleType

import torch
from torch import Tensor, nn

import penjing as pj
import train_text
import train_vit
from encoders import VisionTransformer
from record import Record, paired_interval
from schooling import BATCH, Data, decisions, restore

SAMPLES = 1000
SEEDS = (0, 1, 2)
FACTORS = {"vit": (1.5, 2.0, 3.0), "text": (2.0, 4.0, 8.0)}
CHOICES = (("obs", "dp", "least_squares"), ("random", "uniform", None))
LESSONS = {"vit": 1, "text": 8}  # epochs of distillation, within ten CPU-minutes on one thread
RATE = 5e-4
CHANCE = {"vit": 0.1, "text": 0.5}


@dataclass(frozen=True)
class Job:
    """A trained transformer with its data.

    Args:
        name: Short name.
        model: In eval mode.
        data: Training, validation and test parts.
    """

    name: str
    model: nn.Module
    data: Data

    def calibration(self, seed: int) -> Tensor:
        """Training inputs at random."""
        generator = torch.Generator().manual_seed(seed)
        inputs = self.data.train[0]
        return inputs[torch.randperm(len(inputs), generator=generator)[:SAMPLES]]

    def right(self, model: nn.Module) -> Tensor:
        """Per test input 1.0 where the decision is right."""
        inputs, labels = self.data.test
        return (decisions(model.eval(), inputs) == labels).float()

    def batches(self) -> Iterator[Tensor]:
        """Training inputs of one epoch, changed at random, without labels."""
        inputs = self.data.train[0]
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            yield self.data.augment(inputs[rows], generator)


@cache
def job(name: str) -> Job:
    """The network that a training script stored."""
    script: ModuleType = {"vit": train_vit, "text": train_text}[name]
    if name == "vit":
        model: nn.Module = VisionTransformer(**script.SHAPE)
    else:
        model = script.model()
    return Job(name, restore(model, name), script.data())


@cache
def dense(name: str) -> Tensor:
    """What the original decides rightly, looked at once."""
    return job(name).right(job(name).model)


def cut(work: Job, factor: float, seed: int, choice: tuple[str, str, str | None]) -> pj.Pruned:
    """Prune without labels."""
    importance, allocation, repair = choice
    x = work.calibration(seed)
    return pj.prune(
        work.model,
        x[:2],
        constraints={"macs": f"{100 / factor}%"},
        calibration=[x],
        importance=importance,
        allocation=allocation,
        repair=repair,
        seed=seed,
    )


def distilled(work: Job, pruned: nn.Module, epochs: int) -> nn.Module:
    """Learn the original's outputs; validation labels choose the epoch and nothing else."""
    inputs, labels = work.data.val
    val = list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))
    task = pj.Task(train=work.batches, val=val, metrics={"accuracy": _accuracy})
    settings = {"epochs": epochs, "lr": RATE, "clip": 1.0, "progress": False}
    tuned = pj.finetune(pruned, task, teacher=work.model, temperature=2.0, weight=1.0, **settings)
    return tuned.model


def _accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).float().mean())


def row(
    name: str, factor: float, seed: int, choice: tuple[str, str, str | None], epochs: int
) -> dict:
    """Prune, distil where asked for, then look at the test data once."""
    work = job(name)
    start, wall = time.process_time(), time.perf_counter()
    pruned = cut(work, factor, seed, choice)
    seconds = time.process_time() - start
    model = distilled(work, pruned.model, epochs) if epochs else pruned.model
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    before, after = dense(name), work.right(model)
    chance, data = CHANCE[name], pruned.report.data
    kinds: dict[str, list[int]] = {}
    for group, figures in zip(
        pj.find_groups(work.model, work.calibration(0)[:2]), data.groups, strict=True
    ):
        pair = kinds.setdefault(group.kind, [0, 0])
        pair[0], pair[1] = pair[0] + figures.units, pair[1] + figures.kept
    return {
        "network": name,
        "fewer_macs": factor,
        "seed": seed,
        **dict(zip(("importance", "allocation", "repair"), choice, strict=True)),
        "distilled_epochs": epochs,
        "measured_fewer_macs": data.before.macs / data.after.macs,
        "fewer_params": data.before.params / data.after.params,
        "dense": 100 * float(before.mean()),
        "pruned": 100 * float(after.mean()),
        "retained": (float(after.mean()) - chance) / (float(before.mean()) - chance),
        "difference_points": paired_interval(after, before),
        "units": kinds,
        "samples": SAMPLES,
        "test_samples": len(before),
        "prune_cpu_seconds": seconds,
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "proof_error": data.proof.error,
        "form": data.proof.form,
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(FACTORS))
    parser.add_argument("--fewer-macs", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--epochs", type=int, default=0, help="of distillation")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Record("attention", __doc__.splitlines()[0], "python bench/attention.py --all")
    for name in [given.network] if given.network else sorted(FACTORS):
        factors = [given.fewer_macs] if given.fewer_macs else FACTORS[name]
        seeds = SEEDS if given.seed is None else [given.seed]
        wanted = [(f, s, c, 0) for c, f, s in product(CHOICES, factors, seeds)]
        if given.all:
            wanted.append((2.0, 0, CHOICES[0], LESSONS[name]))
        if given.epochs:
            wanted = [(f, s, CHOICES[0], given.epochs) for f, s in product(factors, seeds)]
        for factor, seed, choice, epochs in wanted:
            key = dict(zip(("importance", "allocation", "repair"), choice, strict=True))
            known = {"network": name, "fewer_macs": factor, "seed": seed, **key}
            if not rows.has(distilled_epochs=epochs, **known):
                rows.add(row(name, factor, seed, choice, epochs))


if __name__ == "__main__":
    main()

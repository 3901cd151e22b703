"""MLPerf Tiny's ResNet-8, pruned under bounds on MACs and RAM, then taught by a larger network.

    python bench/small_resnet8.py --epochs 5 --lr 0.003     accuracy on held-out training images

The teacher is ResNet-20; the parent, which knows less of the training images, taught less
(82.2 against 81.8 after five epochs). It answers once, for a fixed set of shifts and flips, and its
answers are kept: the small network costs less than half of what its teacher does.

Every setting of the first round was chosen by such calls: 45 000 of the training images are trained
on, the other 5 000 are looked at. `bench/microcontrollers.py --form pruned` does the same once, for
longer, adds a second round over all training images, seen in other ways, and reports on the test
images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

import penjing as pj
from penjing.distillation import Logits
from penjing.figures import EpochFigures
from workloads import Workload, raw_training_images, workload

BATCH = 128
CONSTRAINTS: dict[str, float | str] = {"macs": "39.9%", "ram_kb": "50%"}
HELD_OUT = 5000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of what ResNet-20 learnt from
SEED = 0
SHIFT = 4
SHIFTS = 8  # different ones, each flipped and not

Taught = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen on held-out images.

    Args:
        max_pruning_ratio: Largest share of one group that may go.
        lr: Of AdamW, in the first round.
        epochs: Of the first round, over the training images that are not held out.
        second_lr: Of AdamW, in the second round.
        second_epochs: Of the second round, over all training images; 0 is no such round.
        weight: The teacher's share of the loss.
    """

    max_pruning_ratio: float = 0.5
    lr: float = 3e-3
    epochs: int = 130
    second_lr: float = 2e-3
    second_epochs: int = 75
    weight: float = 0.9


class Teacher(nn.Module):
    """ResNet-20 on raw images.

    Args:
        model: Takes normalised images.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.register_buffer("mean", 255 * torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(STD).reshape(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Scores of raw images (N, 3, 32, 32)."""
        with torch.autocast("cpu", torch.bfloat16):
            return cast(Tensor, self.model((x - self.mean) / self.std)).float()


def moved(x: Tensor, down: int, right: int) -> Tensor:
    """Images with zeros moving in from two sides."""
    x = F.pad(x, (SHIFT,) * 4)
    return x[:, :, down : down + 32, right : right + 32]


class Lessons:
    """Batches of flipped and shifted images with labels and the teacher's answers.

    Args:
        images: float32 (N, 3, 32, 32).
        labels: int64 (N,).
        teacher: Answers once for each way an image may look.
        seed: Of the shifts and of the first pass.
    """

    def __init__(self, images: Tensor, labels: Tensor, teacher: Teacher, seed: int = SEED) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images, self.labels, self.seed = images, labels, seed
        self.shifts = torch.randint(0, 2 * SHIFT + 1, (SHIFTS, 2), generator=generator).tolist()
        self.answers = torch.stack(
            [self._answers(teacher, *at, flip=flip) for at in self.shifts for flip in (False, True)]
        ).unflatten(0, (SHIFTS, 2))

    def _answers(self, teacher: Teacher, down: int, right: int, *, flip: bool) -> Tensor:
        views = (moved(x.flip(3) if flip else x, down, right) for x in self.images.split(BATCH))
        return torch.cat([teacher(view) for view in views])

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Taught]]:
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1
        order = torch.randperm(len(self.images), generator=generator)
        for chosen in order[: len(self) * BATCH].split(BATCH):
            flipped = torch.randint(0, 2, (BATCH,), generator=generator)
            at = int(torch.randint(0, SHIFTS, (), generator=generator))
            x = self.images[chosen]
            x = torch.where(flipped.bool().reshape(-1, 1, 1, 1), x.flip(3), x)
            x = moved(x, *self.shifts[at]).contiguous(memory_format=torch.channels_last)
            yield x, (self.labels[chosen], self.answers[at, flipped, chosen])


@dataclass(frozen=True, slots=True)
class Loss:
    """Cross-entropy with the labels, and what the teacher's answers add.

    Args:
        lesson: The teacher's share, and how soft it is.
    """

    lesson: Logits

    def __call__(self, scores: Tensor, wanted: Taught | Tensor) -> Tensor:
        """The loss of a batch; of labels alone where nobody taught."""
        if isinstance(wanted, Tensor):
            return F.cross_entropy(scores, wanted)
        labels, answers = wanted
        return self.lesson(scores, answers, F.cross_entropy(scores, labels))


def small(
    job: Workload, images: Tensor, labels: Tensor, choices: Choices, workdir: Path | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """Prune and teach.

    Args:
        job: The dense network and its calibration images.
        images: To train on.
        labels: Of them.
        choices: How.
        workdir: A run that was stopped goes on from there.

    Returns:
        The network, and figures; seconds are of the wall clock.
    """
    x = job.calibration(SEED, 1000)
    pruned = pj.prune(
        job.model, x[:1], constraints=CONSTRAINTS, calibration=[x],
        max_pruning_ratio=choices.max_pruning_ratio, seed=SEED,
    )  # fmt: skip
    teacher = Teacher(workload("resnet20").model)
    rounds = [(HELD_OUT, choices.lr, choices.epochs)]
    if choices.second_epochs:
        rounds.append((0, choices.second_lr, choices.second_epochs))
    model = pruned.model.to(memory_format=torch.channels_last)
    history: list[EpochFigures] = []
    for seed, (held_out, lr, epochs) in enumerate(rounds):
        tuned = pj.finetune(
            model, taught(images, labels, held_out, teacher, seed, choices.weight), teacher=None,
            lr=lr, epochs=epochs, precision="bf16", keep="last", seed=SEED,
            workdir=workdir and workdir / f"round{seed + 1}",
        )  # fmt: skip
        model = tuned.model
        history += tuned.report.data.epochs
    before, after = pruned.report.data.before, pruned.report.data.after
    figures = {
        "fewer_macs": before.macs / after.macs,
        "fewer_ram_bytes": before.ram_bytes / after.ram_bytes,
        "held_out_after_round_1": history[choices.epochs - 1].metrics["accuracy"],
        "epochs": len(history),
        "training_seconds": sum(e.seconds for e in history),
    }
    return model.to(memory_format=torch.contiguous_format), figures


def taught(
    images: Tensor, labels: Tensor, held_out: int, teacher: Teacher, seed: int, weight: float
) -> pj.Task:
    """Lessons on all but the first images, which are looked at."""
    held = zip(images[:held_out].split(250), labels[:held_out].split(250), strict=True)
    return pj.Task(
        train=Lessons(images[held_out:], labels[held_out:], teacher, seed),
        val=list(held) if held_out else None,
        loss=Loss(Logits(weight=weight)),
        metrics={"accuracy": MulticlassAccuracy(10, average="micro")},
    )


def main() -> None:
    """Print one choice's accuracy on held-out images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-ratio", type=float, default=Choices().max_pruning_ratio)
    parser.add_argument("--lr", type=float, default=Choices().lr)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    choices = Choices(given.max_ratio, given.lr, given.epochs, second_epochs=0)
    print(choices, small(workload("ic"), *raw_training_images(), choices)[1], flush=True)


if __name__ == "__main__":
    main()

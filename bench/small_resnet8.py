"""MLPerf Tiny's ResNet-8, pruned under bounds on MACs and RAM, then distilled from the dense one.

    python bench/small_resnet8.py --epochs 3 --lr 0.003     accuracy on held-out training images

Every setting below was chosen by such calls: 45 000 of the training images are trained on, the
other 5 000 are looked at. `bench/microcontrollers.py --form pruned` does the same once, for longer,
and reports on the test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

import penjing as pj
from workloads import Workload, raw_training_images, workload

BATCH = 128
CONSTRAINTS: dict[str, float | str] = {"macs": "39.9%", "ram_kb": "50%"}
HELD_OUT = 5000
SHIFT = 4
SEED = 0


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen on held-out images.

    Args:
        max_pruning_ratio: Largest share of one group that may go.
        lr: Of AdamW.
        epochs: Over the training images.
        weight: The teacher's share of the loss.
    """

    max_pruning_ratio: float = 0.5
    lr: float = 3e-3
    epochs: int = 18
    weight: float = 0.9


@dataclass(eq=False)
class Augmented:
    """Batches of flipped and shifted images, in another order each time.

    Args:
        images: float32 (N, 3, 32, 32).
        labels: int64 (N,).
        seed: Of the first pass.
    """

    images: Tensor
    labels: Tensor
    seed: int = SEED

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        self.seed += 1
        order = torch.randperm(len(self.images), generator=generator)
        for chosen in order[: len(self) * BATCH].split(BATCH):
            x = self.images[chosen]
            flipped = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
            x = F.pad(torch.where(flipped, x.flip(3), x), (SHIFT,) * 4)
            at = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
            yield x[:, :, at[0] : at[0] + 32, at[1] : at[1] + 32].contiguous(), self.labels[chosen]


def small(
    job: Workload, images: Tensor, labels: Tensor, choices: Choices, workdir: Path | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """Prune and distil.

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
    task = pj.Task(
        train=Augmented(images[HELD_OUT:], labels[HELD_OUT:]),
        val=list(zip(images[:HELD_OUT].split(250), labels[:HELD_OUT].split(250), strict=True)),
        loss=F.cross_entropy,
        metrics={"accuracy": MulticlassAccuracy(10, average="micro")},
    )
    tuned = pj.finetune(
        pruned.model, task, teacher=job.model, weight=choices.weight, lr=choices.lr,
        epochs=choices.epochs, precision="bf16", keep="last", seed=SEED, workdir=workdir,
    )  # fmt: skip
    before, after = pruned.report.data.before, pruned.report.data.after
    figures = {
        "fewer_macs": before.macs / after.macs,
        "fewer_ram_bytes": before.ram_bytes / after.ram_bytes,
        "held_out": tuned.report.data.epochs[-1].metrics["accuracy"],
        "epochs": len(tuned.report.data.epochs),
        "training_seconds": sum(e.seconds for e in tuned.report.data.epochs),
    }
    return tuned.model, figures


def main() -> None:
    """Print one choice's accuracy on held-out images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-ratio", type=float, default=Choices.max_pruning_ratio)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    choices = Choices(given.max_ratio, given.lr, given.epochs)
    print(choices, small(workload("ic"), *raw_training_images(), choices)[1], flush=True)


if __name__ == "__main__":
    main()

"""Training of the benchmarks' own small networks: resumable, seeded, timed in CPU-minutes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128
DECAY = 0.05  # of weights, per unit of learning rate
SMOOTHING = 0.1  # of the labels
WARM = 0.1  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class Data:
    """Inputs and labels in three parts; the training inputs may be changed batch by batch.

    Args:
        train: Inputs and labels to learn from.
        val: Inputs and labels that choices are made on.
        test: Inputs and labels that are looked at once.
        augment: Batch and generator -> batch.
    """

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    augment: Callable[[Tensor, torch.Generator], Tensor]


def cache_folder() -> Path:
    """Where trained networks are kept: `$PENJING_CACHE` or ~/.cache/penjing."""
    home = os.environ.get("PENJING_CACHE", Path.home() / ".cache" / "penjing")
    folder = Path(home) / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def restore(model: nn.Module, name: str) -> nn.Module:
    """The network with the weights that its training script stored, in eval mode.

    Raises:
        SystemExit: It has not been trained here.
    """
    path = cache_folder() / f"{name}.safetensors"
    if not path.exists():
        raise SystemExit(f"{path} is missing; python bench/train_{name}.py makes it")
    model.load_state_dict(load_file(path))
    return model.eval()


def decisions(model: nn.Module, inputs: Tensor) -> Tensor:
    """Class per input."""
    with torch.inference_mode():
        return torch.cat([model(batch).argmax(1) for batch in inputs.split(250)])


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of right decisions."""
    return float((decisions(model.eval(), inputs) == labels).float().mean())


def school(
    name: str, model: nn.Module, data: Data, *, epochs: int, rate: float, last: int | None = None
) -> dict:
    """Train with AdamW and one cosine cycle; goes on after a kill with the next epoch.

    Args:
        name: Of the files.
        model: Freshly initialised; trained in place.
        data: What it learns.
        epochs: Passes over the training inputs that the cycle is laid out for.
        rate: Highest learning rate.
        last: Epoch that is the last one; `epochs` when None.

    Returns:
        Accuracies, and what it cost.
    """
    inputs, labels = data.train
    steps = epochs * (len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(
            (s + 1) / (WARM * steps),
            0.5 + 0.5 * math.cos(math.pi * max(0.0, s / steps - WARM) / (1 - WARM)),
        ),
    )
    partial = cache_folder() / f"{name}.partial.pt"
    epoch, spent = 0, 0.0
    if partial.exists():
        kept = torch.load(partial, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        epoch, spent = kept["epoch"], kept["seconds"]
    for now in range(epoch, last or epochs):
        start = time.process_time()
        generator = torch.Generator().manual_seed(now)
        torch.manual_seed(now)
        model.train()
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            if len(rows) < BATCH:
                continue
            optimizer.zero_grad()
            outputs = model(data.augment(inputs[rows], generator))
            F.cross_entropy(outputs, labels[rows], label_smoothing=SMOOTHING).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        spent += time.process_time() - start
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": now + 1,
            "seconds": spent,
        }
        torch.save(state, partial.with_suffix(".new"))
        partial.with_suffix(".new").rename(partial)
        print(f"epoch {now + 1}: val {accuracy(model, *data.val):.4f}, {spent:.0f} s", flush=True)
    save_file(model.eval().state_dict(), cache_folder() / f"{name}.safetensors")
    return {
        "network": name,
        "epochs": last or epochs,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_samples": len(inputs),
        "val_samples": len(data.val[0]),
        "test_samples": len(data.test[0]),
        "cpu_minutes": spent / 60,
        "val_accuracy": 100 * accuracy(model, *data.val),
        "test_accuracy": 100 * accuracy(model, *data.test),
    }

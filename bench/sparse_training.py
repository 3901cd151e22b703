"""Which sparse training gives the best network at 90 % zeros under equal compute, beside dense?

    python bench/sparse_training.py --method rigl --minutes 30
    python bench/sparse_training.py --list

ResNet-20 on CIFAR-10 from random weights, by SGD with a cosine that ends with the time, products
in bfloat16. A row is one method and one seed under so many CPU-minutes; a method that computes more
per step makes fewer steps. "random" keeps a random choice of weights all along. A killed run goes
on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from clock import Clock, images, run_folder
from penjing.sparse_training import (
    STR,
    Alternating,
    Evolving,
    Gradual,
    Method,
    Movement,
    Rewinding,
    Sparsifier,
)
from penjing.training import Callback, Fit, Run, fit
from record import Record
from workloads import workload

BATCH = 128
LR = 0.1  # of the network's authors
WARM = 0.05  # share of the time in which the learning rate rises
METHODS = {
    "dense": lambda _share: None,
    "random": lambda share: Evolving(sparsity=share, start="random", end=1e-9),
    "agp": lambda share: Gradual(schedule=share),
    "movement": lambda share: Movement(schedule=share),
    "str": lambda share: STR(schedule=share),
    "set": lambda share: Evolving(sparsity=share, start="random", grow="random"),
    "rigl": lambda share: Evolving(sparsity=share, start="random"),
    "ac/dc": lambda share: Alternating(sparsity=share),
    "lottery": lambda share: Rewinding(sparsity=share),
}


class ByTheClock(Callback):
    """A method of sparse training whose progress is that of the time.

    Args:
        method: When masks change and how.
        clock: Started before this.
    """

    def __init__(self, method: Method, clock: Clock) -> None:
        self.method, self.clock = method, clock

    def on_start(self, run: Run, /) -> None:
        example = torch.zeros(1, 3, 32, 32)
        self.sparsifier = Sparsifier.on(run.model, example, self.method, seed=run.settings.seed)

    def on_backward(self, run: Run, /) -> None:  # noqa: ARG002
        self.sparsifier.before_step(self.clock.progress)

    def on_step(self, run: Run, /) -> None:
        self.sparsifier.step(run.optimizer, self.clock.progress)

    def identity(self) -> str:
        return f"ByTheClock({self.method})"

    def state_dict(self) -> dict[str, Any]:
        return self.sparsifier.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.sparsifier.load_state_dict(state)


def network(seed: int) -> nn.Module:
    """ResNet-20 with random weights."""
    model = workload("resnet20").model.train()
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def row(given: argparse.Namespace, key: dict[str, Any]) -> dict[str, Any]:
    """Train until the time is over."""
    task = images(BATCH)
    model = network(given.seed).to(memory_format=torch.channels_last)  # as bfloat16 likes it
    clock = Clock(task, given.minutes, "cpu", given.points)
    method = METHODS[given.method](given.sparsity)
    growing = [] if method is None else [ByTheClock(method, clock)]

    def cycle(done: float) -> float:
        if done < WARM:
            return done / WARM
        return 0.5 + 0.5 * math.cos(math.pi * (done - WARM) / (1 - WARM))

    rate = method.restarted(cycle) if isinstance(method, Rewinding) else cycle
    fitting = Fit(
        epochs=10_000,  # the clock ends it
        optimizer="sgd",
        lr=LR,
        schedule=lambda _progress: rate(clock.progress),
        warmup=0.0,
        clip=5.0,
        precision="bf16",
        seed=given.seed,
        workdir=run_folder("sparse-" + "-".join(str(v).replace("/", "") for v in key.values())),
        progress=False,
    )
    begun = time.process_time()
    result = fit(model, replace(task, val=None, test=None), fitting, [*growing, clock])
    last = clock.curve[-1]
    return {
        **key,
        "zeros": growing[0].sparsifier.masks.zeros if growing else 0.0,
        "parameters": sum(p.numel() for p in model.parameters()),
        "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        "accuracy": {split: last[split] for split in ("val", "test")},
        "curve": clock.curve,
        "steps": result.steps,
        "epochs": result.steps * BATCH / 45_000,
        "stopped": result.stopped,
        "cpu_seconds_of_last_call": time.process_time() - begun,
        "split": "trained on 45 000 training images, 2 000 others for choices, the test set for "
        "the record; first and last layer dense",
    }


def main() -> None:
    """Do the row that is asked for, if it is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=sorted(METHODS))
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--minutes", type=float, default=30, help="of the CPU, one thread")
    parser.add_argument("--points", type=int, default=5, help="of the curve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the methods")
    parser.add_argument("--dry", action="store_true", help="print the row, do not record it")
    given = parser.parse_args()
    if given.list or not given.method:
        print("\n".join(METHODS))
        return
    torch.set_num_threads(1)
    key = {name: getattr(given, name) for name in ("method", "sparsity", "minutes", "seed")}
    command = "python bench/sparse_training.py --method M --minutes 30"
    rows = Record("sparse_training", __doc__.splitlines()[0], command)
    if rows.has(**key):
        return
    done = row(given, key)
    if given.dry:
        print(done)
    else:
        rows.add(done)


if __name__ == "__main__":
    main()

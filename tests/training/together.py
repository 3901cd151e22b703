"""What two processes do together; `test_processes.py` runs this and looks at the results.

They are forked after the imports, which cost more than the training, and find in the environment
what `torchrun` would tell them.

Each scenario gives a dict, which every process writes to `FOLDER/NAME-RANK.pt`.
"""

import os
import socket
import sys
from pathlib import Path

import torch
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from penjing.sparse_training import Gradual, SparseTraining
from penjing.task import Task
from penjing.training import Callback, Fit, fit

generator = torch.Generator().manual_seed(1)
X = torch.randn(56, 6, generator=generator)
Y = (X[:, :3].sum(1) > 0).long()
SAMPLES = 36  # 5 batches of 8: the last round has one for the first process only


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))


class Positives(MulticlassStatScores):
    """Counts, which would double if two processes had the same samples."""

    higher_is_better = True

    def __init__(self):
        super().__init__(num_classes=2, average=None)

    def compute(self):
        return super().compute()[1, 0]


def share(outputs, labels):
    """A plain function over the whole split, in the order of the data."""
    return float((outputs.argmax(1) == labels).double() @ torch.arange(len(labels)).double())


def loader(batch, shuffle):
    data = TensorDataset(X[:SAMPLES], Y[:SAMPLES])
    return DataLoader(data, batch, shuffle=shuffle, generator=torch.Generator().manual_seed(5))


def task(batch=8, shuffle=False, **more):
    usual = {
        "train": loader(batch, shuffle),
        "val": [(X[36:44], Y[36:44]), (X[44:52], Y[44:52]), (X[52:], Y[52:])],
        "loss": F.cross_entropy,
        "metrics": {
            "accuracy": MulticlassAccuracy(num_classes=2, average="micro"),
            "positives": Positives(),
            "share": share,
        },
    }
    return Task(**{**usual, **more})


def settings(**more):
    usual = {"epochs": 3, "lr": 0.02, "progress": False, "clip": 0.5, "keep": "last"}
    return Fit(**{**usual, **more})


def outcome(model, result, **more):
    told = {"stopped": result.stopped, "epochs": len(result.epochs), "steps": result.steps}
    figures = [dict(epoch.metrics, train=epoch.loss) for epoch in result.epochs]
    return {**told, "figures": figures, "weights": model.state_dict(), **more}


def trained(processes=2, callbacks=(), **more):
    """One process has the batch of both."""
    model = network()
    if processes == 2 and os.environ.get("RANK") == "1":
        nn.init.ones_(model[0].weight)  # the first process's weights count
    several = {"distributed": True} if processes == 2 else {}
    job = task(8 if processes == 2 else 16)
    return outcome(model, fit(model, job, settings(**several, **more), callbacks))


def accumulated(processes=2):
    return trained(processes, accumulate=2, optimizer="sgd")


def shuffled(folder=None, minutes=None):
    """With dropout, whose noise differs by process."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 2))
    fitting = settings(distributed=True, workdir=folder, minutes=minutes, save_seconds=0.0)
    return outcome(model, fit(model, task(4, shuffle=True), fitting))


def resumed(folder):
    shuffled(folder / "run", minutes=2e-4)  # a few steps at most
    return shuffled(folder / "run")


class Stops(Callback):
    """Asks for the end in the second process alone."""

    def on_step(self, run, /):
        if run.processes.rank == 1 and run.step == 2:
            run.stop("enough")


class Spoils(Callback):
    """A loss that is not finite in the second process alone."""

    def on_loss(self, run, loss, /):
        return loss * float("nan") if run.processes.rank == 1 and run.step == 4 else loss


def sparse():
    growing = SparseTraining(Gradual(schedule=0.75), keep_dense=())
    return trained(callbacks=[growing], epochs=6)


def patient():
    return trained(patience=1, lr=1e-9, epochs=9)


def masked():
    """Constants that no process may change: an infinite one, and one that has no exact share."""
    model = network()
    model.register_buffer("mask", torch.tensor([0.1, -torch.inf]))
    return outcome(model, fit(model, task(), settings(distributed=True)))


def run_all(rank, port, folder):
    """In one process: every scenario in turn."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    scenarios = {
        "plain": trained,
        "accumulated": accumulated,
        "whole": shuffled,
        "resumed": lambda: resumed(folder),
        "stopped": lambda: trained(callbacks=[Stops()]),
        "spoiled": lambda: trained(callbacks=[Spoils()]),
        "sparse": sparse,
        "patient": patient,
        "masked": masked,
    }
    for name, scenario in scenarios.items():
        torch.save(scenario(), folder / f"{name}-{rank}.pt")


def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


if __name__ == "__main__":
    arguments = (free_port(), Path(sys.argv[1]))
    start_processes(run_all, arguments, nprocs=2, start_method="fork")

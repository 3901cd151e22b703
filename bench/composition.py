"""What does each step keep of what the one before it has gained?

    python bench/composition.py --network kws    every missing row, one after the other

Every order of pruning, zeros, integers and distillation: alone, in pairs, and all four. Calibration
and distillation see the same unlabelled samples; the original teaches. A step that means nothing
after another one is refused by name, and the refusal is the row. Zeros and MACs are compared with
those of the network one step before; every network is saved, loaded and compared. The test set is
looked at once per row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import PenjingError
from penjing.quantization.module import QuantizedModule
from record import Record, paired_interval
from workloads import Workload, workload

NETWORKS = ("kws", "ic")
SAMPLES = 500  # to calibrate and to learn from
SEED = 0
MACS, SPARSITY, EPOCHS = "60%", 0.5, 3
BATCH = 50  # of distillation


class Steps:
    """The steps on one network; what two chains begin with is made once.

    Args:
        job: The network, and data that is not for testing.
    """

    def __init__(self, job: Workload) -> None:
        self.job = job
        self.x = job.calibration(SEED, SAMPLES)
        self.steps: dict[str, Callable[[nn.Module], nn.Module]] = {
            "prune": lambda net: self.prune(net, "auto"),
            "prune, norms only": lambda net: self.prune(net, "recalibrate"),
            "sparsify": self.sparsify,
            "distill": self.distill,
            "quantize": self.quantize,
        }
        self.made: dict[tuple[str, ...], nn.Module] = {(): job.model}

    def after(self, chain: tuple[str, ...]) -> nn.Module:
        """The network behind a chain of steps.

        Raises:
            PenjingError: A step is refused.
        """
        if chain not in self.made:
            self.made[chain] = self.steps[chain[-1]](self.after(chain[:-1])).eval()
        return self.made[chain]

    def prune(self, net: nn.Module, repair: str) -> nn.Module:
        """Fewer units."""
        how = {"calibration": [self.x], "repair": repair, "seed": SEED}
        return pj.prune(net, self.x[:1], constraints={"macs": MACS}, **how).model

    def sparsify(self, net: nn.Module) -> nn.Module:
        """Zeros among single weights."""
        how = {"calibration": [self.x], "seed": SEED}
        return pj.sparsify(net, self.x[:1], sparsity=SPARSITY, **how).model

    def distill(self, net: nn.Module) -> nn.Module:
        """Some epochs towards the original's outputs."""
        task = pj.Task(train=list(self.x.split(BATCH)))
        how = {"epochs": EPOCHS, "lr": 1e-3, "seed": SEED, "progress": False}
        return pj.distill(net, self.job.model, task, **how).model

    def quantize(self, net: nn.Module) -> nn.Module:
        """Eight bits."""
        return pj.quantize(net, self.x[:1], calibration=[self.x], seed=SEED).model


def chains() -> list[tuple[str, ...]]:
    """Every step alone, every ordered pair, and all four in every order that is not refused."""
    names = ("prune", "sparsify", "distill", "quantize")
    alone = [(name,) for name in names]
    pairs = [*permutations(names, 2), ("sparsify", "prune, norms only")]
    whole = [(*order, "quantize") for order in permutations(names[:-1])]
    return [*alone, *pairs, *whole]


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Weights by name, of integers what they stand for."""
    if isinstance(net, QuantizedModule):
        tensors = net.network.program.tensors
    else:
        tensors = dict(net.named_parameters())
    return {name: t.detach() for name, t in tensors.items() if t.dim() > 1}


def zeros_kept(before: nn.Module, after: nn.Module) -> float | None:
    """Share of the zeros that are zeros still; None where there were none, or shapes changed."""
    old, new = weights(before), weights(after)
    pairs = [(t == 0, new.get(name)) for name, t in old.items()]
    if any(now is None or now.shape != was.shape for was, now in pairs):
        return None
    total = sum(int(was.sum()) for was, _ in pairs)
    kept = sum(int((now[was] == 0).sum()) for was, now in pairs if now is not None)
    return kept / total if total else None


def share_of_zeros(net: nn.Module) -> float:
    """Share of the weights that are zero."""
    found = weights(net).values()
    return sum(int((t == 0).sum()) for t in found) / sum(t.numel() for t in found)


def stored(net: nn.Module, x: Tensor) -> tuple[int, float]:
    """Bytes of the saved weights, and how far what is loaded is from the network."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        size = (Path(pj.save(net, folder, x[:1])) / "model.safetensors").stat().st_size
        return size, float((pj.load(folder)(x) - net(x)).abs().max())


def row(steps: Steps, chain: tuple[str, ...]) -> dict:
    """Run a chain, compare it with what it was one step before, look at the test set once."""
    job, x = steps.job, steps.x
    asked = {"network": job.name, "steps": list(chain), "seed": SEED}
    start = time.process_time()
    try:
        net = steps.after(chain)
    except PenjingError as error:
        return {**asked, "refused": str(error)}
    spent = time.process_time() - start
    before = steps.after(chain[:-1])
    macs = [pj.measure(m, x[:1], latency=False).macs for m in (job.model, before, net)]
    size, difference = stored(net, x[:BATCH])
    after = job.correct(net)
    return {
        **asked,
        "zeros": share_of_zeros(net),
        "zeros_kept": zeros_kept(before, net),
        "macs": macs[2] / macs[0],
        "macs_before": macs[1] / macs[0],
        "stored_bytes": size,
        "loaded_difference": difference,
        "dense": 100 * job.quality(job.dense()),
        "top1": 100 * job.quality(after),
        "difference_points": paired_interval(after, job.dense()),
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
    }


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Record("composition", __doc__.splitlines()[0], "python bench/composition.py")
    steps = Steps(workload(given.network))
    for chain in chains():
        if not rows.has(network=given.network, steps=list(chain), seed=SEED):
            rows.add(row(steps, chain))


if __name__ == "__main__":
    main()

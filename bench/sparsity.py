"""How accurate is a network right after most of its weights became zero, without labels?

    python bench/sparsity.py --network resnet20 --sparsity 0.9 --seed 0
    python bench/sparsity.py --network resnet20            every missing row

One row is one network, one sparsity, one calibration seed, one choice of importance, allocation,
pattern and repair. `sparsity` is the share of zeros among all weights of convolutions and linear
layers, those that stay dense (first and last) included. CPU-seconds are process time on one thread
of everything after loading. The test set is looked at once per row; choices were made on training
images that no calibration set holds.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import torch
from torch import nn

import penjing as pj
from penjing.recovery import Reconstruct, Tune
from record import Record, paired_interval, peak_mb
from workloads import Workload, flips_and_shifts, workload

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
CHOICES = {
    "obs": {"importance": "obs", "allocation": "dp"},
    "wanda": {"importance": "wanda", "allocation": "uniform"},
    "magnitude": {"importance": "magnitude", "allocation": "global"},
    "lamp": {"importance": "magnitude", "allocation": "lamp"},
    "random": {"importance": "random", "allocation": "erk"},
}
FIXED = ("2:4", "1:4")  # patterns that say themselves how many


def row(job: Workload, share: float | None, seed: int, given: argparse.Namespace) -> dict:
    """Sparsify, then look at the test set once."""
    x = job.calibration(seed, given.images)
    start, wall = time.process_time(), time.perf_counter()
    sparse = pj.sparsify(
        job.model,
        x[:1],
        sparsity=None if share is None else share * _whole(job.model) / _inner(job.model),
        pattern=given.pattern,
        calibration=[x],
        repair=tuning(given, seed) if given.repair == "tune" else given.repair,
        seed=seed,
        **CHOICES[given.choice],
    )
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    before, after = job.dense(), job.correct(sparse.model)
    zeros = sum(int((w == 0).sum()) for w in _weights(sparse.model))
    return {
        "network": job.name,
        "sparsity": share,
        "seed": seed,
        "pattern": given.pattern,
        **CHOICES[given.choice],
        "repair": given.repair,
        **({"tune_steps": given.steps} if given.repair == "tune" else {}),
        "measured_sparsity": zeros / _whole(sparse.model),
        "metric": job.metric,
        "dense": 100 * job.quality(before),
        "sparse": 100 * job.quality(after),
        "difference_points": paired_interval(after, before),
        "agreement_with_dense_on_calibration": sparse.report.data.agreement,
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "peak_mb": peak_mb(),
        "split": job.split,
    }


def tuning(given: argparse.Namespace, seed: int) -> Tune:
    """Gradient steps after the least squares, on images flipped and shifted."""
    return Tune(
        first=Reconstruct(seed=seed), steps=given.steps, augment=flips_and_shifts, seed=seed
    )


def _weights(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def _whole(model: nn.Module) -> int:
    return sum(w.numel() for w in _weights(model))


def _inner(model: nn.Module) -> int:
    """Weights that may become zero: not those of the first and the last layer."""
    return sum(w.numel() for w in _weights(model)[1:-1])


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--choice", choices=sorted(CHOICES), default="obs")
    parser.add_argument("--pattern", default="element")
    parser.add_argument("--repair", default="auto", type=lambda t: None if t == "off" else t)
    parser.add_argument("--steps", type=int, default=150, help="of --repair tune")
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Record(
        f"sparsity-{given.network}",
        __doc__.splitlines()[0],
        f"python bench/sparsity.py --network {given.network}",
    )
    job = workload(given.network)
    shares = (None,) if given.pattern in FIXED else SPARSITIES
    for share, seed in product(
        [given.sparsity] if given.sparsity else shares,
        [given.seed] if given.seed is not None else SEEDS,
    ):
        known = {
            "sparsity": share,
            "seed": seed,
            "pattern": given.pattern,
            "repair": given.repair,
            "samples": given.images,
            **CHOICES[given.choice],
        }
        if given.repair == "tune":
            known["tune_steps"] = given.steps
        if not rows.has(**known):
            rows.add(row(job, share, seed, given))


if __name__ == "__main__":
    main()

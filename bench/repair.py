"""How accurate is a network right after pruning, without labels, gradients or training?

    python bench/repair.py --network resnet56 --fewer-macs 2.11 --seed 0
    python bench/repair.py --all            every missing row, one after the other

One row is one network, one factor of fewer MACs, one calibration seed, one choice of importance,
allocation and repair. CPU-minutes are process time on one thread of everything after loading.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import torch

import penjing as pj
from penjing.recovery import Reconstruct, Tune
from record import Record, paired_interval, peak_mb
from workloads import Workload, flips_and_shifts, workload

FACTORS = {
    "resnet20": (1.5, 2.0),
    "resnet56": (1.5, 2.0, 2.11, 2.55, 3.0, 4.0),
    "ic": (1.1, 1.25, 1.5, 2.0, 2.5),
    "vww": (1.25, 1.5, 2.0, 2.5, 3.0, 4.0),
    "kws": (1.1, 1.25, 1.5, 2.0),
    "ad": (1.25, 1.5, 2.0, 4.0, 8.0),
}
SEEDS = (0, 1, 2)
CRITERIA = [
    (importance, allocation, repair)
    for importance, allocation, repair in product(
        ("random", "l1", "l2", "taylor", "obs"), ("uniform", "dp"), (None, "least_squares")
    )
]
SAMPLES = {"ad": 10000}  # windows of sound; images and clips are 1000


def row(
    job: Workload,
    factor: float,
    seed: int,
    choice: tuple[str | None, str | None, str | None],
    given: argparse.Namespace,
) -> dict:
    """Prune, then look at the test set once."""
    importance, allocation, repair = choice
    scope = given.scope
    x = job.calibration(seed, given.images or SAMPLES.get(job.name, 1000))
    start, wall = time.process_time(), time.perf_counter()
    pruned = pj.prune(
        job.model,
        x[:1],
        constraints={"macs": f"{100 / factor}%"},
        calibration=[x],
        importance=importance,
        allocation=allocation,
        repair=tuning(given, seed) if repair == "tune" else repair,
        scope=scope.split("+"),
        seed=seed,
    )
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    before, after = job.dense(), job.correct(pruned.model)
    data = pruned.report.data
    result = {
        "network": job.name,
        "fewer_macs": factor,
        "seed": seed,
        "importance": importance,
        "allocation": allocation,
        "repair": repair,
        **({"tune_steps": given.steps} if repair == "tune" else {}),
        "scope": scope,
        "measured_fewer_macs": data.before.macs / data.after.macs,
        "fewer_params": data.before.params / data.after.params,
        "metric": job.metric,
        "dense": 100 * job.quality(before),
        "pruned": 100 * job.quality(after),
        "agreement_with_dense_on_calibration": data.agreement,
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
        "wall_seconds": wall,
        "peak_mb": peak_mb(),
        "proof_error": data.proof.error,
        "proof_moved": data.proof.moved,
        "form": data.proof.form,
        "split": job.split,
    }
    if job.metric == "top-1":
        result["difference_points"] = paired_interval(after, before)
    return result


def tuning(given: argparse.Namespace, seed: int) -> Tune:
    """Gradient steps after the least squares, on images flipped and shifted."""
    return Tune(
        first=Reconstruct(seed=seed), steps=given.steps, augment=flips_and_shifts, seed=seed
    )


def record(name: str) -> Record:
    """The results file of one network."""
    return Record(
        f"repair-{name}", __doc__.splitlines()[0], f"python bench/repair.py --network {name} --all"
    )


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(FACTORS))
    parser.add_argument("--fewer-macs", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--scope", default="inner", help="inner, residual or inner+residual")
    parser.add_argument(
        "--criteria", action="store_true", help="every importance, allocation and repair instead"
    )
    parser.add_argument("--all", action="store_true")
    parser.add_argument(
        "--repair", choices=("least_squares", "tune", "fold"), default="least_squares"
    )
    parser.add_argument("--steps", type=int, default=150, help="of --repair tune")
    parser.add_argument("--images", type=int, help="calibration samples instead of 1000")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in [given.network] if given.network else sorted(FACTORS):
        job, rows = workload(name), record(name)
        choices = CRITERIA if given.criteria else [("obs", "dp", given.repair)]
        for choice, factor, seed in product(
            choices,
            [given.fewer_macs] if given.fewer_macs else FACTORS[name],
            [given.seed] if given.seed is not None else SEEDS,
        ):
            key = dict(zip(("importance", "allocation", "repair"), choice, strict=True))
            if given.images:
                key["samples"] = given.images
            if given.repair == "tune":
                key["tune_steps"] = given.steps
            if not rows.has(fewer_macs=factor, seed=seed, scope=given.scope, **key):
                rows.add(row(job, factor, seed, choice, given))


if __name__ == "__main__":
    main()

"""Fewer layers or narrower ones, at equal MACs: what is left of the accuracy, and how fast is it?

    python bench/depth.py --network resnet20 --fewer-macs 1.5 --seed 0   one factor, every scope
    python bench/depth.py --all                                       every missing row

No labels: blocks are judged by what the outputs lose, widths by structured OBS, and what is left is
re-solved by least squares, on 1000 training inputs. Latency is ONNX Runtime's on one thread, batch
one, in turns with the original; the ratio counts. The test set is looked at once per row.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import torch

import penjing as pj
from record import Record, paired_interval
from workloads import Workload, workload

NETWORKS = ("resnet20", "resnet56")
FACTORS = (1.5, 2.0)
SEEDS = (0, 1, 2)
SCOPES = ("inner+residual", "depth", "inner+residual+depth")
SAMPLES = 1000
CALLS = 200


def row(job: Workload, factor: float, seed: int, scope: str) -> dict:
    """Prune in one way, then look at the test set once."""
    x = job.calibration(seed, SAMPLES)
    start = time.process_time()
    pruned = pj.prune(
        job.model,
        x[:1],
        constraints={"macs": f"{100 / factor}%"},
        calibration=[x],
        scope=scope.split("+"),
        seed=seed,
    )
    spent = time.process_time() - start
    before, after = job.dense(), job.correct(pruned.model)
    timed = pj.measure(pruned.model, x[:1], against=job.model, n=CALLS).latency
    data = pruned.report.data
    blocks = next((g for g in data.groups if g.name == "blocks"), None)
    return {
        "network": job.name,
        "fewer_macs": factor,
        "seed": seed,
        "scope": scope,
        "measured_fewer_macs": data.before.macs / data.after.macs,
        "fewer_params": data.before.params / data.after.params,
        "blocks": None if blocks is None else blocks.units,
        "blocks_kept": None if blocks is None else blocks.kept,
        "metric": job.metric,
        "dense": 100 * job.quality(before),
        "pruned": 100 * job.quality(after),
        "difference_points": paired_interval(after, before) if job.metric == "top-1" else None,
        "latency_ms": timed.median_ms,
        "latency_ratio": timed.ratio,
        "runtime": timed.runtime,
        "calls": timed.n,
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
        "form": data.proof.form,
        "split": job.split,
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default=NETWORKS[0])
    parser.add_argument("--fewer-macs", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--scope", choices=SCOPES)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("depth", __doc__.splitlines()[0], "python bench/depth.py --all")
    for name, factor, seed, scope in product(
        NETWORKS if given.all else [given.network],
        [given.fewer_macs] if given.fewer_macs else FACTORS,
        [given.seed] if given.seed is not None else SEEDS,
        [given.scope] if given.scope else SCOPES,
    ):
        if not record.has(network=name, fewer_macs=factor, seed=seed, scope=scope):
            record.add(row(workload(name), factor, seed, scope))


if __name__ == "__main__":
    main()

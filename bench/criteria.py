"""What does each criterion cost, and what is it worth where all else is equal?

    python bench/criteria.py                        the next missing row
    python bench/criteria.py --criterion fpgm --seed 0
    python bench/criteria.py --list                 what is missing

One row is one criterion and one calibration seed on ResNet-20: CPU-seconds of its scores alone
(process time on one thread, after the analysis of the network), memory on top of what was held
before, and top-1 right after cutting the same share of every inner group to half the MACs, before
and after least squares without labels. Every call is a process of its own, so that the memory is
that of one criterion. The criteria with labels get those of the calibration images. "random" is
the row to beat; nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import torch

import penjing as pj
from penjing.graph.network import Network
from penjing.pruning import importance
from penjing.pruning.importance.protocol import Prepares
from penjing.task import Calibration
from record import Record, paired_interval, peak_mb
from workloads import Workload, workload

NETWORK = "resnet20"
FACTOR = 2.0
SAMPLES = 1000
SEEDS = (0, 1, 2)
CRITERIA = (
    "random", "l1", "l2", "linf", "bn_scale", "fpgm", "synflow", "taylor", "fisher", "snip",
    "grasp", "movement", "apoz", "mean_activation", "entropy", "mutual_information", "hrank",
    "chip", "ablation", "obs",
)  # fmt: skip


def row(job: Workload, criterion: str, seed: int) -> dict:
    """Score, cut, repair; the test set is looked at once for each of the two networks."""
    x, y = job.examples(seed, SAMPLES)
    data = Calibration.of([(x, y)])
    network = Network.of(job.model, x[:1])
    held, start = peak_mb(), time.process_time()
    judge = importance.resolve(criterion)
    if criterion == "random":
        judge = importance.Random(seed=seed)
    if isinstance(judge, Prepares):
        judge = judge.prepare(network, data)
    scores = {g.name: judge(job.model, g) for g in network.groups}
    spent, grown = time.process_time() - start, peak_mb() - held

    def known(_: object, group: pj.Group) -> torch.Tensor:
        return scores[group.name]

    bare = pj.prune(
        job.model, x[:1], constraints={"macs": f"{100 / FACTOR}%"}, importance=known,
        allocation="uniform", scope={"inner"},
    )  # fmt: skip
    mended = pj.prune(job.model, x[:1], plan=bare.plan, calibration=[x], repair="least_squares")
    before, after = job.correct(bare.model), job.correct(mended.model)
    return {
        "network": job.name,
        "fewer_macs": FACTOR,
        "measured_fewer_macs": bare.report.data.before.macs / bare.report.data.after.macs,
        "criterion": criterion,
        "seed": seed,
        "cpu_seconds": spent,
        "extra_peak_mb": grown,
        "samples": SAMPLES,
        "dense": 100 * job.quality(job.dense()),
        "cut": 100 * job.quality(before),
        "repaired": 100 * job.quality(after),
        "difference_points": paired_interval(after, job.dense()),
        "test_samples": len(job.labels),
    }


def main() -> None:
    """Do the row that is asked for, or the next that is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--criterion", choices=CRITERIA)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--list", action="store_true", help="say what is missing and stop")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = Record("criteria", __doc__.splitlines()[0], "python bench/criteria.py")
    missing = [
        (criterion, seed)
        for seed, criterion in product(
            [given.seed] if given.seed is not None else SEEDS,
            [given.criterion] if given.criterion else CRITERIA,
        )
        if not rows.has(criterion=criterion, seed=seed)
    ]
    if given.list or not missing:
        print("\n".join(f"{c} {s}" for c, s in missing) or "nothing is missing")
        return
    rows.add(row(workload(NETWORK), *missing[0]))


if __name__ == "__main__":
    main()

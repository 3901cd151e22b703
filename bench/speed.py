"""Do fewer multiply-accumulates mean fewer milliseconds?

    python bench/speed.py --network resnet56 --fewer-macs 2.0     one row
    python bench/speed.py --all                                   every missing row
    python bench/speed.py --summary                               speed-up per 2.0x MACs

A row is one network pruned with `round_to`, repaired without labels, its accuracy, and its
latency on ONNX Runtime: one thread, batch one, call by call against the original in one process;
the ratio is the median of the ratios of neighbouring calls. Both ONNX files are compared with their
networks before they are timed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import penjing as pj
from penjing.exporters import write_onnx
from penjing.figures import LatencyFigures
from penjing.latency.onnxruntime import Timing, time_pair
from record import Record, paired_interval
from repair import SAMPLES
from workloads import Workload, workload

FACTORS = {  # network, round_to -> factors of fewer MACs
    ("resnet56", 8): (1.5, 2.0, 2.55, 3.0, 4.0),
    ("resnet56", 16): (1.25, 1.5, 1.7),
    ("vww", 8): (1.25, 1.5, 2.0, 2.5),
    ("kws", 8): (1.25, 1.5, 2.0),
}
"""ONNX Runtime works on 8 channels at a time with AVX2 and on 16 with AVX-512; at 16 the layers of
16 channels stay whole, so that ResNet-56 cannot go below 1/1.7 of its MACs."""
CALLS = 400  # of each network in one round
ROUNDS = 3  # sessions are opened anew: where their memory lies is part of the noise
WARMUP = 30
TARGET = 1.6  # times faster per 2.0x MACs


def row(job: Workload, asked: dict[str, Any], calls: int) -> dict[str, Any]:
    """Prune, score, export, time."""
    factor, seed, scope = asked["fewer_macs"], asked["seed"], asked["scope"]
    x = job.calibration(seed, SAMPLES.get(job.name, 1000))
    pruned = pj.prune(
        job.model,
        x[:1],
        constraints={"macs": f"{100 / factor}%"},
        calibration=[x],
        round_to=asked["round_to"],
        scope=scope.split("+"),
        seed=seed,
    )
    before, after = job.dense(), job.correct(pruned.model)
    data = pruned.report.data
    assert data.before is not None
    assert data.after is not None
    result = {
        **asked,
        "measured_fewer_macs": data.before.macs / data.after.macs,
        "fewer_params": data.before.params / data.after.params,
        "metric": job.metric,
        "dense": 100 * job.quality(before),
        "pruned": 100 * job.quality(after),
        "difference_points": paired_interval(after, before),
        "form": data.proof.form if data.proof else "",
        "split": job.split,
    }
    return result | timed(job.model, pruned.model, x[:1], calls, result["measured_fewer_macs"])


def timed(
    model: nn.Module, small: nn.Module, example: Tensor, calls: int, fewer: float
) -> dict[str, Any]:
    """Latency of both networks and the speed-up."""
    rounds: list[tuple[LatencyFigures, LatencyFigures]] = []
    timing = Timing(threads=1, batch=1, n=calls, warmup=WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        ours, original = Path(folder) / "pruned.onnx", Path(folder) / "original.onnx"
        errors = [
            write_onnx(small, example, ours).difference,
            write_onnx(model, example, original).difference,
        ]
        sizes = ours.stat().st_size, original.stat().st_size
        for _ in range(ROUNDS):
            rounds.append(time_pair(ours, original, timing))
    ratios = [mine.ratio for mine, _ in rounds if mine.ratio is not None]
    faster = statistics.median(ratios)
    return {
        "runtime": rounds[0][0].runtime,
        "onnx_error": max(errors),
        "size_bytes": sizes[0],
        "size_bytes_dense": sizes[1],
        "n": sum(mine.n for mine, _ in rounds),
        "median_ms": statistics.median(mine.median_ms for mine, _ in rounds),
        "min_ms": min(mine.min_ms for mine, _ in rounds),
        "median_ms_dense": statistics.median(theirs.median_ms for _, theirs in rounds),
        "min_ms_dense": min(theirs.min_ms for _, theirs in rounds),
        "times_faster": faster,
        "times_faster_by_round": ratios,
        "times_faster_per_2x_macs": per_halving(faster, fewer),
    }


def per_halving(faster: float, fewer_macs: float) -> float:
    """Speed-up that a network of half the MACs would have, by the same power of the MACs."""
    return 2.0 ** (math.log(faster) / math.log(fewer_macs))


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """One line a row."""
    return [
        f"{r['network']} {r['scope']} round_to={r['round_to']}: "
        f"{r['measured_fewer_macs']:.2f}x MACs, "
        f"{r['times_faster']:.2f}x faster, {r['times_faster_per_2x_macs']:.2f}x per 2.0x, "
        f"{r['pruned']:.2f} of {r['dense']:.2f} %"
        for r in rows
    ]


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted({name for name, _ in FACTORS}))
    parser.add_argument("--round-to", type=int)
    parser.add_argument("--fewer-macs", type=float)
    parser.add_argument("--scope", default="inner", help="inner, residual or inner+residual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = Record("speed", __doc__.splitlines()[0], "python bench/speed.py --all")
    for (name, round_to), factors in FACTORS.items():
        wanted = given.network in {None, name} and given.round_to in {None, round_to}
        if given.summary or not wanted or not (given.all or given.network):
            continue
        for factor in [given.fewer_macs] if given.fewer_macs else factors:
            asked = {"network": name, "fewer_macs": factor, "round_to": round_to}
            asked |= {"scope": given.scope, "seed": given.seed}
            if not results.has(**asked):
                results.add(row(workload(name), asked, given.calls))
    print(json.dumps(summary(results.content["rows"]), indent=1))


if __name__ == "__main__":
    main()

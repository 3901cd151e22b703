"""Are widths and zeros better decided together, or one after the other?

    python bench/mixed.py            the next missing row
    python bench/mixed.py --all      row after row

ResNet-20 on CIFAR-10 and DS-CNN on keywords at the same effective MACs: multiply-accumulates with
weights that are not zero. No labels, no training. "together" is one allocation, "one after the
other" cuts half of the way and makes the rest zero, "units" and "weights" do one alone. At most
1000 samples to calibrate; the test set is looked at once per row.
"""

from __future__ import annotations

import time

import torch
from torch import nn

import penjing as pj
from penjing.counts.macs import layer_figures
from penjing.graph.capture import capture
from record import paired_interval
from shares import Question
from workloads import Workload

NETWORKS = ("resnet20", "kws")
SAMPLES = 1000  # to calibrate; at most half of what a network has
SHARES = (0.4, 0.25, 0.15)
WAYS = ("together", "one after the other", "units", "weights")


def made(way: str, model: nn.Module, x: torch.Tensor, share: float, seed: int) -> nn.Module:
    """The network made smaller in one way."""
    how = {"calibration": [x], "seed": seed}
    bound = f"{100 * share}%"
    if way == "together":
        scope = {"inner", "weights"}
        return pj.prune(
            model, x[:1], constraints={"effective_macs": bound}, scope=scope, **how
        ).model
    if way == "weights":
        return pj.sparsify(model, x[:1], constraints={"macs": bound}, **how).model
    if way == "units":
        return pj.prune(model, x[:1], constraints={"macs": bound}, scope={"inner"}, **how).model
    half = f"{100 * share**0.5}%"
    cut = pj.prune(model, x[:1], constraints={"macs": half}, scope={"inner"}, **how).model
    return pj.sparsify(cut, x[:1], constraints={"macs": half}, **how).model


def effective(model: nn.Module, x: torch.Tensor) -> float:
    """Multiply-accumulates with weights that are not zero, counted on the network itself."""
    program = capture(model, x)
    kept = {
        name.removesuffix(".weight"): float(t.count_nonzero()) / t.numel()
        for name, t in program.tensors.items()
        if name.endswith(".weight") and t.dim() > 1
    }
    return sum(layer.macs * kept.get(layer.name, 1.0) for layer in layer_figures(program))


def row(job: Workload, way: str, share: float, seed: int) -> dict:
    """Make it, count it, look at the test set once."""
    x = job.calibration(seed, min(SAMPLES, job.pool // 2))
    start = time.process_time()
    model = made(way, job.model, x, share, seed)
    spent = time.process_time() - start
    after = job.correct(model.eval())
    first, last = (pj.measure(m, x[:1], latency=False) for m in (job.model, model))
    return {
        "network": job.name,
        "share": share,
        "way": way,
        "seed": seed,
        "effective_macs": effective(model, x[:1]) / effective(job.model, x[:1]),
        "macs": last.macs / first.macs,
        "nonzero": last.nonzero / first.nonzero,
        "dense": 100 * job.quality(job.dense()),
        "top1": 100 * job.quality(after),
        "difference_points": paired_interval(after, job.dense()),
        "samples": len(x),
        "test_samples": len(job.labels),
        "cpu_seconds": spent,
    }


QUESTION = Question("mixed", __doc__.splitlines()[0], NETWORKS, SHARES, WAYS, row)

if __name__ == "__main__":
    QUESTION.main()

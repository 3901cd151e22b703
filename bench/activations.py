"""What do zeros among activations cost, and what does the compiler gain by skipping them?

    python bench/activations.py                       the next missing row
    python bench/activations.py --network ad --rule topk --sparsity 0.9
    python bench/activations.py --all
    python bench/activations.py --network ad --rule none --sparsity 0 --dry

A network as it is ("none": its own zeros behind ReLU), and with the inputs of its linear layers
made sparse to a share, by a threshold of each layer or by the largest of each vector. Left out are
the first and the last layer, and what reads the few values that an autoencoder keeps. Shares are
met on unlabelled samples; the figure is on others, of the test set. The MLPerf Tiny autoencoder
takes one vector at a time, and is timed in C on one thread, in turn: with all kernels, and without
those that skip zeros of activations. The program is compared with the network before it is timed.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
import torch

from penjing.codegen.kernels import host_kernels
from penjing.pruning.activity import quiet, zero_shares
from penjing.task import Calibration
from record import Record, pin
from workloads import Workload, workload
from zeros import TOLERANCE, compiled, timed

TIMED = "ad"  # others give a layer several vectors at a time, whose zeros no kernel skips
NETWORKS = (TIMED, "text")
RULES = ("none", "threshold", "topk")
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
SAMPLES = 500
CODE = 8  # values that the autoencoder keeps of a window: all of them matter


def row(job: Workload, rule: str, sparsity: float) -> dict:
    """Make activations sparse, judge; where it is timed, compile twice and compare."""
    data = Calibration.of([job.calibration(0, SAMPLES)])
    linear = {n: m for n, m in job.model.named_modules() if isinstance(m, torch.nn.Linear)}
    layers = [n for n in list(linear)[1:-1] if linear[n].in_features > CODE]
    model = job.model
    if rule != "none":
        model = quiet(model, data, sparsity=sparsity, layers=layers, rule=rule).model
    zeros = zero_shares(model, layers, data)
    return {
        "network": job.name,
        "rule": rule,
        "sparsity": sparsity,
        "zeros": sum(zeros.values()) / len(zeros),
        "dense": 100 * job.quality(job.dense()),
        "quiet": 100 * job.quality(job.correct(model)),
        "metric": job.metric,
        **(times(model, job.calibration(0, 1)) if job.name == TIMED else {}),
    }


def times(model: torch.nn.Module, x: torch.Tensor) -> dict:
    """Milliseconds with the kernels that skip, and without."""
    with torch.inference_mode():
        want = model(x).numpy()
    dense = [k for k in host_kernels() if not getattr(k, "skip", False)]
    calls = []
    for kernels in (host_kernels(), dense):
        call, out, _ = compiled(model, x, 1, kernels)
        call()
        error = float(np.abs(out - want).max() / np.abs(want).max())
        assert error < TOLERANCE, f"results differ by {error}"
        calls.append(call)
    rounds = 1e3 * timed(calls)
    return {
        "n": len(rounds),
        "skipping_median_ms": float(np.median(rounds[:, 0])),
        "skipping_min_ms": float(rounds[:, 0].min()),
        "plain_median_ms": float(np.median(rounds[:, 1])),
        "plain_min_ms": float(rounds[:, 1].min()),
        "times_faster": float(np.median(rounds[:, 1] / rounds[:, 0])),
    }


def keys() -> list[tuple[str, str, float]]:
    """Every row: each network as it is, then every rule at every share."""
    how = [("none", 0.0), *product(RULES[1:], SPARSITIES)]
    return [(network, *one) for network, one in product(NETWORKS, how)]


def main() -> None:
    """Do the row that is asked for, the next that is missing, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--rule", choices=RULES)
    parser.add_argument("--sparsity", type=float)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print the row, do not keep it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pin()
    rows = Record("activations", __doc__.splitlines()[0], "python bench/activations.py --all")
    names = ("network", "rule", "sparsity")
    wanted = [dict(zip(names, key, strict=True)) for key in keys()]
    wanted = [k for k in wanted if all(getattr(given, n) in (None, k[n]) for n in names)]
    missing = [key for key in wanted if given.dry or not rows.has(**key)]
    for key in missing if given.all else missing[:1]:
        made = row(workload(key["network"]), key["rule"], key["sparsity"])
        print(made) if given.dry else rows.add(made)


if __name__ == "__main__":
    main()

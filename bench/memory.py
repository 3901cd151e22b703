"""How much memory does pruning with repair take?

    python bench/memory.py --network resnet56                    one row
    python bench/memory.py --network resnet50 --images 1000
    python bench/memory.py --all                                 every missing row

A row is one `prune` to half the MACs in a process of its own: its peak resident memory less what
was resident just before, with network and images loaded (the images are given apart). "obs" is
penjing's default, criterion and repair; with "l2" the repair is nearly all there is. ResNet-56 is
the trained one on CIFAR-10; ResNet-50 has random weights and random images of 224 x 224.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import penjing as pj
from record import Record

NETWORKS = ("resnet56", "resnet50")
IMPORTANCE = ("obs", "l2")
IMAGES = 1000
BATCH = 50
MINUTES = 15.0
MIB = 2**20
INTERVAL = 0.02  # seconds between looks where the kernel keeps no mark that can be reset


def network(name: str, images: int) -> tuple[nn.Module, Tensor]:
    """Network and images."""
    if name == "resnet56":
        from workloads import workload

        job = workload(name)
        return job.model, job.calibration(0, images).clone()
    from networks.residual import Bottleneck, resnet

    torch.manual_seed(0)
    return resnet(Bottleneck, (3, 4, 6, 3), 64).eval(), torch.randn(images, 3, 224, 224)


def resident_mb(field: str = "VmRSS") -> float:
    """Resident memory of this process by /proc, MiB."""
    text = Path("/proc/self/status").read_text()
    line = next(row for row in text.splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Resident memory before, and the largest inside; by the kernel's mark, else by looking."""
    found = {"before_mb": resident_mb()}
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        marked = True
    except OSError:
        marked = False
    done, seen = threading.Event(), [found["before_mb"]]

    def look() -> None:
        while not done.wait(INTERVAL):
            seen.append(resident_mb())

    watcher = threading.Thread(target=look, daemon=True)
    if not marked:
        watcher.start()
    try:
        yield found
    finally:
        done.set()
        found["peak_mb"] = resident_mb("VmHWM") if marked else max(seen)


def measure(name: str, images: int, importance: str) -> dict[str, Any]:
    """Prune once and watch."""
    torch.set_num_threads(1)
    model, x = network(name, images)
    with torch.inference_mode():
        model(x[:2])
    started, spent = time.perf_counter(), time.process_time()
    with peak() as found:
        pruned = pj.prune(
            model,
            x[:1],
            constraints={"macs": "50%"},
            calibration=x.split(BATCH),
            importance=importance,
            allocation="uniform" if importance == "l2" else "dp",
            repair="least_squares",
        )
    repaired = [r for r in pruned.report.data.repair if not r.reason]
    assert repaired  # nothing repaired would be cheap
    return {
        "network": name,
        "images": images,
        "importance": importance,
        "peak_above_mb": found["peak_mb"] - found["before_mb"],
        "before_mb": found["before_mb"],
        "images_mb": x.nbytes / MIB,
        "weights_mb": sum(p.nbytes for p in model.parameters()) / MIB,
        "layers_repaired": len(repaired),
        "layers_left": len(pruned.report.data.repair) - len(repaired),
        "cpu_seconds": time.process_time() - spent,
        "wall_seconds": time.perf_counter() - started,
    }


def row(name: str, images: int, importance: str, minutes: float) -> dict[str, Any]:
    """Measure in a process of its own, for at most so many minutes."""
    command = [sys.executable, __file__, "--child", "--network", name]
    command += ["--images", str(images), "--importance", importance]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=60 * minutes,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{name} with {images} images took more than {minutes} minutes") from None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--importance", choices=IMPORTANCE)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit of one row")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.network, given.images, given.importance)))
        return
    results = Record("memory", __doc__.splitlines()[0], "python bench/memory.py --all")
    names = [given.network] if given.network else NETWORKS if given.all else []
    kinds = [given.importance] if given.importance else IMPORTANCE
    for name, kind in product(names, kinds):
        if not results.has(network=name, images=given.images, importance=kind):
            results.add(row(name, given.images, kind, given.minutes))


if __name__ == "__main__":
    main()

"""What do 8-bit integers after training cost in accuracy, and what do they save, on ONNX Runtime?

    python bench/quantization.py --network resnet56 --fewer-macs 2.11 --seed 0
    python bench/quantization.py --all            every missing row, one after the other

One row is one network (pruned first where fewer MACs are asked for), one observer, one rounding,
one calibration seed. Accuracy is that of the exported integer file, run by ONNX Runtime; latency is
timed call by call in turn with the file in floats of the same network, with the first observer and
rounding alone, since all files of a network hold the same operations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import penjing as pj
from penjing.exporters import write_program
from penjing.exporters.execution import execution_of
from penjing.exporters.session import open_session
from penjing.graph.capture import capture
from penjing.latency.onnxruntime import Timing, time_pair
from record import Record, paired_interval
from workloads import Workload, workload

NETWORKS = (("resnet56", 2.11), ("ic", 1.0), ("kws", 1.0), ("vww", 1.0), ("ad", 1.0),
            ("resnet20", 1.0), ("resnet56", 1.0))  # fmt: skip
OBSERVERS = ("mse", "min_max", "percentile", "entropy")
ROUNDINGS = ("nearest", "gptq", "adaround")
TIMED = (OBSERVERS[0], ROUNDINGS[0])
SEEDS = (0, 1, 2)
SAMPLES = {"ad": 5000}  # windows of sound; images and clips are 500
REFERENCE = {"ic": 85.0, "vww": 85.2, "kws": 90.2, "ad": 85.9}
"""The int8 .tflite files of MLPerf Tiny on the same samples, from the README of the data; `ic` on
200 images, `vww`, `kws` and `ad` on all samples and not on half."""

SIMULATED = 250  # test samples on which the simulation is compared with the file


class Real:
    """An ONNX file, called like a network."""

    def __init__(self, path: Path) -> None:
        self.session = open_session(path)
        self.input = self.session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> Tensor:
        """The first output."""
        return torch.from_numpy(self.session.run(None, {self.input: x.numpy()})[0])


def latency(files: dict[str, Path]) -> dict[str, float]:
    """Milliseconds of the file in integers and of that in floats, call by call in turn."""
    timed, floats = time_pair(files["integers"], files["floats"], Timing(n=200, seconds=20))
    return {
        "integers_ms": timed.median_ms,
        "floats_ms": floats.median_ms,
        "times_faster": timed.ratio,
    }


def row(job: Workload, factor: float, observer: str, rounding: str, seed: int) -> dict:
    """Quantize, export, look at the test set once."""
    x = job.calibration(seed, SAMPLES.get(job.name, 500))
    model, wide = job.model, job.calibration(seed, 1000)
    if factor > 1:
        model = pj.prune(
            model, x[:1], constraints={"macs": f"{100 / factor}%"}, calibration=[wide],
            scope="inner", seed=seed,
        ).model  # fmt: skip
    started = time.process_time()
    done = pj.quantize(
        model, x[:1], calibration=[x], observer=observer, rounding=rounding, seed=seed
    )
    spent = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("original", "floats", "integers")}
        write_program(capture(job.model, x[:1]), files["original"])
        write_program(capture(model, x[:1]), files["floats"])
        pj.export(done.model, x[:1], files["integers"])
        before, after = job.correct(Real(files["floats"])), job.correct(Real(files["integers"]))
        execution = execution_of(files["integers"])
        times = latency(files) if (observer, rounding) == TIMED else {}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        few = (job.test if job.metric == "top-1" else job.test[0])[:SIMULATED]
        with torch.no_grad():
            simulated, real = done.model(few), Real(files["integers"])(few)
    original = 4 * sum(p.numel() for p in job.model.parameters())
    stored = done.model.network.size_bytes()
    result = {
        "network": job.name,
        "fewer_macs": factor,
        "observer": observer,
        "rounding": rounding,
        "seed": seed,
        "samples": len(x),
        "metric": job.metric,
        "floats": 100 * job.quality(before),
        "integers": 100 * job.quality(after),
        "points_lost": 100 * (job.quality(before) - job.quality(after)),
        "reference_integers": REFERENCE.get(job.name),
        "original_bytes": original,
        "stored_bytes": stored,
        "times_smaller": original / stored,
        "onnx_bytes": sizes,
        "onnx_times_smaller": sizes["original"] / sizes["integers"],
        **times,
        "integer_ops": dict(execution.integer),
        "float_ops": dict(execution.floating),
        "simulation_differs": float((simulated - real).abs().max() / real.abs().max()),
        "quantize_cpu_seconds": spent,
        "test_samples": len(job.labels),
        "split": job.split,
    }
    if job.metric == "top-1":
        result["same_top1_as_simulation"] = float(
            (simulated.argmax(1) == real.argmax(1)).float().mean()
        )
        result["difference_points"] = paired_interval(after, before)
    return result


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network")
    parser.add_argument("--fewer-macs", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--observer", choices=OBSERVERS, default="mse")
    parser.add_argument("--rounding", choices=ROUNDINGS, default="nearest")
    parser.add_argument("--methods", action="store_true", help="every observer and rounding")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = Record(
        "quantization", __doc__.splitlines()[0], "python bench/quantization.py --all [--methods]"
    )
    networks = NETWORKS if given.network is None else ((given.network, given.fewer_macs),)
    seeds = SEEDS if given.seed is None else (given.seed,)
    methods = [(given.observer, given.rounding)]
    if given.methods:
        methods = [(o, "nearest") for o in OBSERVERS] + [("mse", r) for r in ROUNDINGS[1:]]
    for seed, (name, factor), (observer, rounding) in product(seeds, networks, methods):
        key = {"network": name, "fewer_macs": factor, "observer": observer, "rounding": rounding}
        if not record.has(seed=seed, **key):
            record.add(row(workload(name), factor, observer, rounding, seed))


if __name__ == "__main__":
    main()

"""What do weights of fewer bits cost: all alike, mixed within the same bytes, and after training?

    python bench/bits.py --network ic --method mixed --bits 4 --seed 0
    python bench/bits.py --all            every missing row, one after the other

One row is one network, a number of bits, a method and a seed. "nearest" and "gptq" give every layer
these bits after training; "mixed" chooses 2, 4 or 8 bits per layer within the bytes that these bits
would take; "trained" starts from "nearest" and trains on the grids, with learned steps, towards the
outputs of the network in floats, on unlabelled training images alone. Accuracy is that of the
simulation, whose integers are those of the files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

import penjing as pj
from penjing.quantization.formats import packed_bytes
from penjing.quantization.scheme import Scheme
from record import Record, paired_interval
from workloads import Workload, flips_and_shifts, workload

NETWORKS = ("ic", "resnet20", "resnet56")
METHODS = ("nearest", "gptq", "mixed", "trained")
BITS = (2, 3, 4, 8)
WHOLE = 8
SEEDS = (0, 1, 2)
SAMPLES = 500
TRAINING_SAMPLES = 20000
EPOCHS = 2
RATE = 3e-4  # of AdamW for all
"""Of 1e-4, 3e-4 and 1e-3 for ic, and 3e-4 and 1e-3 for resnet20, in 3 bits: least divergence from
the outputs in floats on 1000 held-out training images, after 24 and 10 batches. Two epochs, the
samples and the other settings were not tuned."""

BATCH = 128


class Images:
    """Unlabelled training images, shuffled, flipped and moved, anew in every epoch."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)

    def __iter__(self) -> Iterator[Tensor]:
        for rows in torch.randperm(len(self.images)).split(BATCH):
            yield flips_and_shifts(self.images[rows])


def made(job: Workload, method: str, bits: int, seed: int) -> pj.Quantized:
    """The network in these bits."""
    x = job.calibration(seed, SAMPLES)
    scheme = Scheme(weight_bits=bits)
    call = {"calibration": [x], "seed": seed}
    if method == "mixed":
        alike = pj.quantize(job.model, x[:1], scheme=scheme, **call).model.network
        held = sum(
            packed_bytes(alike.program.tensors[fqn].numel(), grid.bits) + 4 * grid.scale.numel()
            for fqn, grid in alike.weights.items()
        )
        return pj.quantize(job.model, x[:1], constraints={"weight_bytes": held}, **call)
    if method != "trained":
        return pj.quantize(job.model, x[:1], scheme=scheme, rounding=method, **call)
    start = pj.prepare(job.model, x[:1], scheme=scheme, **call).model
    images = Images(job.calibration(seed + 100, TRAINING_SAMPLES))
    tuned = pj.finetune(
        start, pj.Task(train=images), epochs=EPOCHS, lr=RATE, seed=seed, progress=False
    )
    return pj.convert(tuned.model)


def row(job: Workload, method: str, bits: int, seed: int) -> dict:
    """Make the network, look at the test set once."""
    started = time.process_time()
    done = made(job, method, bits, seed)
    spent = time.process_time() - started
    before, after = job.dense(), job.correct(done.model)
    network = done.model.network
    original = 4 * sum(p.numel() for p in job.model.parameters())
    return {
        "network": job.name,
        "method": method,
        "bits": bits,
        "seed": seed,
        "floats": 100 * job.quality(before),
        "integers": 100 * job.quality(after),
        "difference_points": paired_interval(after, before),
        "layer_bits": dict(network.layer_bits),
        "stored_bytes": network.size_bytes(),
        "times_smaller": original / network.size_bytes(),
        "cpu_seconds": spent,
        "calibration_samples": SAMPLES,
        "training_samples": TRAINING_SAMPLES * (method == "trained"),
        "epochs": EPOCHS * (method == "trained"),
        "test_samples": len(job.labels),
        "split": job.split,
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--bits", type=int, choices=BITS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    record = Record("bits", __doc__.splitlines()[0], "python bench/bits.py --all")
    asked = (
        SEEDS if given.seed is None else (given.seed,),
        NETWORKS if given.network is None else (given.network,),
        METHODS if given.method is None else (given.method,),
        BITS if given.bits is None else (given.bits,),
    )
    for seed, name, method, bits in product(*asked):
        if bits == WHOLE and method != "nearest":
            continue  # there is nothing to gain
        if not record.has(network=name, method=method, bits=bits, seed=seed):
            record.add(row(workload(name), method, bits, seed))


if __name__ == "__main__":
    main()

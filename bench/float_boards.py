"""What do float networks cost on microcontrollers, and what do zeros save?

    python bench/float_boards.py --network kws    its rows
    python bench/float_boards.py --all            every row (minutes)

MLPerf Tiny's networks as they were trained, in single precision, dense and with 90 % zeros in every
weight but the first, the last and the depthwise ones (smallest magnitudes, layer by layer; nothing
is said of their accuracy). Instructions are counted in an emulator and are no cycles. The results
are compared on the board before anything is counted.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import torch

import penjing as pj
from penjing.codegen.log import read_log
from penjing.counts.macs import count_macs
from penjing.graph.capture import capture
from record import Record
from workloads import workload
from zeros import sparsify

NETWORKS = ("ic", "vww", "kws", "ad")
CORES = ("cortex-m4", "cortex-m55")
SPARSITIES = (0.0, 0.9)


def row(network: str, core: str, sparsity: float) -> dict[str, Any]:
    """Compile, run in the emulator, count."""
    job = workload(network)
    model, x = job.model, job.calibration(0, 1)
    sparsify(model, sparsity)
    program = pj.compile(model, x, target=core)
    log = read_log(program.check())
    assert log.equal, f"{network} on {core} differs by {log.largest_difference}"
    weights = [p for n, p in model.named_parameters() if "weight" in n and p.dim() > 1]
    dense = count_macs(capture(model, x))
    return {
        "network": network,
        "core": core,
        "sparsity": sparsity,
        "nonzero": sum(int(w.count_nonzero()) for w in weights),
        "weights": sum(w.numel() for w in weights),
        "code_bytes": program.code_bytes,
        "constant_bytes": program.constant_bytes,
        "flash_bytes": program.flash_bytes,
        "arena_bytes": program.arena_bytes,
        "instructions": log.count,
        "macs": dense,
        "instructions_per_mac": log.count / dense,
        "kernels": {s.layer.source: s.kernel for s in program.files.text.steps},
    }


def main() -> None:
    """Do the rows that are asked for and missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    if not given.all and given.network is None:
        parser.error("give --network or --all")
    torch.set_num_threads(1)
    record = Record("float_boards", __doc__.splitlines()[0], "python bench/float_boards.py --all")
    networks = [given.network] if given.network else NETWORKS
    for network, core, sparsity in product(networks, CORES, SPARSITIES):
        if not record.has(network=network, core=core, sparsity=sparsity):
            record.add(row(network, core, sparsity))


if __name__ == "__main__":
    main()

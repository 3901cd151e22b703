"""What can be counted on a graph alone, as figures for a report."""

from __future__ import annotations

import torch

from penjing.counts.macs import Counter
from penjing.counts.memory import Liveness
from penjing.figures import Figures
from penjing.graph.capture import Program


def program_figures(program: Program) -> Figures:
    """What can be counted on a graph alone."""
    counter = Counter(program)
    layers = counter.figures()
    tensors = {
        id(program.tensors[n]): program.tensors[n]
        for n in program.parameters
        if n in program.tensors
    }
    return Figures(
        params=counter.params(),
        nonzero=sum(int(torch.count_nonzero(t)) for t in tensors.values()),
        macs=counter.macs(),
        ram_bytes=Liveness(program).peak().ram_bytes,
        how={
            "params": "counted, tied parameters once",
            "nonzero": "counted, tied parameters once",
            "macs": "counted on the graph: convolutions and matrix products at batch one, no bias",
            "ram_bytes": "peak of live activations at batch one, by liveness on the exported graph",
        },
        layers=layers,
    )

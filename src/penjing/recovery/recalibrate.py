"""Recalibration: running statistics of batch norms re-estimated on what really reaches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from penjing.graph.call import Call
from penjing.graph.capture import Program
from penjing.graph.norms import Norm
from penjing.statistics.outlets import norms
from penjing.statistics.stream import Chunk, Samples, Stream


@torch.no_grad()
def recalibrate(
    program: Program,
    tensors: Mapping[str, Tensor],
    calibration: Samples,
    memory_mb: float = 2048.0,
) -> dict[str, Tensor]:
    """Exact mean and variance of every batch norm's input, one norm after the other.

    A norm is measured behind norms that are already set, so the statistics are those of the network
    as it will run in eval mode, not of batches normalised by themselves.

    Args:
        program: The network, whole or cut.
        tensors: Values of its stored tensors that differ from `program.tensors`.
        calibration: Unlabelled samples.
        memory_mb: Bound on the activations held, in MiB; where it binds, fewer samples count.

    Returns:
        New running means and variances by qualified name. Norms whose tensors are used twice, or
        that see a single value per channel, keep theirs.
    """
    program = replace(program, tensors={**program.tensors, **tensors})
    stream = Stream([program], calibration, memory_mb)
    found: dict[str, Tensor] = {}
    for name, norm in norms(program).items():
        source = Call(program.nodes[name]).arg("input").name
        new = _moments(stream, stream.advance(name), source, norm)
        stream.replace(0, {fqn: v.to(program.tensors[fqn].dtype) for fqn, v in new.items()})
        found.update(new)
    return {fqn: value.to(program.tensors[fqn].dtype) for fqn, value in found.items()}


def _moments(stream: Stream, chunks: Sequence[Chunk], source: str, norm: Norm) -> dict[str, Tensor]:
    """Mean and unbiased variance per channel (dimension 1) over all chunks, in float64."""
    values = (stream.value(chunk, source).double() for chunk in chunks)
    sums = [(v.movedim(1, 0).flatten(1).shape[1], *_sums(v)) for v in values]
    count = sum(n for n, _, _ in sums)
    if count < 2:
        return {}
    mean = torch.stack([total for _, total, _ in sums]).sum(0) / count
    # each part's squares are about its own mean, so nothing cancels
    within = torch.stack([squares for _, _, squares in sums]).sum(0)
    between = torch.stack([n * (total / n - mean).square() for n, total, _ in sums]).sum(0)
    return {norm.mean: mean, norm.var: (within + between) / (count - 1)}


def _sums(value: Tensor) -> tuple[Tensor, Tensor]:
    """Sum, and sum of squares about the mean, per channel."""
    rows = value.movedim(1, 0).flatten(1)
    return rows.sum(1), (rows - rows.mean(1, keepdim=True)).square().sum(1)

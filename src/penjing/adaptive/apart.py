"""Whether samples of a batch can be computed apart: adaptive networks leave some of them out."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.exporters._fresh import fresh_inputs
from penjing.exporters._onnx import difference_of
from penjing.graph.capture import MIN_BATCH, Program

MIXED = 0.05
"""Largest difference of a sample computed alone, of the largest value: float16 rounds by less, a
norm over the batch differs by more."""


def mixes(piece: Program) -> bool:
    """Whether what a sample gets depends on the others of its batch.

    Args:
        piece: A part of a network over tensors with the batch free in dimension 0; it is run twice
            on random values.
    """
    given = fresh_inputs(piece, MIN_BATCH + 1, torch.Generator().manual_seed(0))
    home = [v.to(e.device) for v, e in zip(given, piece.example, strict=True)]
    with torch.no_grad():
        both = zip(piece.run(home), piece.run([v[:1] for v in home]), strict=True)
        return any(
            difference_of(alone.cpu(), together[:1]) > MIXED
            for together, alone in both
            if isinstance(alone, Tensor) and alone.is_floating_point()
        )

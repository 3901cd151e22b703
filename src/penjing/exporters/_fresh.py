"""Fresh random inputs of the kind that a network takes."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.graph.capture import Program


def fresh_inputs(program: Program, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Random tensor inputs, flat, on the CPU.

    Floating inputs are normal with the mean and spread of the example (0 and 1 where the example
    does not vary); integers are drawn from the values of the example, since only those are known to
    be valid.

    Args:
        program: A captured network.
        batch: Samples; without effect where the program's sizes are fixed.
        generator: Source of randomness, on the CPU.

    Returns:
        One tensor per tensor input, in the program's order.
    """
    places = zip(program.example, program.batch_dims, strict=True)
    return [
        _fresh(v.cpu(), _sizes(v, d if program.dynamic_batch else None, batch), generator)
        for v, d in places
        if isinstance(v, Tensor)
    ]


def _sizes(example: Tensor, dim: int | None, batch: int) -> tuple[int, ...]:
    """The example's sizes with so many samples."""
    return tuple(batch if d == dim else size for d, size in enumerate(example.shape))


def _fresh(example: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if example.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not example.is_floating_point() or not bool(example.isfinite().all()):
        at = torch.randint(example.numel(), shape, generator=generator)
        return example.flatten()[at]
    wide = example.double()
    spread, mean = wide.std(correction=0), wide.mean()
    if not spread > 0:
        spread, mean = torch.ones(()), torch.zeros(())
    return (torch.randn(shape, generator=generator) * spread + mean).to(example.dtype)

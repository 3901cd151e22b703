"""Weights and data that nothing can be decided from, refused before the first slow step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.errors import InputError
from penjing.graph.capture import Program, call_args
from penjing.task import Batch, Calibration
from penjing.task.batches import describe

RUNNING = ("running_mean", "running_var")  # other buffers may hold infinity, masks for instance
BATCH = 128  # samples that the report's agreement is measured on at a time
TELLING = 2000  # samples that it is measured on, at most: half a percent is known of it then


def check_finite(model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputError: Names the first such tensor and how many of its values are bad.
    """
    statistics = [b for b in model.named_buffers() if b[0].endswith(RUNNING)]
    for name, tensor in [*model.named_parameters(), *statistics]:
        bad = int((~torch.isfinite(tensor.detach())).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(
                f"{name!r} holds {bad} of {tensor.numel()} values that are NaN or infinite; "
                "load a checkpoint from before the training diverged"
            )


def check_fits(calibration: Calibration, program: Program) -> None:
    """Refuse calibration data that is not like the example inputs in all but the batch.

    Raises:
        InputError: Shows both.
    """
    sample = next(calibration.batches(1))
    leaves, structure = pytree.tree_flatten(call_args(sample))
    same = structure == program.in_spec and all(
        _row(given, dim or 0) == _row(wanted, dim or 0)
        for given, wanted, dim in zip(leaves, program.example, program.batch_dims, strict=True)
        if isinstance(wanted, Tensor)
    )
    if not same:
        example = pytree.tree_unflatten(list(program.example), program.in_spec)
        positional, by_name = example
        raise InputError(
            f"calibration has samples of {describe(sample)}, the example inputs are "
            f"{describe(by_name or positional)}; only dimension 0, the batch, may differ. Give "
            "both as the network takes them, transform_fn= makes them so"
        )


def _row(value: Any, dim: int) -> Any:
    """What every sample of an input shares."""
    if not isinstance(value, Tensor):
        return type(value)
    return value.dtype, (*value.shape[:dim], *value.shape[dim + 1 :])


def telling_batches(program: Program, samples: Calibration) -> list[Batch]:
    """Samples that a report's agreement is measured on: the first few thousand, in `whole_batches`.

    Args:
        program: The network.
        samples: Unlabelled samples.
    """
    return whole_batches(program, Calibration.of(samples, limit=TELLING))


def whole_batches(program: Program, samples: Calibration) -> list[Batch]:
    """Samples in batches that a network takes; of a fixed batch, only whole ones.

    Args:
        program: The network.
        samples: Unlabelled samples.
    """
    if program.dynamic_batch:
        return [Batch(inputs, None, samples.dims) for inputs in samples.batches(BATCH)]
    cut = (inputs for inputs in samples.batches(program.batch))
    whole = (b for b in cut if program.samples(program.flatten_inputs(b)) == program.batch)
    return [Batch(inputs, None, samples.dims) for inputs in whole]

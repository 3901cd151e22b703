"""`prepare`: a network that trains on the grids of its integers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from penjing.errors import StrategyError
from penjing.graph.capture import Example, capture, check_network, dims_of
from penjing.pruning.selection import Key
from penjing.quantization.aware import STEPS, QuantizationAware, Steps, prepare_program
from penjing.quantization.freezing import checked
from penjing.quantization.module import QuantizedModule
from penjing.quantization.observers import Observer
from penjing.quantization.ptq import Settings
from penjing.quantization.scheme import Scheme
from penjing.quantization.scheme import resolve as resolve_scheme
from penjing.report import Report
from penjing.task import Calibration
from penjing.task.randomness import device_of, random_kept
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.drop import likeness
from penjing.verbs.quantize import (
    bits_by_weight,
    check_in_floats,
    figures_in_floats,
    kept_in_floats,
    on_cpu,
    remember_inputs,
    report_of,
)
from penjing.verbs.soundness import check_finite, check_fits

FREEZE_AT = 0.8
"""Weights settle on grids that stay during the last fifth of a run."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network to be trained for its integers.

    Args:
        model: Called like the original, on its device; train it, then `convert` it.
        report: Figures before and of the integers that it would have without training.
    """

    model: QuantizationAware
    report: Report


@arguments_checked
def prepare(  # noqa: PLR0913 - the public contract, its options are keywords
    model: nn.Module,
    example_inputs: Example,
    *,
    calibration: Any,
    scheme: str | Scheme = "int8",
    steps: Steps = "learned",
    freeze_at: float = FREEZE_AT,
    observer: str | Observer = "mse",
    equalization: bool = False,
    ignored_layers: Iterable[Key] | Key = (),
    weight_bits_dict: Mapping[Key, int] | None = None,
    transform_fn: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Prepared:
    """Prepare a network for quantization-aware training.

    It starts where `quantize` ends: norms are folded, and every weight and activation gets a grid
    from calibration data. `finetune` then trains weights, biases and steps, by default towards the
    outputs of `model`, and `convert` gives the integers on which it was trained. Zeros stay zero
    and widths stay as they are, so prune and sparsify first.

    Args:
        model: Any network that `torch.export` takes; only read.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords), on its device.
        calibration: Unlabelled batches, as for `quantize`.
        scheme: As for `quantize`.
        steps: "learned" trains every step by gradients (LSQ); "observed" lets ranges of activations
            follow a moving average and steps of weights their largest magnitudes.
        freeze_at: Share of a training run after which grids stay; 0 never moves them.
        observer: Which range of an activation the grid covers at first.
        equalization: Make the ranges of neighbouring layers alike first.
        ignored_layers: Modules, names, globs or types that stay in floats.
        weight_bits_dict: As for `quantize`; `layer_bits` of a network of mixed precision fits.
        transform_fn: Makes a batch from what `calibration` yields.
        seed: Of everything random.

    Returns:
        The network to train and the report.

    Raises:
        InputError: Bad example inputs, weights or calibration data, or a network that is quantized
            or prepared already.
        CaptureError: The network does not export.
        StrategyError: An unknown scheme, observer or kind of steps, or a network without anything
            that has an integer form.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> prepare(net, torch.ones(1, 4), calibration=[torch.randn(64, 4)], scheme="int4").model
        QuantizationAware(
          int4, learned steps
        ...
    """
    started = time.perf_counter()
    check_network(model)
    check_in_floats(model)
    check_finite(model)
    if steps not in STEPS:
        raise StrategyError(f"steps is {steps!r}; known are {', '.join(map(repr, STEPS))}")
    dims = dims_of(model, example_inputs)
    samples = Calibration.of(calibration, transform_fn, seed=seed, dims=dims)
    settings = Settings(
        scheme=resolve_scheme(scheme), observer=observer, equalization=equalization, seed=seed
    )
    with random_kept():
        torch.manual_seed(seed)
        worker, example = on_cpu(model, example_inputs)
        program = capture(worker, example)
        check_fits(samples, program)
        settings = replace(
            settings,
            keep_float=kept_in_floats(worker, program, ignored_layers),
            weight_bits=bits_by_weight(worker, program, weight_bits_dict or {}),
        )
        result = prepare_program(
            program,
            samples,
            settings,
            steps=steps,
            freeze_at=checked(freeze_at),
            parent=model,
            figures=figures_in_floats(program),
        )
        start = result.origin.start
        share = likeness(QuantizedModule(start), worker, program, samples)
        data = report_of(worker, program, start, samples, settings)
    choices = {**data.choices, "steps": steps, "freeze at": f"{freeze_at:g}"}
    data = replace(data, kind="prepare", agreement=share, choices=choices)
    result.to(device_of(model))
    remember_inputs(result, model, example_inputs)
    return Prepared(result, Report(replace(data, seconds=time.perf_counter() - started)))

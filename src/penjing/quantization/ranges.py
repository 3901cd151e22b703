"""Ranges: the distribution of every activation that needs a grid, over calibration data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from penjing.errors import InputError
from penjing.graph.capture import Program
from penjing.quantization.observers import Histogram, Observer, min_max
from penjing.quantization.observers.histogram import BINS
from penjing.quantization.placement import Placement
from penjing.quantization.simulation import walk
from penjing.task import Calibration

BATCH = 64  # samples run together


@dataclass(eq=False, slots=True)
class _Seen:
    """What one group of activations has shown so far."""

    minimum: float = float("inf")
    maximum: float = float("-inf")
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def widen(self, low: float, high: float) -> None:
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def count(self, x: Tensor) -> None:
        if not len(self.counts):
            self.counts = torch.zeros(BINS, dtype=torch.float64)
        if self.maximum > self.minimum:
            flat = x.float().flatten()
            self.counts += torch.histc(flat, BINS, self.minimum, self.maximum).double()


def observe(
    program: Program,
    placement: Placement,
    calibration: Calibration,
    observer: Observer,
    bits: Mapping[str, int],
) -> dict[str, tuple[float, float]]:
    """The range of every group of activations that share a grid.

    Args:
        program: Folded program, computed in floats.
        placement: Which nodes share a grid.
        calibration: Samples.
        observer: Chooses a range from a distribution.
        bits: Bits of each group's grid.

    Returns:
        (minimum, maximum) by representative.

    Raises:
        InputError: A value is NaN or infinite; its node is named.
    """
    seen = {first: _Seen() for first in placement.groups.values() if first not in placement.fixed}
    names = {n: seen[first] for n, first in placement.groups.items() if first in seen}

    def widen(node: fx.Node, value: Any) -> Any:
        if node.name in names and isinstance(value, Tensor) and value.numel():
            low, high = map(float, torch.aminmax(value))
            if not (math.isfinite(low) and math.isfinite(high)):
                raise InputError(
                    f"the value of {node.name!r} is NaN or infinite on the calibration data; "
                    "the network overflows on it, or the data is not what it was trained on"
                )
            names[node.name].widen(low, high)
        return value

    def count(node: fx.Node, value: Any) -> Any:
        if node.name in names and isinstance(value, Tensor) and value.numel():
            names[node.name].count(value)
        return value

    for visit in (widen,) if observer is min_max else (widen, count):
        for flat in flat_batches(program, calibration):
            walk(program, flat, visit)
    found = {
        first: observer(Histogram(s.minimum, s.maximum, s.counts, bits.get(first, 8)))
        if len(s.counts) and s.maximum > s.minimum
        else _plain(s)
        for first, s in seen.items()
    }
    return {**found, **{f: placement.fixed[f] for f in placement.fixed}}


def flat_batches(program: Program, calibration: Calibration) -> Iterator[list[Any]]:
    """Flat inputs in batches that the program takes, of a fixed batch only whole ones.

    Args:
        program: A captured program.
        calibration: Samples.

    Yields:
        Flat inputs, without gradients.

    Raises:
        InputError: The batch is fixed and there are fewer samples.
    """
    size = BATCH if program.dynamic_batch else program.batch
    if not program.dynamic_batch and calibration.samples < size:
        raise InputError(
            f"the network has a fixed batch of {size} and the calibration data has "
            f"{calibration.samples} samples; give at least one batch of that size"
        )
    for batch in calibration.batches(size):
        flat = program.flatten_inputs(batch)
        samples = program.samples(flat)
        if program.dynamic_batch or samples == size:
            with torch.no_grad():
                yield flat


def _plain(seen: _Seen) -> tuple[float, float]:
    """The range that was seen; zero where nothing was."""
    return (seen.minimum, seen.maximum) if seen.maximum >= seen.minimum else (0.0, 0.0)

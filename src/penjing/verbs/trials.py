"""Candidates measured: what the outputs of the network lose at the units kept of every group."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from penjing.graph.capture import Program
from penjing.graph.network import Cut
from penjing.plan import Group
from penjing.pruning.allocation.trying import Lost, Proxy
from penjing.pruning.gradients import whole_chunks
from penjing.pruning.masked import Losses, divergence, masked_tensors
from penjing.recovery.reconstruct import Reconstruct
from penjing.recovery.repair import repair
from penjing.task import Calibration

SAMPLES = 64  # that judge a candidate
FITTED = 128  # samples at most that a candidate is re-solved on; never those that judge it
QUICK = 4.0  # output positions per unknown, where a candidate is re-solved


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """What the outputs lose, by units dropped of every group.

    Args:
        program: The captured network.
        groups: What can be cut; whole branches own no slices.
        lowest: The units of a group that go first, by group name and number.
        cut: Applies units to drop, by group name.
        calibration: Unlabelled samples: the last ones judge, the others re-solve.
        proxy: How a candidate is judged.
        seed: Of the output positions that re-solving looks at.
    """

    program: Program
    groups: tuple[Group, ...]
    lowest: Callable[[str, int], list[int]]
    cut: Callable[[Mapping[str, list[int]]], Cut]
    calibration: Calibration
    proxy: Proxy
    seed: int = 0

    def __call__(self, kept: Mapping[str, int]) -> float:
        """Mean divergence of the outputs at a candidate.

        Args:
            kept: Units kept per group.
        """
        gone = [(g, self.lowest(g.name, g.units - kept[g.name])) for g in self.groups]
        if not any(units for _, units in gone):
            return 0.0
        if self.proxy == "masked" and all(group.slices for group in self.groups):
            change = masked_tensors(self.program, gone)
            return float(Losses(self.program, self._judging, SAMPLES).of([change])[0])
        cut = self.cut({group.name: units for group, units in gone})
        changed = replace(cut.program, tensors={**cut.program.tensors, **self._mended(cut)})
        return _moved(self.program, changed, self._judging)

    def _mended(self, cut: Cut) -> dict[str, Tensor]:
        """New values for the tensors of a candidate."""
        if self.proxy == "masked":
            return {}
        if self.proxy == "recalibrated":
            return repair(cut, self._fitting, "recalibrate")[0]
        quick = Reconstruct(rows_per_unknown=QUICK, rounds=0, seed=self.seed)
        return repair(cut, self._fitting, quick)[0]

    @property
    def _judging(self) -> Calibration:
        count = min(SAMPLES, max(1, self.calibration.samples // 2))
        return _part(self.calibration, self.calibration.samples - count, self.calibration.samples)

    @property
    def _fitting(self) -> Calibration:
        count = min(SAMPLES, max(1, self.calibration.samples // 2))
        return _part(self.calibration, 0, min(FITTED, self.calibration.samples - count))


def _part(calibration: Calibration, start: int, stop: int) -> Calibration:
    """Samples `start` to `stop`, without labels."""
    leaves = tuple(v[start:stop] if isinstance(v, Tensor) else v for v in calibration.leaves)
    return replace(calibration, leaves=leaves, sizes=(stop - start,), labels=(None,))


@torch.no_grad()
def _moved(dense: Program, changed: Program, samples: Calibration) -> float:
    """Mean divergence between the outputs of two networks."""
    total, seen = 0.0, 0
    for flat, _ in whole_chunks(dense, samples, SAMPLES, SAMPLES):
        count = dense.samples(flat)
        wanted, got = (p.unflatten_outputs(p.run(flat)) for p in (dense, changed))
        total += divergence(wanted, got, count, samples.outputs)
        seen += count
    return total / seen


def watched(lost: Lost, name: str, evaluations: int) -> tuple[Lost, AbstractContextManager[Any]]:
    """A measure that says on a terminal how far a search is, and what to hold open meanwhile.

    Args:
        lost: The measure.
        name: Of the search.
        evaluations: Candidates that it tries at most.

    Returns:
        The measure, and a context within which a line is shown; nothing without a terminal.
    """
    if not sys.stderr.isatty():
        return lost, nullcontext()
    from rich.console import Console  # only when something is drawn

    status = Console(stderr=True).status(f"{name}: 0 of {evaluations} candidates")
    tried = 0

    def shown(kept: Mapping[str, int]) -> float:
        nonlocal tried
        tried += 1
        status.update(f"{name}: {tried} of {evaluations} candidates")
        return lost(kept)

    return shown, status

"""Zeros beside widths: a layer that may be sparse is a group of equal parts of its weights.

One allocation then weighs both. Their errors are alike: units are judged by the error of what their
readers feed, weights by the error of what their layer feeds, relative to its energy and with
everything else re-solved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from penjing.counts.macs import Counter
from penjing.counts.sizes import Shape
from penjing.errors import PlanError
from penjing.graph.capture import Program
from penjing.plan import Group
from penjing.pruning.packing import packed_bytes
from penjing.pruning.patterns import Pattern
from penjing.pruning.weights import magnitude, obs
from penjing.pruning.weights.protocol import Target, WeightImportance
from penjing.pruning.weights.survey import Survey
from penjing.pruning.weights.targets import Wanted, find_targets
from penjing.task import Calibration

PARTS = 64  # of a layer's weights: its sparsity is a multiple of one of them
COSTS = ("effective_macs", "nonzero", "size_kb")
KIB = 1024  # a kB of flash or RAM is 1024 bytes, as data sheets have it


@dataclass(frozen=True, eq=False)
class Densities:
    """The layers of a network that may become sparse, as groups of parts of their weights.

    Args:
        program: The network.
        targets: The layers, as far as a Gram matrix says what their weights are worth.
        seed: Of the choice of output positions that are looked at.
    """

    program: Program
    targets: tuple[Target, ...]
    seed: int = 0

    @classmethod
    def of(cls, model: nn.Module, program: Program, wanted: Wanted, seed: int = 0) -> Densities:
        """The layers of a network that may become sparse beside its widths.

        Args:
            model: The network, for the names of its layers.
            program: Its capture.
            wanted: What may become sparse; blocks that stick out after a cut are smaller.
            seed: As of the class.

        Raises:
            StrategyError: An ignored layer matches nothing, or the pattern does not divide a layer.
        """
        found, _ = find_targets(model, program, wanted)
        survey = Survey(program=program, targets=found, importance=obs)
        return cls(program, tuple(t for t in found if survey.sees(t)), seed)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """One group per layer; its units are parts of the weights."""
        return tuple(Group(_name(t.weight), PARTS, (), kind="weights") for t in self.targets)

    def errors(self, calibration: Calibration) -> dict[str, Tensor]:
        """Error of what each layer feeds once so many parts are zero, by name of its group.

        Args:
            calibration: Unlabelled samples.

        Returns:
            `(PARTS + 1,)` float64, non-decreasing, relative to the energy of what the layer feeds.
        """
        survey = Survey(program=self.program, targets=self.targets, importance=obs, seed=self.seed)
        scores = survey.run(calibration)
        return {_name(t.weight): _curve(t, scores[t.weight]) for t in self.targets}

    def shares(self, kept: Mapping[str, int]) -> dict[str, float]:
        """Share of its weights that each layer keeps, by name of the weight.

        Args:
            kept: Parts kept by name of the group; groups that are not named keep all.
        """
        return {t.weight: kept.get(_name(t.weight), PARTS) / PARTS for t in self.targets}

    def costs(
        self, counter: Counter, shape: Shape, kept: Mapping[str, int]
    ) -> tuple[float, float, float]:
        """What zeros save: effective MACs, parameters that are not zero, kB as `save` packs them.

        Args:
            counter: Of the program, or of what is left of it.
            shape: Shapes after a cut.
            kept: Parts kept by name of the group.

        Returns:
            In the order of `COSTS`.
        """
        shares, left = self.shares(kept), dict[str, float]()
        nonzero = size = 0.0
        for node in counter.stored:
            name = self.program.stored[node.name]
            elements = torch.Size(shape(node)).numel()
            stays = self.left(name, elements, shares.get(name, 1.0))
            left[name] = stays / elements
            nonzero += stays
            size += packed_bytes(elements, stays, self.program.tensors[name].itemsize)
        made = {n.node: left[t.weight] for t in self.targets for n in t.layers if t.weight in left}
        return counter.macs(shape, made), nonzero, size / KIB

    def left(self, name: str, elements: int, share: float) -> int:
        """Weights that stay at most: blocks are whole, so that the last one may not fit.

        Args:
            name: Of the weight.
            elements: Of it, after a cut.
            share: Of them that is kept.
        """
        if share == 1:
            return elements
        largest = int(self._by_name[name].tiling.sizes.max())
        return min(elements, math.ceil(elements * share - 1e-6) + largest - 1)

    @cached_property
    def _by_name(self) -> dict[str, Target]:
        return {t.weight: t for t in self.targets}

    def kept(self, sparsities: Mapping[str, float]) -> dict[str, int]:
        """Parts that each layer keeps, by name of its group.

        Args:
            sparsities: As `sparsities` gives them.
        """
        return {
            _name(t.weight): round(PARTS * (1 - sparsities.get(t.weight, 0.0)))
            for t in self.targets
        }

    def sparsities(self, kept: Mapping[str, int]) -> dict[str, float]:
        """Sparsity of every layer that is to have zeros, by name of its weight."""
        return {name: 1 - share for name, share in self.shares(kept).items() if share < 1}


def choose_zeros(
    model: nn.Module,
    program: Program,
    sparsities: Mapping[str, float],
    pattern: Pattern,
    calibration: Calibration | None,
) -> tuple[dict[str, Target], dict[str, Tensor], WeightImportance]:
    """Choose which weights of a cut network become zero.

    Args:
        model: The network that was cut, for names.
        program: What is left of it.
        sparsities: Share of zeros by name of the weight.
        pattern: Which weights go together.
        calibration: Samples that judge the weights; None judges by their size.

    Returns:
        By name of the weight what becomes sparse, and the weights that stay `(G, V, U)` bool; and
        what judged them.

    Raises:
        PlanError: A weight is no layer's that may be sparse.
    """
    wanted = Wanted(pattern=pattern, keep_dense=(), indivisible="pad")
    found = {t.weight: t for t in find_targets(model, program, wanted)[0]}
    unknown = sorted(set(sparsities) - set(found))
    if unknown:
        raise PlanError(
            f"the plan makes weights of {unknown[0]!r} zero, which is no weight of a layer that "
            "may be sparse; was the plan made for another model?"
        )
    targets = {name: found[name] for name in sparsities}
    judge: WeightImportance = magnitude if calibration is None else obs
    survey = Survey(program=program, targets=list(targets.values()), importance=judge)
    scores = survey.run(calibration)
    kept = {n: t.tiling.keep(scores[n], sparsities[n]) for n, t in targets.items()}
    return targets, kept, judge


def _name(weight: str) -> str:
    return f"zeros of {weight}"


def _curve(target: Target, scores: Tensor) -> Tensor:
    """Error after the lowest parts have gone, from errors per weight of every block."""
    sizes = target.tiling.sizes.flatten()
    order = scores.flatten().argsort(stable=True)
    gone = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)]) / float(sizes.sum())
    rises = (scores.flatten() * sizes)[order]
    error = torch.cat([rises.new_zeros(1), rises.cumsum(0)])
    parts = torch.linspace(0, 1, PARTS + 1, dtype=gone.dtype)
    place = (torch.searchsorted(gone, parts + 1e-9) - 1).clamp_min(0)
    return error[place]

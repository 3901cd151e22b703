"""Repair as the verbs ask for it: one of the ways, or one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from penjing.errors import InputError, StrategyError
from penjing.figures import RepairFigures
from penjing.graph.capture import Program
from penjing.graph.network import Cut
from penjing.recovery.fold import Fold, fold
from penjing.recovery.recalibrate import recalibrate
from penjing.recovery.reconstruct import Changed, Reconstruct, Support, reconstruct
from penjing.recovery.tune import ALL_FROZEN, Tune, tune
from penjing.recovery.zeros import KEPT
from penjing.task import Calibration

MIN_SAMPLES = 3  # two to fit, one to judge
How = Reconstruct | Tune | Fold | Literal["recalibrate"]


@dataclass(frozen=True, eq=False, slots=True)
class Valued:
    """A network and a form of it with other values.

    Args:
        dense: The network as it was.
        program: The same graph, or a cut of it, with other tensors.
        cut: Says what is left of a value where something was cut; None where nothing was.
    """

    dense: Program
    program: Program
    cut: Changed | None = None

    def slice_like(self, node: str, value: Tensor) -> Tensor:
        """What is left of a tensor that has the original shape of a node's output.

        Args:
            node: Name of the node.
            value: A tensor of the shape of the node's first output.

        Returns:
            Its kept positions.
        """
        return value if self.cut is None else self.cut.slice_like(node, value)


def zeroed(changed: Changed, masks: Mapping[str, Tensor]) -> Valued:
    """The same change with some weights set to zero as well.

    Args:
        changed: A network and a form of it, such as a `Cut`.
        masks: Weights that stay, bool, in the shape that each has in the changed form, by name.
    """
    tensors = dict(changed.program.tensors)
    tensors.update({name: tensors[name].detach() * kept for name, kept in masks.items()})
    return Valued(changed.dense, replace(changed.program, tensors=tensors), changed)


def repair(
    changed: Changed, samples: Calibration, how: How, support: Support | None = None
) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    """New values for the tensors of a cut or sparse network.

    Args:
        changed: A network and its changed form; neither is changed.
        samples: Unlabelled samples.
        how: Which repair; `Tune` has a least squares before it.
        support: Layers with zeros that stay zero, and where.

    Returns:
        Values by qualified name, and a row for each layer that was looked at.

    Raises:
        InputError: Too few samples.
        StrategyError: The repair does not suit the change.
    """
    if how == "recalibrate":
        return recalibrate(changed.program, changed.program.tensors, samples), []
    if isinstance(how, Fold):
        return _folded(changed, samples, how)
    if isinstance(how, Reconstruct):
        return reconstruct(changed, samples, how, support)
    samples.at_least(MIN_SAMPLES, "tuning")
    seen, held = _split(samples, how, changed.program)
    few = Calibration.of(seen, limit=how.first_samples)
    solved, rows = reconstruct(changed, few, replace(how.first, keep_frozen=True), support)
    tuned, row = tune(_with(changed, solved), seen, held, how)
    return {**solved, **tuned}, [*rows, row]


def notable(rows: Sequence[RepairFigures]) -> tuple[str, ...]:
    """What the reader of a report must know: nothing was left to tune, or zeros were in the way."""
    sparse = sum(KEPT in row.note for row in rows)
    layers = "1 layer was" if sparse == 1 else f"{sparse} layers were"
    kept = f"{layers} sparse before: {KEPT}, and the repair moved only the other weights"
    untuned = (f"repair 'tune': {ALL_FROZEN}" for row in rows if row.reason == ALL_FROZEN)
    return (*untuned, *([kept] if sparse else []))


def _folded(
    changed: Changed, samples: Calibration, how: Fold
) -> tuple[dict[str, Tensor], list[RepairFigures]]:
    if not isinstance(changed, Cut):
        raise StrategyError(
            "repair 'fold' merges units that are cut, and here weights become zero; use "
            "'least_squares'"
        )
    return fold(changed, samples, how)


def _split(samples: Calibration, how: Tune, program: Program) -> tuple[Calibration, Calibration]:
    """Samples to learn from, and those held out, drawn by chance.

    Raises:
        InputError: There are not two batches of a network that takes only whole ones.
    """
    order = torch.randperm(samples.samples, generator=torch.Generator().manual_seed(how.seed))
    held = max(1, round(how.hold_out * samples.samples))
    if not program.dynamic_batch:
        held = max(program.batch, held - held % program.batch)
        if samples.samples - held < program.batch:
            raise InputError(
                f"the network has a fixed batch of {program.batch} and the calibration data has "
                f"{samples.samples} samples; tuning holds a batch out, so give at least two"
            )
    return samples.those(order[held:]), samples.those(order[:held])


def _with(changed: Changed, tensors: Mapping[str, Tensor]) -> Valued:
    program = replace(changed.program, tensors={**changed.program.tensors, **tensors})
    return Valued(changed.dense, program, changed)

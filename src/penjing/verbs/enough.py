"""Whether calibration data fills the Gram matrices that are made of it."""

from __future__ import annotations

import math

from penjing.graph.capture import Program, concrete_shape
from penjing.recovery.reconstruct import Reconstruct
from penjing.statistics.grams import layers
from penjing.task import Calibration


def needed_data(judge: object) -> str:
    """What to pass to a strategy that has no data: an importance with a loss reads labels too.

    Args:
        judge: An importance, or another strategy.

    Returns:
        The words behind "needs data; ".
    """
    inner = getattr(judge, "saliency", judge)
    labelled = getattr(inner, "statistic", "") == "information"
    if labelled or getattr(inner, "loss", None) is not None:
        return "pass calibration=batches of (inputs, labels)"
    return "pass calibration=batches (unlabelled inputs are enough)"


def too_few_samples(program: Program, calibration: Calibration) -> str:
    """What to say where a Gram matrix has fewer rows than unknowns; empty where none has.

    Such a layer is judged and solved all the same: damping decides what the data leave open.

    Args:
        program: The network.
        calibration: Unlabelled samples.

    Returns:
        One sentence with the layers and the samples that all of them need at least.
    """
    needed: dict[str, int] = {}
    for node, layer in layers(program)[0].items():
        groups, outputs, unknowns = layer.matrix(program.tensors[layer.weight]).shape
        if unknowns > Reconstruct().largest:
            continue  # it has none: its moments are matched
        elements = math.prod(concrete_shape(program.nodes[node].meta["val"]))
        rows = elements / (groups * outputs * program.batch)  # of one sample
        if rows * calibration.samples < unknowns:
            needed[layer.weight.removesuffix(".weight")] = math.ceil(unknowns / rows)
    if not needed:
        return ""
    names = list(needed)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    count = calibration.samples
    return (
        f"calibration has {count} sample{'s'[: count != 1]}, too few for the Gram matrices of "
        f"{shown}, which have more unknowns than rows; give at least {max(needed.values())}, "
        "better several times as many"
    )

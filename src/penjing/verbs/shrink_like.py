"""`shrink_like`: the smaller network of the same make, which every pruned one must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import nn

from penjing.errors import InputError, StrategyError
from penjing.graph.capture import Example
from penjing.plan import BITS, WEIGHTS
from penjing.pruning.selection import Key
from penjing.task.randomness import random_kept
from penjing.verbs.arguments import arguments_checked
from penjing.verbs.prune import Pruned, prune

Weights = Literal["selected", "fresh"]


@arguments_checked
def shrink_like(  # noqa: PLR0913 - the names of `prune`
    model: nn.Module,
    example_inputs: Example,
    *,
    pruning_ratio: float | None = None,
    constraints: Mapping[str, float | str] | None = None,
    weights: Weights = "selected",
    round_to: int | None = None,
    ignored_layers: Iterable[Key] | Key = (),
    scope: Iterable[str] = ("inner", "residual"),
    seed: int = 0,
) -> Pruned:
    """Make the student that anybody would make first: the same network, narrower or shallower.

    Every width shrinks by the same share, or evenly spaced layers go. No data is looked at and no
    unit is judged; train it with `finetune` or `distill` under the minutes that a pruned network
    gets, and compare.

    Args:
        model: The parent. Left alone.
        example_inputs: A tensor, a tuple (positional) or a dict (keywords).
        pruning_ratio: Share of the units of every group that go, or of the layers, 0 <= x < 1.
        constraints: Upper bounds instead, as for `prune`: {"macs": "50%"} makes it of equal cost.
        weights: "selected" begins with evenly spaced units of the parent, "fresh" with every
            layer's own initialisation.
        round_to: Widths are rounded up to a multiple of this.
        ignored_layers: Modules, names, globs or types that keep their width.
        scope: What shrinks, as for `prune`: by default widths alone. "layers" removes evenly
            spaced layers, "depth" residual branches: instead, or beside widths by the same share.
        seed: Of the fresh weights.

    Returns:
        The student as `prune` gives it: `.model`, `.plan`, `.report`.

    Raises:
        InputError: Bad example inputs, or "fresh" for a network with parameters that no layer can
            initialise.
        StrategyError: Nothing in `scope` can shrink, or it holds zeros or bits.
        BudgetError: A ratio or constraint that makes no sense, or that none can meet.
        CaptureError: The network does not export.

    Source:
        Xu et al. 2024, arXiv:2311.18823 (a smaller network from a larger one's weights).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> shrink_like(net, torch.ones(1, 4), pruning_ratio=0.75).model[0].out_features
        2
    """
    if weights not in get_args(Weights):
        raise InputError(f"weights is {weights!r}; it is one of {', '.join(get_args(Weights))}")
    scope = frozenset({scope} if isinstance(scope, str) else scope)
    if weighed := sorted(scope & {WEIGHTS, BITS}):
        raise StrategyError(
            f"scope holds {weighed[0]!r}, and shrink_like looks at no data, by which zeros and "
            "bits are weighed: leave it out, or use penjing.prune with calibration=batches"
        )
    student = prune(
        model,
        example_inputs,
        pruning_ratio=pruning_ratio,
        constraints=constraints,
        importance="even",
        allocation="uniform",
        repair=None,
        round_to=round_to,
        ignored_layers=ignored_layers,
        scope=scope,
        seed=seed,
    )
    if weights == "fresh":
        with random_kept():
            torch.manual_seed(seed)
            _initialise(student.model)
    return student


def _initialise(model: nn.Module) -> None:
    """Every layer's own initialisation, all checked before the first is touched.

    Raises:
        InputError: A module holds parameters and cannot initialise them.
    """
    layers = {n: m for n, m in model.named_modules() if any(True for _ in m.parameters(False))}
    unable = [n or type(m).__name__ for n, m in layers.items() if not _resets(m)]
    if unable:
        raise InputError(
            f"{unable[0]} ({type(layers.get(unable[0], model)).__name__}) holds parameters and has "
            "no reset_parameters(); give it one, or take weights='selected'"
        )
    for layer in layers.values():
        layer.reset_parameters()


def _resets(module: nn.Module) -> bool:
    return callable(getattr(module, "reset_parameters", None))

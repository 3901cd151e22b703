"""What an optimizer remembers is cut with the weights it remembers it of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import InputError, StrategyError
from penjing.plan import Group, Groups, Plan

Kept = dict[int, Tensor]
"""Dimension -> positions that stay."""


def cut_moments(
    optimizer: Optimizer,
    before: nn.Module | Mapping[str, nn.Parameter],
    after: nn.Module,
    groups: Groups | Sequence[Group],
    plan: Plan,
) -> None:
    """Let an optimizer go on with a pruned network, in place; checked before the first write.

    Parameters that are gone leave it. New ones join its first group and begin without memory.

    Args:
        optimizer: Of `before`; schedulers that hold it keep it.
        before: The network that was pruned, which is not changed. With `prune(inplace=True)` that
            one is gone: give `dict(model.named_parameters())`, taken before.
        after: The pruned network, `Pruned.model`.
        groups: Of `penjing.find_groups(before, ...)`.
        plan: What was removed, `Pruned.plan`.

    Raises:
        InputError: The optimizer is not of `before`, or the plan does not lead to `after`.
        StrategyError: Its memory is not of the shape of the weights and cannot be cut.
    """
    held = before.named_parameters() if isinstance(before, nn.Module) else before.items()
    names = {parameter: name for name, parameter in held}
    new = dict(after.named_parameters())
    kept = _kept(names, groups, plan)
    told: list[list[nn.Parameter]] = []
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        told.append([])
        for parameter in group["params"]:
            name = _known(parameter, names)
            if name in new:
                told[-1].append(new[name])
                memory = optimizer.state.get(parameter, {})
                state[new[name]] = _cut(name, memory, parameter, new[name], kept[name])
    known = {parameter for parameters in told for parameter in parameters}
    old = set(names.values())  # one that it was not given before is not given to it now
    told[0] += [p for n, p in new.items() if n not in old and p.requires_grad and p not in known]
    for group, parameters in zip(optimizer.param_groups, told, strict=True):
        group["params"] = parameters
    optimizer.state = defaultdict(dict, {p: memory for p, memory in state.items() if memory})


def _kept(
    names: dict[nn.Parameter, str], groups: Groups | Sequence[Group], plan: Plan
) -> dict[str, Kept]:
    """Positions that stay, of every parameter that is cut."""
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in groups:
        for unit in plan.drop.get(group.name, ()):
            for piece in group.slices:
                gone[piece.tensor, piece.dim].update(piece.positions(unit))
    kept: dict[str, Kept] = defaultdict(dict)
    shapes = {name: parameter.shape for parameter, name in names.items()}
    for (name, dim), positions in gone.items():
        if name in shapes:
            stay = [p for p in range(shapes[name][dim]) if p not in positions]
            kept[name][dim] = torch.tensor(stay, dtype=torch.long)
    return kept


def _known(parameter: nn.Parameter, names: dict[nn.Parameter, str]) -> str:
    if parameter not in names:
        raise InputError(
            f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that the network "
            "before the cut does not have; give the network that the optimizer was made for, and "
            "after a cut in place its parameters by name, taken before"
        )
    return names[parameter]


def _cut(
    name: str, memory: dict[str, Any], old: nn.Parameter, new: nn.Parameter, kept: Kept
) -> dict[str, Any]:
    """The memory of one parameter, cut as it was."""
    cut: dict[str, Any] = {}
    for what, value in memory.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            cut[what] = value
            continue
        if value.shape != old.shape and kept:
            raise StrategyError(
                f"{what!r} of {name!r} has shape {tuple(value.shape)}, the weight "
                f"{tuple(old.shape)}: it cannot be cut along; make a new optimizer"
            )
        for dim, positions in kept.items():
            value = value.index_select(dim, positions.to(value.device))
        if value.shape != new.shape:
            raise InputError(
                f"the plan leaves {tuple(value.shape)} of {name!r}, the pruned network has "
                f"{tuple(new.shape)}; give the groups and the plan that it was pruned with"
            )
        cut[what] = value.clone()
    return cut

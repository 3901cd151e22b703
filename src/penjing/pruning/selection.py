"""Which layers a person means: by module, name, glob or type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from penjing.errors import InputError, StrategyError
from penjing.plan import Group

Key = nn.Module | str | type
"""A module of the network, its qualified name, a glob over names, or a type of module.

Where groups are meant, "kind:heads" is every group of that kind as well.
"""

KIND = "kind:"  # no qualified name has a colon

OUTPUTS_SECOND = (_ConvTransposeNd, nn.Embedding)
"""Layers whose weight has the outputs in dimension 1."""


def layers_of(group: Group) -> list[str]:
    """Qualified names of the layers (or bare tensors) that a group cuts, each once.

    Example:
        >>> from penjing.plan import Slice
        >>> layers_of(Group("fc", 2, (Slice("fc.weight", 0), Slice("fc.bias", 0))))
        ['fc']
    """
    return list(dict.fromkeys(s.tensor.rpartition(".")[0] or s.tensor for s in group.slices))


def makers_of(model: nn.Module, group: Group) -> list[str]:
    """Layers whose outputs the units are: the group cuts the output dimension of their weight."""
    modules = dict(model.named_modules())
    weights = [
        (s.tensor.rpartition(".")[0], s.dim) for s in group.slices if s.tensor.endswith("weight")
    ]
    made = [
        name
        for name, dim in weights
        if dim == (1 if isinstance(modules.get(name), OUTPUTS_SECOND) else 0)
    ]
    return list(dict.fromkeys([group.name.partition("#")[0], *made]))


def matches(model: nn.Module, key: Key) -> set[str]:
    """Names of the modules that a key means, and of everything inside them.

    Args:
        model: The network.
        key: A module of the network, a name, a glob or a type.

    Returns:
        Qualified names.

    Raises:
        StrategyError: The key means no module of the network.
    """
    named = model.named_modules(remove_duplicate=False)  # a shared module has several names
    names = {name: module for name, module in named if name}
    if isinstance(key, str):
        tensors = [n for n, _ in model.named_parameters(remove_duplicate=False)]
        roots = [n for n in [*names, *tensors] if n == key or fnmatchcase(n, key)]
    elif isinstance(key, type):
        roots = [n for n, m in names.items() if isinstance(m, key)]
    else:
        roots = [n for n, m in names.items() if m is key]
    if not roots:
        shown = key if isinstance(key, (str, type)) else type(key).__name__
        some = ", ".join(list(names)[:8])
        raise StrategyError(
            f"{shown!r} matches no layer of the network; layers are called {some}, ..."
        )
    meant = {id(names[r]) for r in roots if r in names}
    roots += [n for n, m in names.items() if id(m) in meant]
    return {n for n in [*names, *roots] for r in roots if n == r or n.startswith(f"{r}.")}


def several(keys: Iterable[Key] | Key) -> tuple[Key, ...]:
    """One key or several, as several.

    Raises:
        InputError: It is neither.
    """
    if isinstance(keys, (str, type, nn.Module)):
        return (keys,)
    if not isinstance(keys, Iterable):
        raise InputError(
            f"ignored_layers is {keys!r}; give layers as modules, names, globs or types, "
            "one or a list of them"
        )
    return tuple(keys)


def is_kind(key: object) -> TypeGuard[str]:
    """Whether a key means a kind of units, and not a layer."""
    return isinstance(key, str) and key.startswith(KIND)


def of_kind(groups: Iterable[Group], key: str) -> set[str]:
    """Names of the groups of one kind.

    Args:
        groups: Groups of a network.
        key: "kind:heads" and the like.

    Raises:
        StrategyError: No such kind is there.
    """
    groups = list(groups)
    kind = key.removeprefix(KIND)
    found = {g.name for g in groups if g.kind == kind}
    if not found:
        there = ", ".join(sorted({f"{KIND}{g.kind}" for g in groups})) or "none"
        raise StrategyError(f"no group that may be cut here is of {key!r}; kinds are {there}")
    return found


def kept_whole(model: nn.Module, ignored_layers: Iterable[Key]) -> frozenset[str]:
    """Names of the layers and tensors that ignored layers mean; kinds of units mean none.

    Args:
        model: The network.
        ignored_layers: Layers to leave exactly as they are.
    """
    layers = (key for key in ignored_layers if not is_kind(key))
    return frozenset(name for key in layers for name in matches(model, key))


def ignored_groups(
    model: nn.Module, groups: Iterable[Group], ignored_layers: Iterable[Key]
) -> set[str]:
    """Groups that would change an ignored layer in any way, at its outputs or at its inputs.

    Args:
        model: The network.
        groups: Its groups.
        ignored_layers: Layers to leave exactly as they are.

    Returns:
        Names of the groups to leave alone.
    """
    groups = list(groups)
    untouched: set[str] = set()
    ignored: set[str] = set()
    for key in ignored_layers:
        if is_kind(key):
            ignored |= of_kind(groups, key)
        else:
            untouched |= matches(model, key)
    touching = {
        g.name for g in groups if untouched & {*layers_of(g), *(s.tensor for s in g.slices)}
    }
    return ignored | touching


def ratios_by_group(
    model: nn.Module, groups: Iterable[Group], ratios: Mapping[Any, float]
) -> dict[str, float]:
    """Ratios of layers as ratios of the groups that they make; the first matching key counts.

    Args:
        model: The network.
        groups: Its groups.
        ratios: Share of units to drop, by module, name, glob, type or "kind:...".

    Returns:
        Group name -> share of units to drop.

    Raises:
        StrategyError: A key matches no layer, or only layers whose units cannot be cut.
    """
    groups = list(groups)
    found: dict[str, float] = {}
    for key, ratio in ratios.items():
        if is_kind(key):
            made = sorted(of_kind(groups, key))
        else:
            names = matches(model, key)
            made = [g.name for g in groups if names & set(makers_of(model, g))]
        if not made:
            raise StrategyError(
                f"pruning_ratio_dict[{key!r}] matches only layers whose outputs are not cut here; "
                "penjing.find_groups tells what locks them"
            )
        for name in made:
            found.setdefault(name, ratio)
    return found

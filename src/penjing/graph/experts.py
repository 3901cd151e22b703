"""How `transformers` runs stacked experts while a network is captured and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from penjing.task.randomness import evaluating

SETTING = "_experts_implementation_internal"
"""Where a configuration of transformers 5 keeps how experts are run."""

BATCHED = "batched_mm"
"""Every token takes the weights of its experts along: the one way of all that exports to ATen ops
and runs in float64. A loop over the experts depends on the data, and torch's grouped product knows
no float64; all of them compute the same."""


ROUNDING = 1e-3  # absolute and relative: products in another order, in float32 or narrower


@contextmanager
def batched_experts(model: nn.Module) -> Iterator[None]:
    """Let stacked experts of `transformers` run as batched products inside; nothing else changes.

    Args:
        model: Any network; one without such experts is not touched.
    """
    configs = _configs(model)
    before = [getattr(config, SETTING) for config in configs]
    try:
        for config in configs:
            setattr(config, SETTING, BATCHED)
        yield
    finally:
        for config, setting in zip(configs, before, strict=True):
            setattr(config, SETTING, setting)


def settle_experts(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    counts: Mapping[str, tuple[int, int]],
) -> None:
    """Let a cut network run its stacked experts in its own way; batched where it cannot, in place.

    Run as batched products, a network does not read how many experts there are, so that the
    integer which says it is found here: the one with which the other way gives the same outputs.
    torch's grouped product takes rows of whole 16 bytes alone, which a cut need not leave.

    Args:
        model: A cut network that computes what it should as batched products.
        args: Positional example inputs.
        kwargs: Example inputs by name.
        counts: Modules that hold stacked experts, with their number before and after the cut.
    """
    configs = [c for c in _configs(model) if getattr(c, SETTING) not in (None, BATCHED)]
    if not configs:
        return
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        with batched_experts(model):
            want = _outputs(model, args, kwargs)
        candidates = list(_candidates(model, counts))
        if len(candidates) != 1 and _alike(model, args, kwargs, want):
            return  # runs as it is, and nothing would tell the right one
        for attributes in candidates:
            for module, attribute, (_, after) in attributes:
                setattr(module, attribute, after)
            if _alike(model, args, kwargs, want):
                return
            for module, attribute, (before, _) in attributes:
                setattr(module, attribute, before)
        if not _alike(model, args, kwargs, want):
            for config in configs:
                setattr(config, SETTING, BATCHED)


_Attribute = tuple[nn.Module, str, tuple[int, int]]


def _candidates(
    model: nn.Module, counts: Mapping[str, tuple[int, int]]
) -> Iterator[list[_Attribute]]:
    """Integers that may say how many experts there are: of one name, in every module with some."""
    names: dict[str, list[_Attribute]] = {}
    for holder, count in counts.items():
        module = model.get_submodule(holder)
        for attribute, value in vars(module).items():
            if type(value) is int and value == count[0]:
                names.setdefault(attribute, []).append((module, attribute, count))
    yield from names.values()


def _alike(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], want: list[Tensor]
) -> bool:
    """Whether a network runs, and gives the outputs that it should up to rounding."""
    try:
        got = _outputs(model, args, kwargs)
    except (RuntimeError, IndexError):
        return False
    return all(torch.allclose(g, w, ROUNDING, ROUNDING) for g, w in zip(got, want, strict=True))


def _outputs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def run_anew(model: nn.Module, cut: nn.Module) -> bool:
    """Whether the experts of a cut network are run in another way than the original's."""
    return way_of(cut) == {BATCHED} != way_of(model)


def way_of(model: nn.Module) -> set[str]:
    """How stacked experts of a network are run; empty where none are."""
    return {str(getattr(config, SETTING)) for config in _configs(model)}


def _configs(model: nn.Module) -> list[Any]:
    """Every configuration of the network that says how experts are run, each once."""
    held = [getattr(module, "config", None) for module in model.modules()]
    return list({id(c): c for c in held if SETTING in getattr(c, "__dict__", ())}.values())

"""An oracle of its own: what a pruner kept, read off the values, and the masked original.

The zoo's tensors hold no value twice, so the values of a pruned tensor tell which positions of the
original stayed. Neither pruner is asked. Some values of a tensor may be multiplied by one number:
queries are, where the forward derives the scale of the scores from the dimensions that are left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from networks import stored

DOUBLE, SINGLE = 1e-9, 1e-4  # relative, of a network whose weights are float64
FEW = 8  # values that rule out a wrong factor
ROUNDING = 1e-13  # relative, of one multiplication in float64
INPUTS = 3  # random inputs that outputs are compared on, beside the example


class Changed(Exception):
    """A pruned tensor is no selection of rows and columns of the original."""


def survivors(original: Tensor, pruned: Tensor) -> list[np.ndarray]:
    """Kept positions along every dimension.

    Raises:
        Changed: A value is not the original's, or the kept ones are no product of positions.
    """
    values = original.detach().numpy().reshape(-1)
    wanted = pruned.detach().numpy().reshape(-1)
    found = _positions(values, wanted)
    off = values[found] != wanted
    if off.any():
        found[off] = _positions(values, wanted[off] / _factor(values, wanted[off]))
    places = np.unravel_index(found, original.shape)
    kept = [np.unique(place) for place in places]
    if [len(k) for k in kept] != list(pruned.shape):
        raise Changed("is no product of kept rows and columns")
    return kept


def _positions(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where among some values the nearest to each wanted one is."""
    order = np.argsort(values, kind="stable")
    rising = values[order]
    above = np.clip(np.searchsorted(rising, wanted), 1, len(values) - 1)
    nearer = np.abs(rising[above - 1] - wanted) < np.abs(rising[above] - wanted)
    return order[above - nearer]


def _factor(values: np.ndarray, wanted: np.ndarray) -> float:
    """The number by which all of some values are multiplied.

    Raises:
        Changed: No number makes them values of the original.
    """
    first = wanted[np.argmax(np.abs(wanted))]
    for factor in first / values[values != 0]:
        few = wanted[:FEW] / factor
        if np.allclose(values[_positions(values, few)], few, rtol=ROUNDING, atol=0):
            every = wanted / factor
            if np.allclose(values[_positions(values, every)], every, rtol=ROUNDING, atol=0):
                return float(factor)
    raise Changed("holds values that the original does not")


def masked(original: nn.Module, pruned: nn.Module) -> nn.Module:
    """A copy of the original with every position zeroed that the pruned network lost.

    Raises:
        Changed: A tensor is no selection of the original's.
    """
    small = dict(stored(pruned))
    twin = copy.deepcopy(original)
    with torch.no_grad():
        for name, tensor in stored(twin):
            if name not in small or small[name].shape == tensor.shape:
                continue
            try:
                kept = survivors(tensor, small[name])
            except Changed as error:
                raise Changed(f"{name} {error}") from error
            for axis, positions in enumerate(kept):
                gone = np.setdiff1d(np.arange(tensor.shape[axis]), positions)
                tensor.index_fill_(axis, torch.from_numpy(gone), 0.0)
    return twin


def call(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Flat output tensors of a network in eval mode."""
    model.eval()
    with torch.no_grad():
        if isinstance(inputs, dict):
            made = model(**inputs)
        else:
            made = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    if isinstance(made, Mapping):  # the hub's outputs are ordered dicts that pytree may not know
        made = dict(made)
    return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]


class _Casts(TorchDispatchMode):
    """Notices arithmetic that a double precision network does in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.single = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        leaves = [x for x in pytree.tree_leaves(made) if isinstance(x, Tensor)]
        self.single |= any(x.dtype == torch.float32 for x in leaves)
        return made


def tolerance(model: nn.Module, example: Any) -> float:
    """Relative difference that rounding explains: larger where an op casts to float32."""
    with _Casts() as casts:
        call(model, example)
    return SINGLE if casts.single else DOUBLE


def difference(left: nn.Module, right: nn.Module, example: Any) -> float:
    """Largest relative difference of any output on the example and on random inputs."""
    generator = torch.Generator().manual_seed(1)

    def noise(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=value.dtype)

    worst = 0.0
    for inputs in [example, *(pytree.tree_map(noise, example) for _ in range(INPUTS))]:
        for got, want in zip(call(left, inputs), call(right, inputs), strict=True):
            if got.shape != want.shape:
                return math.inf
            scale = float(want.abs().max().clamp_min(1e-30))
            worst = max(worst, float((got - want).abs().max()) / scale)
    return worst

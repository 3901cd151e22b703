"""Exit heads: small classifiers on the features of an inner layer.

Suffixes: B = batch, C = channels, T = tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn

from penjing.errors import InputError, StrategyError
from penjing.graph.call import op_name

Layout = Literal["maps", "tokens", "vectors"]
Kind = Literal["auto", "linear", "conv", "deep"]
Head = Kind | Callable[[Tensor, int], nn.Module]
"""A name, or a function of an example of the features and the number of outputs."""

FEW_POSITIONS = 64
"""Positions, 8 x 8 say, on which the last convolution of a "deep" head costs little."""

_CHANNELS_FIRST = {"batch_norm", "group_norm", "instance_norm"}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def layout_of(node: fx.Node) -> Layout:
    """How features are laid out: maps `BC...`, tokens `BTC` or vectors `BC`.

    Sequences are maps where a convolution, a pooling or a norm over dimension 1 is near, before or
    behind, and tokens otherwise.
    """
    rank = node.meta["val"].dim()
    if rank == 2:
        return "vectors"
    if rank > 3:
        return "maps"
    for near in (node, *node.users, *node.all_input_nodes):
        name = op_name(near)
        if name.startswith("conv") or "pool" in name or name in _CHANNELS_FIRST:
            return "maps"
    return "tokens"


def make_head(kind: Head, feature: Tensor, layout: Layout, outputs: int) -> nn.Module:
    """A freshly initialised head.

    Args:
        kind: "linear" averages positions and classifies; "conv" puts a strided 3-wide convolution
            to twice the channels, a norm and a ReLU before that; "deep" as many of these as leave
            at most 64 positions, and one more that keeps its size; "auto" is "conv" on maps and
            "linear" elsewhere; a function makes its own.
        feature: Example of what it reads.
        layout: Of the feature.
        outputs: Class scores to give.

    Raises:
        StrategyError: An unknown kind, or "conv" or "deep" where there are no maps.
        InputError: A head of the user's that gives other outputs.
    """
    if callable(kind):
        made = kind(feature, outputs)
        _check(made, feature, outputs)
        return made
    if kind not in get_args(Kind):
        known = ", ".join(get_args(Kind))
        raise StrategyError(f"unknown head {kind!r}; known are {known}, or a function")
    if kind == "auto":
        kind = "conv" if layout == "maps" else "linear"
    if kind in {"conv", "deep"} and layout != "maps":
        raise StrategyError(
            f"head {kind!r} needs maps, and the features are {layout}; take 'linear'"
        )
    if layout == "maps":
        return _on_maps(kind, feature, outputs)
    channels = feature.shape[-1]
    if layout == "tokens":
        return nn.Sequential(nn.LayerNorm(channels), MeanOver(1), nn.Linear(channels, outputs))
    return nn.Linear(channels, outputs)


def _on_maps(kind: Head, feature: Tensor, outputs: int) -> nn.Module:
    channels, sizes = feature.shape[1], list(feature.shape[2:])
    strides = {"conv": 1, "deep": _strides(sizes)}.get(str(kind), 0)
    before: list[nn.Module] = []
    for _ in range(strides):
        before += _convolved(channels, 2 * channels, len(sizes), stride=2)
        channels *= 2
    if kind == "deep":
        before += _convolved(channels, channels, len(sizes), stride=1)
    positions = tuple(range(2, feature.dim()))
    return nn.Sequential(*before, MeanOver(*positions), nn.Linear(channels, outputs))


def _convolved(channels: int, wide: int, space: int, *, stride: int) -> list[nn.Module]:
    convolution = _CONVOLUTIONS[space](channels, wide, 3, stride, 1, bias=False)
    return [convolution, _NORMS[space](wide), nn.ReLU()]


def _strides(sizes: Sequence[int]) -> int:
    """Halvings of maps until few positions are left."""
    count = 0
    while prod(sizes) > FEW_POSITIONS:
        sizes = [(size + 1) // 2 for size in sizes]
        count += 1
    return count


class MeanOver(nn.Module):
    """The mean over some dimensions.

    Args:
        dims: Which.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """The mean.

        Args:
            x: Of any shape that has the dimensions.

        Returns:
            A tensor without them.
        """
        return x.mean(self.dims)


def _check(head: object, feature: Tensor, outputs: int) -> None:
    """Refuse other outputs than the network's; the head moves to the features, in place."""
    if not isinstance(head, nn.Module):
        raise InputError(f"head gave a {type(head).__name__}; it must return a module")
    head.to(feature.device, feature.dtype)
    was = head.training
    with torch.no_grad():
        given = head.eval()(feature)
    head.train(was)
    wanted = (len(feature), outputs)
    if not isinstance(given, Tensor) or tuple(given.shape) != wanted:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(
            f"the head for features of shape {tuple(feature.shape)} gives {shape}; "
            f"the network gives {wanted}"
        )
